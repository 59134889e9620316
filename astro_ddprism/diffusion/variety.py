r"""Drawn light as other galaxies, other PSFs and other exposures would show it.

A network that is trained on simulated observations knows the conditions that these were simulated
under. One that shall serve a range of them is shown all of it: each observation is simulated at a
*depth* of its own, its noise multiplied by a factor; under a *seeing* of its own; with *masks*
(`~astro_ddprism.diffusion.masks`); and templates of galaxies take other *shapes*.

Light that was seen through a PSF of FWHM :math:`w_0` is seen through a wider one, :math:`w`, if it
is convolved once more, with a Gaussian of :math:`\sigma^2 = (w^2 - w_0^2) / (8 \ln 2)`, exact for
Gaussian PSFs. No light can be made sharper, but pixels can be made larger: sampled :math:`w_0 / w`
times as coarsely, it has the narrower width in the pixels that it has then,

.. math:: x'(p) = (w_0 / w)^2 \; x\big(c + (p - c) \, w_0 / w\big) .

Templates are turned about their centroids by any angle, made larger by elliptical Gaussians of any
direction, as galaxies that are resolved a little better, and put anywhere in the pixel of their
position; half of them keep their size, as the most compact galaxies, and stars, have the PSF's.

Images go on beyond their edges as in a mirror. All shapes are of the size of the batch, and no
number is asked of the device.
"""

__all__ = ["Variety", "centroids"]

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..registry import Part, option

# From the square of a FWHM to the variance of a Gaussian.
VARIANCE = 1 / (8 * math.log(2))
# The largest FWHM of the Gaussians that make templates larger, in pixels.
GROWTH = 2.5
# Standard deviation of the window that centroids are seen through, in pixels; iterations.
WINDOW, N_CENTROIDS = 2.0, 10


