r"""A source in its own frame, as an instrument with another PSF and other pixels sees it.

A pixel :math:`p` of the image, at the position :math:`s_p` in the source's frame and with an area
of :math:`|J_p|` of the frame's pixels, collects

.. math:: y_p = |J_p| \, (K * x)(s_p)
              = \frac{|J_p|}{P_x P_y} \sum_j \tilde K_j \tilde x_j \, e^{2 \pi i j \cdot s_p / P},

where :math:`\tilde x` is the discrete Fourier transform of the source on a grid of :math:`P`
points, zero-padded so that nothing wraps around, and :math:`K` the kernel that leads from the
frame's PSF to the image's, the response of the image's pixel included
(`~astro_ddprism.mixing.kernels`). Flux is conserved: the Jacobian :math:`J_p` of the map between
pixels is that of both WCS, with all distortions, at each pixel.

The sum is a Fourier transform at positions on no grid, and is made as such (Dutt & Rokhlin 1993;
Fessler & Sutton 2003): divide by the transform :math:`\tilde \phi` of a window (the exponential of
a semicircle; Barnett et al. 2019), go back to a grid of :math:`G > P` points by an ordinary FFT,
and at each position sum the grid under the window,

.. math:: A = \operatorname{diag}(|J_p|) \, \Phi \, F_G^{-1} \, R \,
              \operatorname{diag}(\tilde K / \tilde \phi) \, R^\top F_P \, Z

with zero-padding :math:`Z`, the choice :math:`R^\top` of the wave numbers that the kernel lets
pass, and the window's sums :math:`\Phi` (`~astro_ddprism.mixing.taps`). With 6 points under the
window and :math:`G = 1.25 P` the error is about 3e-5 of the image's peak. :math:`A^\top` takes the
same steps back, each transposed. A coarse image keeps few wave numbers, and its grid is coarse too.

References
----------
Dutt & Rokhlin 1993, SIAM J. Sci. Comput. 14, 1368; Fessler & Sutton 2003, IEEE Trans. Signal
Process. 51, 560; Barnett, Magland & af Klinteberg 2019, SIAM J. Sci. Comput. 41, C479.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import scipy.fft
import torch

from ..errors import InputError
from ..frame.pixelmap import fit_pixel_maps, pixel_axes, pixel_extent
from ..psf import PSF, PointPSF
from .base import MixingOperator, array_dtype, as_shape, as_tensor, select
from .kernels import matching_kernels
from .placement import pixel_areas, pixel_positions
from .taps import Taps

__all__ = ["Resampling"]

_WIDTH = 6  # points under the window
_OVERSAMPLING = 1.25
_BETA = math.pi * _WIDTH * (1 - 0.5 / _OVERSAMPLING)


class Resampling(MixingOperator):
    """PSF, pixels and WCS of an image, for a source in its own frame; one of each per observation.

    Usually made by `Resampling.from_wcs`.

    Parameters
    ----------
    coefficients : array_like, shape (N, 2, n, n)
        Where the image's pixels lie (`~astro_ddprism.frame.pixelmap.fit_pixel_maps`).
    transfer : array_like, shape (K, bands, 2 m_y + 1, m_x + 1, 2)
        Real and imaginary parts of the kernels' transforms, as
        `~astro_ddprism.mixing.kernels.matching_kernels` orders them. An axis of bands may have
        length 1.
    kernel : array_like of int, shape (N,)
        Which of the kernels each observation has.
    period : tuple of int
        Points :math:`(P_y, P_x)` of the zero-padded grid. Pixels farther than half the padding from
        the source's frame see nothing of it.
    source_shape, observation_shape : tuple of int
        ``(bands, ny, nx)`` of the source and of the image.
    dtype : torch.dtype, optional
        float32 by default; a tensor keeps its own.

    Raises
    ------
    InputError
        If the shapes do not fit together.
    """

    before_psf = own_pixels = True
    _tensors = ("coefficients", "transfer", "kernel", "_window")
    _derived = ("_taps", "_multiplier")

    def __init__(
        self, coefficients, transfer, kernel, period, source_shape, observation_shape, *, dtype=None
    ):
        self.source_shape = as_shape(source_shape)
        self.observation_shape = as_shape(observation_shape)
        self.period = as_shape(period)
        self.coefficients = as_tensor(coefficients, dtype)
        self.transfer = as_tensor(transfer, dtype)
        self.kernel = as_tensor(kernel, torch.int64)
        self._check_shapes()
        self._window = torch.as_tensor(self._window_of_modes()).to(self.transfer)

    def _check_shapes(self):
        found = tuple(self.transfer.shape)
        half = [(size - 1) // 2 for size in self.period]
        if len(self.source_shape) != 3 or self.source_shape[0] != self.observation_shape[0]:
            raise InputError(
                f"source_shape: found {self.source_shape}, expected (bands, ny, nx) with the "
                f"{self.observation_shape[0]} bands of the observations"
            )
        if any(p < n for p, n in zip(self.period, self.source_shape[1:], strict=True)):
            raise InputError(
                f"period: found {self.period}, expected no less than the source's "
                f"{self.source_shape[1:]}"
            )
        if (
            len(found) != 5
            or found[1] not in (1, self.source_shape[0])
            or found[2] % 2 == 0
            or found[2] // 2 > half[0]
            or found[3] - 1 > half[1]
            or found[4] != 2
        ):
            raise InputError(
                f"transfer: found shape {found}, expected (K, bands, 2 m_y + 1, m_x + 1, 2) with "
                f"m_y and m_x up to {half}"
            )
        n = len(self.coefficients)
        if self.kernel.shape != (n,) or not 0 <= self.kernel.min() <= self.kernel.max() < found[0]:
            raise InputError(
                f"kernel: found {tuple(self.kernel.shape)} numbers from {self.kernel.min()} to "
                f"{self.kernel.max()}, expected one of {found[0]} kernels for each of {n} "
                "observations"
            )

    @classmethod
    def from_wcs(cls, wcs, shape, *, frame, coordinates, psf=None, names=None, dtype=None):
        """The operator that leads from a source's frame to images with these headers.

        Parameters
        ----------
        wcs : `~astropy.wcs.WCS` or sequence of it
            The WCS of each observation's image: any celestial one.
        shape : tuple of int
            ``(bands, ny, nx)`` of the images.
        frame : `~astro_ddprism.frame.SourceFrame`
            Where the source lives.
        coordinates : `~astropy.coordinates.SkyCoord`
            Where the frame lies in each observation, or one coordinate for all.
        psf : `~astro_ddprism.psf.PSF` or sequence of it, optional
            The PSF of all images or of each observation's. One that changes over the image is
            evaluated at each coordinate. None: no blurring but the pixel's.
        names : sequence of str, optional
            What messages call the observations; their numbers by default.
        dtype : torch.dtype, optional
            float32 by default.

        Returns
        -------
        operator : Resampling

        Raises
        ------
        InputError
            If a WCS is not celestial or does not cover its coordinate, a PSF has no scale or other
            bands than the images, the bands are not those of the frame, or the frame's PSF is much
            wider than an observation's.

        Examples
        --------
        >>> from astropy import units as u
        >>> from astropy.coordinates import SkyCoord
        >>> from astro_ddprism.frame import SourceFrame
        >>> from astro_ddprism.mixing import Resampling
        >>> from astro_ddprism.psf import GaussianPSF
        >>> galaxy = SkyCoord(150.1, 2.2, unit="deg")
        >>> frame = SourceFrame(0.05 * u.arcsec, (1, 64, 64), psf=GaussianPSF(2.5 * u.pixel))
        >>> coarse = SourceFrame(0.2 * u.arcsec, (1, 16, 16)).wcs(galaxy)
        >>> seeing = GaussianPSF(0.7 * u.arcsec)
        >>> Resampling.from_wcs(coarse, (1, 16, 16), frame=frame, coordinates=galaxy, psf=seeing)
        <Resampling (1, 64, 64) -> (1, 16, 16), 1 observations>
        """
        shape = as_shape(shape)
        if len(shape) != 3 or shape[0] != frame.shape[0]:
            raise InputError(
                f"shape: found {shape}, expected (bands, ny, nx) with {frame.shape[0]} bands, "
                "those of the source's frame, or weights of its bands (instrument_operator)"
            )
        coefficients = fit_pixel_maps(wcs, shape[1:], frame, coordinates, names=names)
        axes = pixel_axes(coefficients, shape[1:])
        psfs = _psf_of_each(psf, coordinates, len(axes), shape[0])
        period = _period(coefficients, shape[1:], frame, psfs, axes)
        transfer, kernel = matching_kernels(psfs, axes, frame, period, names=names)
        transfer = np.stack([transfer.real, transfer.imag], axis=-1)
        return cls(coefficients, transfer, kernel, period, frame.shape, shape, dtype=dtype)

    @property
    def n_observations(self):
        """Number of observations."""
        return len(self.coefficients)

    def __getitem__(self, index):
        new = self._map(lambda tensor: tensor)
        new.coefficients, new.kernel = (select(t, index) for t in (self.coefficients, self.kernel))
        if not isinstance(index, torch.Tensor):  # a device need not say which kernels are left
            used, new.kernel = torch.unique(new.kernel, return_inverse=True)
            new.transfer = self.transfer[used]
        return new

    @cached_property
    def _grid(self):
        """Points of the grid under the window."""
        modes = self.transfer.shape[2], 2 * self.transfer.shape[3] - 1
        return tuple(
            scipy.fft.next_fast_len(max(math.ceil(_OVERSAMPLING * n), _WIDTH), real=True)
            for n in modes
        )

    @cached_property
    def _taps(self):
        """Window sums at the image's pixels, from a grid that is continued beyond its edges."""
        shape = self.observation_shape[1:]
        places = pixel_positions(self.coefficients, shape)
        n, period, grid = (
            torch.stack([places.new_full((1, 1), size) for size in sizes[::-1]])
            for sizes in (self.source_shape[1:], self.period, self._grid)
        )
        margin = (period - n) / 2
        seen = ((places >= -margin) & (places <= n - 1 + margin)).all(dim=1)
        weight = torch.where(seen, pixel_areas(self.coefficients, shape), 0.0)
        places = torch.remainder(places * (grid / period), grid) + (_WIDTH // 2 - 1)
        size = tuple(points + _WIDTH - 1 for points in self._grid)
        return Taps(places, weight, _window, _WIDTH, size)

    def _window_of_modes(self) -> np.ndarray:
        """Transform of the window at the wave numbers that are kept, over that of the grid."""
        rows, columns = self.transfer.shape[2:4]
        along_y, along_x = (
            period / points * _window_transform(order / points)
            for points, period, order in zip(
                self._grid,
                self.period,
                (np.fft.fftfreq(rows, 1 / rows), np.arange(columns)),
                strict=True,
            )
        )
        return along_y[:, None] * along_x

    @cached_property
    def _multiplier(self):
        """Kernel over window, shape (N, bands, 2 m_y + 1, m_x + 1)."""
        return torch.view_as_complex(self.transfer)[self.kernel] / self._window

    def _apply(self, x):
        spectrum = _to_modes(x, self.period, self.transfer.shape[2:4])
        grid = _from_modes(spectrum * self._multiplier, self._grid)
        left, right = _WIDTH // 2 - 1, _WIDTH // 2
        for dim in (-2, -1):
            before = grid.narrow(dim, grid.shape[dim] - left, left)
            grid = torch.cat([before, grid, grid.narrow(dim, 0, right)], dim)
        return self._taps.gather(grid)

    def _apply_adjoint(self, y):
        grid = self._taps.scatter(y)
        left, right = _WIDTH // 2 - 1, _WIDTH // 2
        for dim in (-1, -2):
            n = grid.shape[dim] - left - right
            inner = grid.narrow(dim, left, n)
            inner.narrow(dim, n - left, left).add_(grid.narrow(dim, 0, left))
            inner.narrow(dim, 0, right).add_(grid.narrow(dim, n + left, right))
            grid = inner
        spectrum = _to_modes(grid, self._grid, self.transfer.shape[2:4])
        (py, px), (gy, gx), (ny, nx) = self.period, self._grid, self.source_shape[1:]
        back = self._multiplier.conj() * (py * px / (gy * gx))
        return _from_modes(spectrum * back, self.period)[..., :ny, :nx]

    def state(self):
        """Arguments of the constructor, for `operator_from_state`."""
        return {
            "operator": "Resampling",
            "coefficients": self.coefficients.cpu().numpy(),
            "transfer": self.transfer.cpu().numpy(),
            "kernel": self.kernel.cpu().numpy(),
            "period": list(self.period),
            "source_shape": list(self.source_shape),
            "observation_shape": list(self.observation_shape),
        }

    @classmethod
    def from_state(cls, state):
        """Build the operator from what `state` returned."""
        arguments = {key: value for key, value in state.items() if key != "operator"}
        return cls(**arguments, dtype=array_dtype(state["coefficients"]))


def _psf_of_each(psf, coordinates, n, n_bands):
    """One PSF for each observation, at its place."""
    if psf is None or isinstance(psf, PSF):
        psfs = [PointPSF() if psf is None else psf] * n
    else:
        psfs = list(psf) if isinstance(psf, Sequence) and not isinstance(psf, str) else [psf]
    for one in psfs:
        if not isinstance(one, PSF):
            raise InputError(
                f"psf: found {type(one).__name__}, which has no scale, expected one of "
                "astro_ddprism.psf, such as ImagePSF(image, oversampling=1) for a PSF on the "
                "pixels of its image"
            )
        if one.n_bands not in (None, n_bands):
            raise InputError(f"psf: found {one.n_bands} bands, expected {n_bands}, as the images")
    if len(psfs) != n:
        raise InputError(f"psf: found {len(psfs)}, expected one for each of {n} observations")
    return [
        one.at(coordinates if coordinates.isscalar else coordinates[i])
        for i, one in enumerate(psfs)
    ]


def _period(coefficients, shape, frame, psfs, axes):
    """Points of a grid on which light from the frame cannot reach a pixel from two sides."""
    lowest, highest = pixel_extent(coefficients, shape)
    n, delta = np.array(frame.shape[:0:-1]), frame.axes[0, 0]
    reach = max(psf.reach(steps * delta) for psf, steps in zip(psfs, axes, strict=True)) / delta
    reach = np.minimum(reach, n)  # what is farther off is spread over so many pixels
    farthest = np.maximum(np.minimum(highest, n - 1 + reach), n - 1 - np.maximum(lowest, -reach))
    return tuple(
        scipy.fft.next_fast_len(math.ceil(points), real=True)
        for points in (np.maximum(farthest, n - 1) + reach + 1)[::-1]
    )


def _to_modes(image, period, modes):
    """Transform on a grid of ``period`` points at the wave numbers that are kept."""
    spectrum = torch.fft.rfft(image, n=period[1])[..., : modes[1]]
    spectrum = torch.fft.fft(spectrum, n=period[0], dim=-2)
    half = modes[0] // 2
    return torch.cat([spectrum[..., : half + 1, :], spectrum[..., period[0] - half :, :]], dim=-2)


def _from_modes(spectrum, grid):
    """The image of a transform that is zero at all other wave numbers of a grid."""
    half, missing = spectrum.shape[-2] // 2, grid[0] - spectrum.shape[-2]
    zeros = spectrum.new_zeros(*spectrum.shape[:-2], missing, spectrum.shape[-1])
    full = torch.cat([spectrum[..., : half + 1, :], zeros, spectrum[..., half + 1 :, :]], dim=-2)
    return torch.fft.irfft(torch.fft.ifft(full, dim=-2), n=grid[1])


def _window(distance):
    """Exponential of a semicircle, of `_WIDTH` points."""
    inside = (1 - (2 * distance / _WIDTH) ** 2).clamp(min=0)
    return torch.exp(_BETA * (inside.sqrt() - 1))


def _window_transform(frequency):
    """Its Fourier transform, at frequencies in cycles per point, by Gauss-Legendre quadrature."""
    x, weight = np.polynomial.legendre.leggauss(60)
    values = weight * np.exp(_BETA * (np.sqrt(1 - x**2) - 1)) * _WIDTH / 2
    return np.cos(np.pi * _WIDTH * np.multiply.outer(frequency, x)) @ values
