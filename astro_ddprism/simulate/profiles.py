r"""Images of galaxies and stars seen through a point-spread function.

An object is drawn *in Fourier space*, where a galaxy, the PSF and the pixel are a product and a
position is a phase, so a cuspy profile needs no fine pixels and an object may lie anywhere between
pixel centres:

.. math::

    \tilde I(\mathbf k) = F \; \tilde S_n(|\mathbf k'|) \; \tilde P(|\mathbf k|) \;
        \mathrm{sinc}(k_x / 2\pi)\, \mathrm{sinc}(k_y / 2\pi) \; e^{-i \mathbf k \cdot \mathbf x_0},

with wave numbers in radians per pixel, :math:`\mathbf k'` the wave vector in the frame in which the
galaxy is round with a half-light radius of one, :math:`\tilde S_n` the Hankel transform of the
Sérsic profile [1]_ of index *n* (by FFTLog [2]_), and :math:`\tilde P` that of the Moffat profile
[3]_, which is known in closed form:

.. math::

    \tilde P(k) = \frac{2}{\Gamma(\beta - 1)} \left(\frac{k \alpha}{2}\right)^{\beta - 1}
        K_{\beta - 1}(k \alpha).

The stamp of an object is as large as its light stays above a chosen level; what is fainter folds
back into the stamp, so the total flux is kept.

References
----------
.. [1] Graham & Driver 2005, PASA 22, 118
.. [2] Hamilton 2000, MNRAS 312, 257
.. [3] Trujillo et al. 2001, MNRAS 328, 977
"""

import functools

import numpy as np
from scipy.fft import fht, fhtoffset
from scipy.special import gamma, gammaincinv, gammaln, kv

from ..errors import InputError

__all__ = ["MoffatRenderer"]

STAMP_SIZES = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@functools.lru_cache(maxsize=128)
def _sersic_transform(n):
    """Logarithms of wave number, and the Hankel transform there, of a Sérsic profile.

    Half-light radius and total flux of the profile are one, so the transform is one at k = 0.
    """
    b = gammaincinv(2 * n, 0.5)
    size, step = 4096, np.log(1e14) / 4096
    r = np.exp((np.arange(size) - (size - 1) / 2) * step)
    log_norm = np.log(2 * np.pi * n) + gammaln(2 * n) - 2 * n * np.log(b)
    profile = np.exp(-b * r ** (1 / n) - log_norm)
    # A power-law bias below zero keeps r I(r) small at both ends of the logarithmic grid.
    bias = -0.5
    offset = fhtoffset(step, mu=0, bias=bias)
    transform = fht(2 * np.pi * r * profile, step, mu=0, offset=offset, bias=bias)
    k = np.exp(offset) / r[::-1]
    keep = (k > 1e-3) & (k < 1e4)
    return np.log(k[keep]), transform[keep] / k[keep]


def _sersic_radius(n, level):
    """Radius, in half-light radii, at which a unit-flux Sérsic profile falls to ``level``."""
    b = gammaincinv(2 * n, 0.5)
    log_norm = np.log(2 * np.pi * n) + gammaln(2 * n) - 2 * n * np.log(b)
    return (np.maximum(-np.log(level) - log_norm, 0.0) / b) ** n


