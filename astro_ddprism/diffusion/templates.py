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

in units of the noise, :math:`\ell` being what both have in common. What is left is weighted by
:math:`p^2 / (p^2 + 0.3^2)`, with its profile :math:`p` of rings, made to fall outwards: beyond
where that is lost in the noise there is nothing to learn. At last it is made monotonic: no pixel is
brighter than the brightest of those beside it that are closer to the centre. Images of which much
was replaced, or which stand out of the noise too little, are left out.

References
----------
.. [1] Lupton 2005, SDSS image processing: the deblender (symmetric templates)
.. [2] Melchior et al. 2018, arXiv:1802.10157 (symmetry and monotonicity of galaxies)
"""

__all__ = ["symmetric_templates"]

import math

import torch
from torch import Tensor, nn

# Width of the smoothing, in pixels, and of the rings of the profile; radius of the core.
SMOOTHING, RING, CORE = 1.0, 1.5, 3.0
# Difference of opposite light that is a galaxy's own, as a part of what both have in common.
ASYMMETRY = 0.5
# Surface brightness, in units of the noise, at which a profile is lost.
FAINTEST = 0.3
# Least peak, in units of the noise; largest light replaced and left aside the centre, against it.
LEAST_PEAK, MOST_REPLACED, MOST_ASIDE = 1.5, 0.3, 0.35
# Total flux, in units of the noise, of images that may be wide.
BRIGHT = 400.0


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
    opposite = _opposite(light)
    common = torch.minimum(light.abs(), opposite.abs())
    common = torch.maximum(_smooth(common, SMOOTHING), _smooth(common, 2 * SMOOTHING))
    excess = _smooth(light - opposite, SMOOTHING) - 2 - ASYMMETRY * common
    weight = (excess / 2).clip(0, 1)
    symmetric = light + weight * (opposite - light)
    radius = _radius(light)
    ring = (radius / RING).long().clip(max=int(min(light.shape[-2:]) / 2 / RING))
    profile = torch.stack(
        [symmetric[..., ring == k].mean(dim=-1) for k in range(int(ring.max()) + 1)], dim=-1
    )
    profile = profile.clip(min=0).cummin(dim=-1).values
    weight = (profile**2 / (profile**2 + FAINTEST**2))[..., ring]
    template = _monotonic(symmetric * _smooth(weight, SMOOTHING), radius)

    # Band by band: one that is contaminated spoils the image, one of nothing but noise does not.
    peak = symmetric[..., radius < CORE].amax(dim=-1)
    limit = peak.clip(min=LEAST_PEAK)
    seen = peak > LEAST_PEAK
    side = min(light.shape[-2:]) / 2
    replaced = _smooth(light - symmetric, SMOOTHING)[..., radius < 0.75 * side].amax(dim=-1)
    aside = symmetric[..., (radius > side / 4) & (radius < 0.6 * side)].amax(dim=-1)
    flux = template[..., radius < 0.6 * side].sum(dim=-1)
    central = ~seen | (aside < MOST_ASIDE * limit) | (flux > BRIGHT)
    clean = central & (replaced < MOST_REPLACED * limit)
    return template[clean.all(dim=1) & seen.any(dim=1)]


def _opposite(images: Tensor) -> Tensor:
    """Images turned by half a turn, each about the point by which its core is most symmetric.

    Cutouts have their position somewhere in pixel ``n // 2``, frames between their middle pixels:
    the point is one of nine, half a pixel apart.
    """
    ny, nx = images.shape[-2:]
    turned, core = images.flip(-2, -1), _radius(images) < CORE
    steps = [(1 - ny % 2 + j, 1 - nx % 2 + i) for j in (-1, 0, 1) for i in (-1, 0, 1)]
    candidates = torch.stack([turned.roll(step, dims=(-2, -1)) for step in steps])
    difference = _smooth(images - candidates, SMOOTHING)[..., core]
    best = difference.square().sum(dim=(-2, -1)).argmin(dim=0)
    return candidates[best, torch.arange(len(images), device=images.device)]


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
