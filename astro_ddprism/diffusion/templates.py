r"""First images of a source that sits at the centre of its cutouts: symmetric parts of the light.

Expectation maximization decides slowly between priors that explain the same light. A neighbour that
half of the first draws leave in the galaxy is given up as :math:`1/2, 1/3, 1/4, \dots` of it, one
EM iteration after the other: so the first images should hold too little rather than too much.

A galaxy looks much the same turned by half a turn about its centre, and its neighbours do not. In
the spirit of the deblenders of the Sloan survey [1]_ and of scarlet [2]_, light that is
significantly brighter than its opposite is replaced by it, with the smoothed image :math:`G x` and
its opposite :math:`G x'`,

.. math:: x \leftarrow (1 - w) x + w x', \qquad
          w = \mathrm{clip}\Big( \tfrac{1}{2} (G x - G x' - 2) - \tfrac{1}{4} \ell, 0, 1 \Big) ,

in units of the noise, :math:`\ell` being what both have in common. That is the core. Further out
the template is a profile: the median in elliptical rings, of the shape that the core's adaptive
moments [3]_ have, in which what is left of a neighbour counts for little. The profile is made to
fall outwards, and weighted by :math:`p^2 / (p^2 + \sigma_p^2)` where it is lost
in its own noise. At last the image is made monotonic: no pixel is brighter than the brightest of
those beside it that are closer to the centre. Images with much light in or beside their core that
the template does not explain, or which stand out of the noise too little, are left out.

References
----------
.. [1] Lupton 2005, SDSS image processing: the deblender (symmetric templates)
.. [2] Melchior et al. 2018, arXiv:1802.10157 (symmetry and monotonicity of galaxies)
.. [3] Bernstein & Jarvis 2002, arXiv:astro-ph/0107431 (adaptive moments)
"""

__all__ = ["symmetric_templates"]

import math

import torch
from torch import Tensor, nn

# Width of the smoothing and radius of the core, in pixels; where the profile takes over from it.
SMOOTHING, CORE, BLEND = 1.0, 3.0, (2.0, 4.0)
# Difference of opposite light that is a galaxy's own, as a part of what both have in common.
ASYMMETRY = 0.5
# Noise of a pixel of the draws, in units of the observation's, and least noise of a profile.
DRAW_NOISE, LEAST_NOISE = 0.6, 0.05
# Least peak, in units of the noise; largest unexplained light in and beside the core, against it.
LEAST_PEAK, MOST_INSIDE, MOST_BESIDE = 1.5, 0.3, 1.0
# Axes of ellipses, in pixels: smallest and largest; iterations that find them.
AXES, N_MOMENTS = (1.0, 5.0), 8


def symmetric_templates(light: Tensor) -> Tensor:
    """Symmetric central parts of images.

    Parameters
    ----------
    light : torch.Tensor
        All light of observations, of shape ``(N, bands, ny, nx)``, in units of the noise.

    Returns
    -------
    torch.Tensor
        Those of the observations whose light is mostly symmetric, of shape ``(n, bands, ny, nx)``.
    """
    opposite, centre = _opposite(light)
    common = torch.minimum(light.abs(), opposite.abs())
    common = torch.maximum(_smooth(common, SMOOTHING), _smooth(common, 2 * SMOOTHING))
    excess = _smooth(light - opposite, SMOOTHING) - 2 - ASYMMETRY * common
    symmetric = light + (excess / 2).clip(0, 1) * (opposite - light)
    both = torch.minimum(light, opposite).sum(dim=1)
    ellipse = _elliptical_radius(both, centre)[:, None].expand_as(light)
    outer = _profile(torch.minimum(symmetric, opposite + 1), ellipse)
    t = ((ellipse - BLEND[0]) / (BLEND[1] - BLEND[0])).clip(0, 1)
    radius = _radius(light)
    template = _monotonic(symmetric + t * (outer - symmetric), radius)

    # Band by band: one that is contaminated spoils the image, one of nothing but noise does not.
    peak = torch.where(ellipse < CORE, symmetric, -torch.inf).amax(dim=(-2, -1))
    left = _smooth(light - template, SMOOTHING)
    inside = torch.where(ellipse < BLEND[1], left, -torch.inf).amax(dim=(-2, -1))
    beside = torch.where(radius < min(light.shape[-2:]) / 2, left, -torch.inf).amax(dim=(-2, -1))
    limit = peak.clip(min=LEAST_PEAK)
    clean = (inside < MOST_INSIDE * limit + 1) & (beside < MOST_BESIDE * limit)
    return template[clean.all(dim=1) & (peak > LEAST_PEAK).any(dim=1)]