class MoffatRenderer:
    """Noise-free images of Sérsic galaxies and of stars, seen through a Moffat PSF.

    Parameters
    ----------
    fwhm : float
        Full width at half maximum of the PSF before the pixel's own smoothing, in pixels. At least
        1.5: a narrower PSF is not sampled by the pixels.
    beta : float
        Moffat exponent, above 1; a seeing-limited PSF has 2.5 to 4.5.

    Raises
    ------
    InputError
        If the PSF is undersampled or holds no finite flux.

    Examples
    --------
    >>> from astro_ddprism.simulate.profiles import MoffatRenderer
    >>> stamp, corner = MoffatRenderer(fwhm=2.5, beta=3.5).stamp(10.2, 7.9, size=32)
    >>> stamp.shape, corner
    ((32, 32), (-6, -8))
    >>> round(float(stamp.sum()), 6)
    1.0
    """

    def __init__(self, fwhm, beta=3.5):
        if not (np.isfinite(fwhm) and fwhm >= 1.5):
            raise InputError(f"fwhm: {fwhm} pixels, expected at least 1.5 (a sampled PSF)")
        if not (np.isfinite(beta) and beta > 1):
            raise InputError(
                f"beta: {beta}, expected more than 1 (a Moffat profile of finite flux)"
            )
        self.fwhm = float(fwhm)
        self.beta = float(beta)
        self.alpha = self.fwhm / (2 * np.sqrt(2 ** (1 / self.beta) - 1))
        self._grids = {}

    def _grid(self, size):
        """Wave numbers of a stamp at half a pixel, and the PSF's and pixel's transform there."""
        if size not in self._grids:
            ky = 2 * np.pi * np.fft.fftfreq(2 * size, 0.5)
            kx = 2 * np.pi * np.fft.rfftfreq(2 * size, 0.5)
            scaled = self.alpha * np.hypot(ky[:, None], kx)
            scaled[0, 0] = 1.0
            order = self.beta - 1
            moffat = 2 / gamma(order) * (scaled / 2) ** order * kv(order, scaled)
            moffat[0, 0] = 1.0
            pixel = np.sinc(ky[:, None] / (2 * np.pi)) * np.sinc(kx / (2 * np.pi))
            self._grids[size] = ky[:, None], kx[None], moffat * pixel
        return self._grids[size]

    def psf_radius(self, level):
        """Radius, in pixels, at which the unit-flux PSF falls to ``level`` per pixel."""
        peak = (self.beta - 1) / (np.pi * self.alpha**2)
        return self.alpha * np.sqrt(np.maximum((peak / level) ** (1 / self.beta) - 1, 0.0))

    def stamp_size(self, level, radius=0.0, n=1.0):
        """Smallest stamp outside which a unit-flux object falls below ``level`` per pixel.

        Parameters
        ----------
        level : float or ndarray
            Flux per pixel, for a total flux of one.
        radius : float or ndarray
            Half-light radius along the major axis, in pixels; 0 for a star.
        n : float or ndarray
            Sérsic index.

        Returns
        -------
        int or ndarray of int
            Number of pixels on a side.
        """
        extent = np.where(np.asarray(radius) > 0, radius, 1e-3)
        reach = np.hypot(self.psf_radius(level), extent * _sersic_radius(n, level * extent**2))
        index = np.searchsorted(STAMP_SIZES, 2 * reach + 8)
        return np.asarray(STAMP_SIZES)[np.minimum(index, len(STAMP_SIZES) - 1)]

    def stamp(self, x, y, *, size, radius=0.0, n=1.0, axis_ratio=1.0, theta=0.0):
        """Image of one object of unit flux.

        Parameters
        ----------
        x, y : float
            Position in pixels of the field (the first pixel's centre is 0).
        size : int
            Number of pixels on a side, even.
        radius : float
            Half-light radius along the major axis, in pixels; 0 for a star.
        n : float
            Sérsic index.
        axis_ratio : float
            Minor over major axis, in (0, 1].
        theta : float
            Angle of the major axis, in radians from +x towards +y.

        Returns
        -------
        stamp : ndarray of shape (size, size)
            Flux per pixel; its sum is one.
        corner : tuple of int
            ``(x0, y0)``: the field's pixel at ``stamp[0, 0]``.
        """
        x0, y0 = (int(np.floor(p + 0.5)) - size // 2 for p in (x, y))
        ky, kx, transform = self._grid(size)
        # Half a pixel between samples: the PSF has nothing left at twice the pixels' Nyquist
        # frequency, so nothing aliases; every second sample is then a pixel.
        transform = transform * (np.exp(-1j * ky * (y - y0)) * np.exp(-1j * kx * (x - x0)))
        if radius > 0:
            cos, sin = np.cos(theta), np.sin(theta)
            major = kx * cos + ky * sin
            minor = axis_ratio * (ky * cos - kx * sin)
            k2 = radius**2 * (major**2 + minor**2)
            k2[0, 0] = 1.0
            log_k, profile = _sersic_transform(float(n))
            values = np.interp(0.5 * np.log(k2), log_k, profile)
            values[0, 0] = 1.0
            transform *= values
        image = np.fft.irfft2(transform, s=(2 * size, 2 * size), axes=(0, 1))
        return 4 * image[::2, ::2], (x0, y0)
