r"""Images of a source that sits at the centre of its cutouts: what is symmetric of the light.

Expectation maximization decides slowly between priors that explain the same light. A neighbour that
half of the first draws leave in the galaxy is given up as :math:`1/2, 1/3, 1/4, \dots` of it, one
EM iteration after the other: so the first images should hold too little rather than too much.

A galaxy looks much the same turned by half a turn about its centre, and its neighbours do not. In
the spirit of the deblenders of the Sloan survey [1]_ and of scarlet [2]_, light that is
significantly brighter than its opposite is replaced by it, with the smoothed image :math:`G x` and
its opposite :math:`G x'`,

.. math:: x \leftarrow (1 - w) x + w x', \qquad
          w = \mathrm{clip}\Big( \tfrac{1}{2} (G x - G x' - 2) - \tfrac{1}{4} \ell, 0, 1 \Big) ,

in units of the noise, :math:`\ell` being what both have in common. What is left is described by a
multi-Gaussian expansion [3]_: concentric elliptical Gaussians of the shape that the core's adaptive
moments [4]_ have, with widths in steps and amplitudes that are not negative, on a flat pedestal
that is no part of the galaxy. They are fitted by least squares in which pixels that are brighter
than the expansion count for less and less, as what is left of a neighbour is. So templates are
smooth, fall outwards, and hold so little noise that they may be made several times brighter.
Structure of the core beyond the expansion is added where it stands out of the noise.

The outskirts of faint galaxies, and the wings that the PSF gives them, are lost in the noise, but
they hold a part of the flux all the same. So images are fitted twice: profiles of bright galaxies,
summed over those that are about as compact, take the place of the Gaussians in the second fit of
the others. None is narrower than the PSF, and all have wings as galaxies have whose wings can be
seen.

Images with much light in or beside their core that the template does not explain, or which stand
out of the noise too little, are left out.

References
----------
.. [1] Lupton 2005, SDSS image processing: the deblender (symmetric templates)
.. [2] Melchior et al. 2018, arXiv:1802.10157 (symmetry and monotonicity of galaxies)
.. [3] Cappellari 2002, arXiv:astro-ph/0201430 (multi-Gaussian expansion)
.. [4] Bernstein & Jarvis 2002, arXiv:astro-ph/0107431 (adaptive moments)
"""

__all__ = ["symmetric_templates"]

import math

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from ..scratch import Drawn, empty_rows, release

# Width of the smoothing and radius of the core, in pixels.
SMOOTHING, CORE = 1.0, 3.0
# Difference of opposite light that is a galaxy's own, as a part of what both have in common.
ASYMMETRY = 0.5
# Widths of the expansion's Gaussians in pixels; reweightings.
WIDTHS, N_FITS = (0.8, 1.1, 1.5, 2.1, 3.0, 4.2, 6.0, 8.5), 6
# Peaks, in units of the noise, of images that are bright: more than the first, and the second if
# there are enough, which are so many.
MEASURED, BRIGHT, N_BRIGHT = 15.0, 200.0, 40
# Profiles that they show, by how compact they are.
N_PROFILES = 12
# Noise of a pixel of the draws, in units of the observation's; error of the expansion, as a part of
# it; residual, in units of both, from which on light counts for less.
DRAW_NOISE, MODEL_ERROR, LEAST_OUTLIER = 0.6, 0.1, 1.5
# Smoothed residual of the core, in units of the noise, from which on it is structure.
LEAST_STRUCTURE = 2.0
# Least peak, in units of the noise; largest unexplained light in and beside the core, against it.
LEAST_PEAK, MOST_INSIDE, MOST_BESIDE = 1.5, 0.2, 0.5
# Images at a time.
AT_A_TIME = 128
# Axes of ellipses and shifts of centres, in pixels; iterations that find them.
AXES, MOST_SHIFT, N_MOMENTS = (1.0, 5.0), 0.5, 12