def _elliptical_radius(images: Tensor, centre: Tensor) -> Tensor:
    """Radius in pixels of the circle that is as large as the ellipse through a pixel, by moments.

    The moments of an elliptical Gaussian under a window of its own shape are half of its own.
    """
    y, x = (torch.arange(n, device=images.device, dtype=images.dtype) for n in images.shape[-2:])
    dy = y[:, None] - centre[:, 0, None, None]
    dx = x - centre[:, 1, None, None]
    offset = torch.stack(torch.broadcast_tensors(dy, dx), dim=-1)  # (N, ny, nx, 2)
    shape = 4 * torch.eye(2).to(images).expand(len(images), 2, 2)
    for _ in range(N_MOMENTS):
        distance2 = torch.einsum("nyxi,nij,nyxj->nyx", offset, shape.inverse(), offset)
        weight = torch.exp(-0.5 * distance2) * images.clip(min=0)
        moments = torch.einsum("nyx,nyxi,nyxj->nij", weight, offset, offset)
        moments = 2 * moments / weight.sum(dim=(1, 2)).clip(min=1e-6)[:, None, None]
        axes2, directions = torch.linalg.eigh(moments)
        axes2 = axes2.clip(AXES[0] ** 2, AXES[1] ** 2)
        shape = (directions * axes2[:, None]) @ directions.mT
    distance2 = torch.einsum("nyxi,nij,nyxj->nyx", offset, shape.inverse(), offset)
    return distance2.sqrt() * shape.det().pow(0.25)[:, None, None]


def _profile(light: Tensor, radius: Tensor) -> Tensor:
    """Images of the median light in rings, falling outwards."""
    n_rings = int(min(light.shape[-2:]) / 2)
    levels, known = [], torch.full(light.shape[:2], torch.inf).to(light)
    for k in range(n_rings):
        ring = (radius >= k) & (radius < k + 1 if k < n_rings - 1 else radius < torch.inf)
        level = torch.where(ring, light, torch.nan).flatten(2).nanmedian(dim=-1).values
        # Where an image has no pixel in a ring, as in the middle, the light is that further in.
        known = torch.minimum(level.nan_to_num(nan=torch.inf), known).clip(min=0)
        noise = 1.25 * DRAW_NOISE * ring.flatten(2).sum(dim=-1).clip(min=1).rsqrt()
        noise = noise.clip(min=LEAST_NOISE)
        levels.append(known.nan_to_num(posinf=0.0) * known**2 / (known**2 + noise**2))
    levels = torch.stack(levels, dim=-1).nan_to_num()
    place = (radius.flatten(2) - 0.5).clip(0, n_rings - 1)
    low = place.long().clip(max=n_rings - 2)
    inner, outer = levels.gather(-1, low), levels.gather(-1, low + 1)
    return (inner + (place - low) * (outer - inner)).view_as(light)


def _opposite(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images turned by half a turn, each about the point by which its core is most symmetric.

    The points, (y, x) in pixels, too.

    Cutouts have their position somewhere in pixel ``n // 2``, frames between their middle pixels:
    the point is one of nine, half a pixel apart.
    """
    ny, nx = images.shape[-2:]
    turned, core = images.flip(-2, -1), _radius(images) < CORE
    steps = [(1 - ny % 2 + j, 1 - nx % 2 + i) for j in (-1, 0, 1) for i in (-1, 0, 1)]
    candidates = torch.stack([turned.roll(step, dims=(-2, -1)) for step in steps])
    difference = _smooth(images - candidates, SMOOTHING)[..., core]
    best = difference.square().sum(dim=(-2, -1)).argmin(dim=0)
    turned = candidates[best, torch.arange(len(images), device=images.device)]
    centres = (torch.tensor(steps).to(images) + torch.tensor([ny - 1, nx - 1]).to(images)) / 2
    return turned, centres[best]


def _monotonic(images: Tensor, radius: Tensor) -> Tensor:
    """Images that fall outwards: each pixel is at most the brightest of its inner neighbours."""
    ny, nx = radius.shape
    images, distance = images.clone(), radius.tolist()
    for k in radius.flatten().argsort().tolist():
        y, x = divmod(k, nx)
        around = [
            (j, i)
            for j in range(max(y - 1, 0), min(y + 2, ny))
            for i in range(max(x - 1, 0), min(x + 2, nx))
            if distance[j][i] < distance[y][x]
        ]
        if around:
            rows, columns = map(list, zip(*around, strict=True))
            inner = images[..., rows, columns].amax(dim=-1)
            images[..., y, x] = torch.minimum(images[..., y, x], inner)
    return images


def _radius(images: Tensor) -> Tensor:
    y, x = (torch.arange(n, device=images.device) - (n - 1) / 2 for n in images.shape[-2:])
    return torch.hypot(y[:, None], x)


def _smooth(images: Tensor, width: float) -> Tensor:
    """Convolve with a Gaussian of this standard deviation, mirrored at the edges."""
    half = math.ceil(3 * width)
    offset = torch.arange(-half, half + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offset / width) ** 2)
    kernel = kernel / kernel.sum()
    planes = images.reshape(-1, 1, *images.shape[-2:])
    planes = nn.functional.pad(planes, (half,) * 4, mode="reflect")
    planes = nn.functional.conv2d(planes, kernel.view(1, 1, -1, 1))
    return nn.functional.conv2d(planes, kernel.view(1, 1, 1, -1)).reshape(images.shape)