@dataclass(frozen=True)
class Variety(Part):
    """Under which conditions observations are simulated, beside those of the real ones.

    Parameters
    ----------
    depth : tuple of float
        Range of factors of the noise, evenly in the logarithm.
    seeing : tuple of float
        Range of full widths at half maximum of the PSF, in pixels, evenly in the logarithm; the
        network is told the width. Empty: that of the real ones, of which nothing is told.
    masks : float
        Part of the observations that lose pixels as real ones do, at the target too
        (`~astro_ddprism.diffusion.masks`).
    shapes : bool
        Whether templates of galaxies are turned, shifted and made larger.
    """

    depth: tuple[float, ...] = option((1.0, 1.0), above=0)
    seeing: tuple[float, ...] = option((), above=0)
    masks: float = option(0.0, least=0, most=1)
    shapes: bool = False

    def __post_init__(self):
        super().__post_init__()
        for name, lengths in (("depth", {2}), ("seeing", {0, 2})):
            found = getattr(self, name)
            if len(found) not in lengths or list(found) != sorted(found):
                raise InputError(f"Variety.{name}: found {found}, expected two numbers in order")

    @property
    def changes_light(self) -> bool:
        """Whether sources look otherwise than they were drawn."""
        return bool(self.seeing) or self.shapes

    @property
    def changes_conditions(self) -> bool:
        """Whether observations are simulated at another depth or under another seeing."""
        return self.depth != (1.0, 1.0) or bool(self.seeing)

    def conditions(self, n: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Draw factors of the noise and widths of the PSF.

        Parameters
        ----------
        n : int
            Number of observations.
        device : torch.device
            Where they are.

        Returns
        -------
        depth : torch.Tensor
            Of shape ``(n,)``.
        seeing : torch.Tensor or None
            Of shape ``(n,)``.
        """
        return (
            _evenly(self.depth, n, device),
            _evenly(self.seeing, n, device) if self.seeing else None,
        )

    def seen(self, x: Tensor, own: Tensor, seeing: Tensor, centre: Tensor | None = None) -> Tensor:
        """Images under another seeing, and templates in another shape.

        Parameters
        ----------
        x : torch.Tensor
            Images, of shape ``(B, bands, ny, nx)``.
        own, seeing : torch.Tensor or None
            Widths of the PSF that they are seen through, and shall be, in pixels, ``(B,)``.
        centre : torch.Tensor, optional
            Of templates, their centroids, (y, x) in pixels, ``(B, 2)``.

        Returns
        -------
        torch.Tensor
            Of the shape of ``x``.
        """
        reshaped = self.shapes and centre is not None
        if seeing is None and not reshaped:
            return x
        n, about = len(x), _middle(x)
        zoom, turn, blur, shift = (x.new_zeros(n, *shape) for shape in ((), (), (3,), (2,)))
        zoom = zoom + 1
        if seeing is not None:
            zoom = (own / seeing).clip(min=1.0)
            wider = VARIANCE * (seeing.square() - own.square()).clip(min=0)
            blur = torch.stack([wider, wider, torch.zeros_like(wider)], dim=1)
        if reshaped:
            turn = 2 * math.pi * torch.rand_like(zoom)
            blur = blur + _growth(n, x)
            # The centroid comes anywhere in the middle pixel, and stays there.
            about = about + torch.rand_like(shift) - 0.5
            shift = about - centre
        fine = _convolved(x, blur, shift)
        return _resampled(fine, x.shape, zoom, turn, about)


def centroids(images: Tensor) -> Tensor:
    """Centroids of what is at the middle of images, (y, x) in pixels, ``(N, 2)``.

    Parameters
    ----------
    images : torch.Tensor
        Of shape ``(N, bands, ny, nx)``; their pixel ``n // 2`` is near the centre.

    Returns
    -------
    torch.Tensor
        Weighted by a Gaussian window about themselves, and within a pixel of the middle.
    """
    light = images.sum(dim=1).clip(min=0)
    axes = [torch.arange(n, device=images.device, dtype=images.dtype) for n in light.shape[-2:]]
    centre = middle = _middle(images)
    for _ in range(N_CENTROIDS):
        dy, dx = (axis - c[:, None] for axis, c in zip(axes, centre.T, strict=True))
        weight = torch.exp(-0.5 * (dy.square()[:, :, None] + dx.square()[:, None]) / WINDOW**2)
        weight = weight * light
        total = weight.sum(dim=(1, 2)).clip(min=1e-6)
        moved = torch.stack(
            [(weight.sum(dim=2) * dy).sum(dim=1), (weight.sum(dim=1) * dx).sum(dim=1)], dim=1
        )
        # Twice: a window halves what it sees of an image about as wide as itself.
        centre = middle + (centre + 2 * moved / total[:, None] - middle).clip(-1, 1)
    return centre


def _middle(images: Tensor) -> Tensor:
    """The pixel of the position of each image, (y, x)."""
    ny, nx = images.shape[-2:]
    return torch.stack([images.new_full((len(images),), n // 2) for n in (ny, nx)], dim=1)


def _evenly(limits, n, device) -> Tensor:
    low, high = map(math.log, limits)
    return (low + (high - low) * torch.rand(n, device=device)).exp()


def _growth(n, like) -> Tensor:
    """Covariances (yy, xx, xy) of elliptical Gaussians; half of them of no width."""
    angle = math.pi * torch.rand(n, device=like.device)
    axes = VARIANCE * (GROWTH * torch.rand(n, 2, device=like.device)).square()
    axes = axes * (torch.rand(n, 1, device=like.device) < 0.5)
    mean, half = axes.mean(dim=1), (axes[:, 0] - axes[:, 1]) / 2
    stretched, skew = half * (2 * angle).cos(), half * (2 * angle).sin()
    return torch.stack([mean - stretched, mean + stretched, skew], dim=1)


def _convolved(x: Tensor, blur: Tensor, shift: Tensor) -> Tensor:
    """Images convolved with Gaussians of covariances (yy, xx, xy), and shifted by (y, x) pixels.

    In pixels half as large, with their mirrors; the first is where the first was.
    """
    ny, nx = x.shape[-2:]
    mirrored = torch.cat([x, x.flip(-1)], dim=-1)
    mirrored = torch.cat([mirrored, mirrored.flip(-2)], dim=-2)
    ky = 2 * math.pi * torch.fft.fftfreq(2 * ny, device=x.device)[:, None]
    kx = 2 * math.pi * torch.fft.rfftfreq(2 * nx, device=x.device)
    yy, xx, xy = blur.T[:, :, None, None]
    dy, dx = shift.T[:, :, None, None]
    exponent = -0.5 * (yy * ky.square() + xx * kx.square() + 2 * xy * ky * kx)
    factor = torch.polar(exponent.exp(), -(dy * ky + dx * kx))
    spectrum = torch.fft.rfft2(mirrored) * factor[:, None]
    # No more frequencies than there were: zeros between those of either sign.
    more = spectrum.new_zeros(*spectrum.shape[:-2], 2 * ny, nx + 1)
    spectrum = torch.cat([spectrum[..., :ny, :], more, spectrum[..., ny:, :]], dim=-2)
    spectrum = torch.nn.functional.pad(spectrum, (0, nx))
    return 4 * torch.fft.irfft2(spectrum, s=(4 * ny, 4 * nx))


def _resampled(fine: Tensor, shape, zoom: Tensor, turn: Tensor, about: Tensor) -> Tensor:
    """Images of a shape, in pixels ``zoom`` times as large and turned, about points (y, x).

    Of images in pixels half as large, by Keys's cubics (1981, IEEE Trans. ASSP 29, 1153; torch's
    are others, which sharpen).
    """
    ny, nx = shape[-2:]
    cos, sin, cy, cx = (v[:, None, None] for v in (zoom * turn.cos(), zoom * turn.sin(), *about.T))
    y, x = (torch.arange(n, device=fine.device, dtype=fine.dtype) for n in (ny, nx))
    dy, dx = y[:, None] - cy, x - cx
    rows, wy = _taps(2 * (cy + cos * dy + sin * dx), fine.shape[-2])
    columns, wx = _taps(2 * (cx + cos * dx - sin * dy), fine.shape[-1])
    index = (rows[:, :, None] * fine.shape[-1] + columns[:, None]).flatten(1)
    weight = (wy[:, :, None] * wx[:, None]).flatten(1, 2)  # (B, 16, ny, nx)
    planes = fine.flatten(2)
    found = planes.gather(2, index[:, None].expand(-1, planes.shape[1], -1))
    found = found.view(*planes.shape[:2], *weight.shape[1:])
    return (found * weight[:, None]).sum(dim=2) * zoom.square().view(-1, 1, 1, 1)


def _taps(place: Tensor, period: int) -> tuple[Tensor, Tensor]:
    """Four pixels about each place, and their weights, of shape (B, 4, ny, nx)."""
    first = place.floor()
    t = place - first
    weights = [
        t * (-0.5 + t * (1 - 0.5 * t)),
        1 + t.square() * (1.5 * t - 2.5),
        t * (0.5 + t * (2 - 1.5 * t)),
        t.square() * (0.5 * t - 0.5),
    ]
    pixels = torch.stack([first + k for k in (-1, 0, 1, 2)], dim=1).long() % period
    return pixels, torch.stack(weights, dim=1)