def symmetric_templates(light):
    """Symmetric central parts of images.

    Parameters
    ----------
    light : torch.Tensor or `~astro_ddprism.diffusion.scratch.Drawn`
        All light of observations, of shape ``(N, bands, ny, nx)``, in units of the noise.

    Returns
    -------
    templates : torch.Tensor or Drawn
        Those of the observations whose light is mostly symmetric, of shape ``(n, bands, ny, nx)``.
    clean : torch.Tensor of bool
        Which observations these are, of shape ``(N,)``.
    """
    parts, peaks, clean = [], [], []
    for part in _parts(light):
        smooth, amplitudes = _expansions(part.images, part.radius, np.eye(len(WIDTHS)))
        parts.append(amplitudes)
        peaks.append(part.peak.cpu().numpy())
        clean.append(part.complete(smooth)[1].cpu().numpy())
    amplitudes, peaks, clean = map(np.concatenate, (parts, peaks, clean))
    known = []
    for band in range(light.shape[1]):  # each has a PSF of its own
        least = _least_bright(peaks[clean, band])
        bright = (peaks[:, band] > least) & clean
        known.append((least, _profiles(amplitudes[bright, band])))
    templates, kept, n = empty_rows(*light.shape), [], 0
    for part, own in zip(_parts(light), parts, strict=True):
        smooth = part.expanded(own)
        for band, (least, profiles) in enumerate(known):
            if len(profiles):
                faint = part.peak[:, band] <= least
                images = part.images[faint, band : band + 1]
                smooth[faint, band] = _expansions(images, part.radius[faint], profiles)[0][:, 0]
        template, is_clean = part.complete(smooth)
        kept.append((is_clean & (part.peak > LEAST_PEAK).any(dim=1)).cpu())
        found = template.cpu()[kept[-1]]
        templates[n : n + len(found)] = found
        n += len(found)
        release()
    return Drawn.of([(n, lambda index: templates[index])], light.shape[1:]), torch.cat(kept)


def _parts(light):
    for i in range(0, len(light), AT_A_TIME):
        yield _Images(light[i : i + AT_A_TIME])


class _Images:
    """Some images, and what is symmetric of them."""

    def __init__(self, light: Tensor):
        opposite, centre = _opposite(light)
        common = torch.minimum(light.abs(), opposite.abs())
        common = torch.maximum(_smooth(common, SMOOTHING), _smooth(common, 2 * SMOOTHING))
        excess = _smooth(light - opposite, SMOOTHING) - 2 - ASYMMETRY * common
        self.light = light
        self.symmetric = light + (excess / 2).clip(0, 1) * (opposite - light)
        self.radius = _elliptical_radius(torch.minimum(light, opposite).sum(dim=1), centre)
        self.ellipse = self.radius[:, None].expand_as(light)
        outside = torch.minimum(self.symmetric, opposite + 1)
        core = self.ellipse < CORE
        self.images = torch.where(core, self.symmetric, outside)
        self.peak = torch.where(core, self.symmetric, -torch.inf).amax(dim=(-2, -1))
        self.near = _radius(light) < min(light.shape[-2:]) / 2

    def expanded(self, amplitudes) -> Tensor:
        """What amplitudes of the Gaussians make of the images."""
        return _expanded(amplitudes, _radii(self.radius), self.light)

    def complete(self, smooth: Tensor) -> tuple[Tensor, Tensor]:
        """Templates, and which of them explain their images."""
        limit = self.peak.clip(min=LEAST_PEAK)
        structure = torch.where(self.ellipse < CORE, self.symmetric - smooth, 0.0)
        level = _smooth(structure, SMOOTHING).abs()
        template = smooth + (level / LEAST_STRUCTURE - 1).clip(0, 1) * structure
        # Band by band: a contaminated one spoils the image, one of nothing but noise does not.
        left = _smooth(self.light - template, SMOOTHING)
        inside = torch.where(self.ellipse < CORE + 1, left, -torch.inf).amax(dim=(-2, -1))
        beside = torch.where(self.near, left, -torch.inf).amax(dim=(-2, -1))
        clean = (inside < MOST_INSIDE * limit + 1) & (beside < MOST_BESIDE * limit)
        return template, clean.all(dim=1)


