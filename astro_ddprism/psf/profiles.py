"""Circular profiles, whose Fourier transforms are known in closed form."""

import abc
import math

import numpy as np
from astropy import units as u
from scipy.special import gammaln, kv

from ..errors import InputError
from .base import PSF, PointPSF, pixel_wave_numbers

__all__ = ["GaussianPSF", "MoffatPSF"]

_FWHM_TO_SIGMA = 1 / math.sqrt(8 * math.log(2))
_LOST = 1e-4  # part of the light that may lie beyond a PSF's `reach`


class _RoundPSF(PSF):
    """A circular profile, on the sky or on the pixels."""

    def __init__(self, fwhm, *, includes_pixel=False):
        self.fwhm, self.includes_pixel = u.Quantity(fwhm), includes_pixel
        known = self.fwhm.unit == u.pixel or self.fwhm.unit.is_equivalent(u.arcsec)
        if not known or not self.fwhm.isscalar or not 0 < self.fwhm.value < math.inf:
            raise InputError(
                f"fwhm: found {fwhm}, expected one positive angle, or a number of pixels with the "
                "unit pixel"
            )

    @abc.abstractmethod
    def _profile(self, k):
        """Transform at wave numbers in radians per FWHM."""

    _reach: float  # in units of the FWHM

    def transform(self, kx, ky, axes):
        """See `PSF.transform`."""
        if self.fwhm.unit == u.pixel:
            k = np.hypot(*pixel_wave_numbers(kx, ky, axes)) * self.fwhm.value
        else:
            k = np.hypot(kx, ky[:, None]) * self.fwhm.to_value(u.arcsec)
        return self._profile(k)[None]

    def reach(self, axes):
        """Radius beyond which lies a ten-thousandth of the light, in arcseconds."""
        if self.fwhm.unit == u.pixel:
            unit = np.linalg.norm(axes, 2) * self.fwhm.value
        else:
            unit = self.fwhm.to_value(u.arcsec)
        return self._reach * unit + (0 if self.includes_pixel else PointPSF().reach(axes))

    def __repr__(self):
        return f"{type(self).__name__}({self.fwhm}, includes_pixel={self.includes_pixel})"


class GaussianPSF(_RoundPSF):
    r"""A circular Gaussian.

    .. math:: \tilde P(k) = e^{-k^2 \sigma^2 / 2}, \qquad
              \sigma = \mathrm{FWHM} / \sqrt{8 \ln 2}

    Parameters
    ----------
    fwhm : `~astropy.units.Quantity`
        Full width at half maximum: an angle, or in ``u.pixel`` of the image that has this PSF.
    includes_pixel : bool
        Whether the pixel's response is in it already.

    Raises
    ------
    InputError
        If the width is not a positive angle or number of pixels.

    Examples
    --------
    >>> from astropy import units as u
    >>> from astro_ddprism.psf import GaussianPSF
    >>> GaussianPSF(0.7 * u.arcsec)
    GaussianPSF(0.7 arcsec, includes_pixel=False)
    """

    _reach = math.sqrt(-2 * math.log(_LOST)) * _FWHM_TO_SIGMA

    def _profile(self, k):
        return np.exp(-((k * _FWHM_TO_SIGMA) ** 2) / 2)


class MoffatPSF(_RoundPSF):
    r"""A circular Moffat profile, :math:`(1 + (r / \alpha)^2)^{-\beta}`, as of seeing.

    .. math:: \tilde P(k) = \frac{2}{\Gamma(\beta - 1)} \left(\frac{k \alpha}{2}\right)^{\beta - 1}
              K_{\beta - 1}(k \alpha), \qquad
              \alpha = \frac{\mathrm{FWHM}}{2 \sqrt{2^{1 / \beta} - 1}}

    Parameters
    ----------
    fwhm : `~astropy.units.Quantity`
        Full width at half maximum: an angle, or in ``u.pixel`` of the image that has this PSF.
    beta : float
        Exponent, above 1.
    includes_pixel : bool
        Whether the pixel's response is in it already.

    Raises
    ------
    InputError
        If the width is not a positive angle or number of pixels, or the exponent not above 1.
    """

    def __init__(self, fwhm, beta, *, includes_pixel=False):
        super().__init__(fwhm, includes_pixel=includes_pixel)
        if not 1 < beta < 100:
            raise InputError(f"beta: found {beta}, expected a number above 1, usually 2.5 to 5")
        self.beta = float(beta)
        self._alpha = 0.5 / math.sqrt(2 ** (1 / self.beta) - 1)
        self._reach = self._alpha * math.sqrt(_LOST ** (1 / (1 - self.beta)) - 1)

    def _profile(self, k):
        order, x = self.beta - 1, np.maximum(k * self._alpha, 1e-8)
        with np.errstate(under="ignore"):
            return 2 * np.exp(order * np.log(x / 2) - gammaln(order)) * kv(order, x)