def _elliptical_radius(images: Tensor, centre: Tensor) -> Tensor:
    """Radius in pixels of the circle that is as large as the ellipse through a pixel, by moments.

    The moments of an elliptical Gaussian under a window of its own shape are half of its own.
    """
    y, x = (torch.arange(n, device=images.device, dtype=images.dtype) for n in images.shape[-2:])
    first, shape = centre, 4 * torch.eye(2).to(images).expand(len(images), 2, 2)

    def offsets():
        dy, dx = (k - c[:, None, None] for k, c in ((y[:, None], centre[:, 0]), (x, centre[:, 1])))
        offset = torch.stack(torch.broadcast_tensors(dy, dx), dim=-1)  # (N, ny, nx, 2)
        return offset, torch.einsum("nyxi,nij,nyxj->nyx", offset, shape.inverse(), offset)

    for _ in range(N_MOMENTS):
        offset, distance2 = offsets()
        weight = torch.exp(-0.5 * distance2) * images.clip(min=0)
        total = weight.sum(dim=(1, 2)).clip(min=1e-6)
        shift = 2 * torch.einsum("nyx,nyxi->ni", weight, offset) / total[:, None]
        centre = first + (centre + shift - first).clip(-MOST_SHIFT, MOST_SHIFT)
        moments = torch.einsum("nyx,nyxi,nyxj->nij", weight, offset, offset)
        axes2, directions = torch.linalg.eigh(2 * moments / total[:, None, None])
        axes2 = axes2.clip(AXES[0] ** 2, AXES[1] ** 2)
        shape = (directions * axes2[:, None]) @ directions.mT
    return offsets()[1].sqrt() * shape.det().pow(0.25)[:, None, None]


def _expansions(light: Tensor, radius: Tensor, profiles) -> tuple[Tensor, np.ndarray]:
    """Expansions of images whose ellipses have these radii, without pedestals.

    Profiles are amplitudes of Gaussians of unit flux, one a row; the expansions' amplitudes are
    those of the Gaussians, (N, bands, Gaussians).
    """
    radii, found = _radii(radius), np.empty((*light.shape[:2], len(WIDTHS)))
    for k, images in enumerate(light.flatten(2).double().cpu().numpy()):
        shapes = _gaussians(radii[k]) @ profiles.T
        for band, values in enumerate(images):
            found[k, band] = _fit(values, shapes, np.exp(-radii[k] / 2 / CORE)) @ profiles
    return _expanded(found, radii, light), found


def _radii(radius: Tensor) -> np.ndarray:
    return radius.flatten(1).double().cpu().numpy()


def _gaussians(radii) -> np.ndarray:
    """The Gaussians of the expansion at some radii, ``(pixels, Gaussians)``."""
    widths = np.array(WIDTHS)
    return np.exp(-0.5 * np.square(radii[:, np.newaxis] / widths)) / widths**2


def _expanded(amplitudes, radii, like: Tensor) -> Tensor:
    """Images of the amplitudes of Gaussians, ``(N, bands, Gaussians)``."""
    images = [own @ _gaussians(r).T for own, r in zip(amplitudes, radii, strict=True)]
    return torch.tensor(np.array(images), device=like.device, dtype=like.dtype).view_as(like)


def _fit(values, profiles, weight):
    """Amplitudes of profiles (columns) on a pedestal; the weights are where to begin from.

    All zero, so that the image is left out, where the fit finds no end.
    """
    basis = np.column_stack([np.ones(len(values)), profiles])
    for _ in range(N_FITS):
        try:
            amplitudes, _ = nnls(basis * weight[:, np.newaxis], values * weight, maxiter=1000)
        except RuntimeError:  # between sets of profiles that do as well but for rounding
            return np.zeros(profiles.shape[1])
        model = basis @ amplitudes
        error = np.hypot(DRAW_NOISE, MODEL_ERROR * model)
        outlier = ((values - model) / error / LEAST_OUTLIER).clip(min=1)
        weight = 1 / error / outlier**2
    return amplitudes[1:]


def _least_bright(peaks) -> float:
    """The peak beyond which images are bright: at least so many, unless they are not measured."""
    enough = np.sort(peaks)[-N_BRIGHT] if len(peaks) >= N_BRIGHT else MEASURED
    return float(np.clip(enough, MEASURED, BRIGHT))


def _profiles(amplitudes):
    """Sums of expansions that are about as compact, of unit flux; none of too few.

    Sums, as wings are seen of the brightest: a fainter one's own pedestal takes them.
    """
    flux = amplitudes.sum(axis=1)
    amplitudes, flux = amplitudes[flux > 0], flux[flux > 0]
    if len(amplitudes) < 2 * N_PROFILES:
        return amplitudes[:0]
    within = 1 - np.exp(-0.5 * (CORE / np.array(WIDTHS)) ** 2)  # of the flux, in the core
    groups = np.array_split(np.argsort(amplitudes @ within / flux), N_PROFILES)
    sums = np.stack([amplitudes[group].sum(axis=0) for group in groups])
    return sums / sums.sum(axis=1, keepdims=True)


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
