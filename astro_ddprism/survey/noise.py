r"""Noise and background of an image that does not tell its own.

The sky's level :math:`b` and its scatter :math:`\sigma` are measured in boxes, among the pixels
that hold no object, and interpolated smoothly between the boxes. A pixel belongs to an object if
the image, smoothed lightly, rises above :math:`b + 1.5\,\sigma` around it; as that needs :math:`b`
and :math:`\sigma` first, it is done twice.

:math:`\sigma` is the scatter of single pixels of blank sky. The photon noise of the objects is not
in it, and neither is the covariance of neighbouring pixels, which resampled images have.
"""

import warnings

import numpy as np
from astropy.stats import SigmaClip
from astropy.utils.exceptions import AstropyUserWarning
from photutils.background import Background2D, StdBackgroundRMS
from scipy.ndimage import binary_dilation, gaussian_filter

from ..errors import InputError
from .files import as_float

__all__ = ["estimate_noise"]

OBJECT_THRESHOLD = 1.5  # of the smoothed image, in units of the noise of single pixels
# Standard deviation of a Gaussian that was clipped at three of its clipped standard deviations.
# (The median absolute deviation needs no factor, but jumps by steps where pixels are whole counts.)
CLIPPED = 0.9844
OBJECT_MARGIN = 3  # pixels around an object that its wings still reach


def smooth(data, valid, fwhm):
    """Smooth an image by a Gaussian, invalid pixels replaced by what surrounds them.

    Parameters
    ----------
    data : (ny, nx) `~numpy.ndarray`
        The image.
    valid : (ny, nx) bool `~numpy.ndarray`
        Pixels that hold data; the others are never read.
    fwhm : float
        Full width at half maximum of the Gaussian, in pixels.

    Returns
    -------
    (ny, nx) `~numpy.ndarray`
        The smoothed image, 0 where no valid pixel is near.
    """
    sigma = fwhm / np.sqrt(8 * np.log(2))
    total = gaussian_filter(np.where(valid, data, 0), sigma, mode="constant")
    weight = gaussian_filter(valid.astype(data.dtype), sigma, mode="constant")
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-2)


def estimate_noise(data, *, mask=None, box_size=64):
    """Background and noise of blank sky, by `photutils.background.Background2D`.

    Parameters
    ----------
    data : (ny, nx) array_like
        The image. Pixels that are not finite count as masked.
    mask : (ny, nx) bool array_like, optional
        Pixels to leave out are `True`.
    box_size : int
        Side of the boxes in which the sky is measured, in pixels.

    Returns
    -------
    background, noise : (ny, nx) `~numpy.ndarray`
        The level of the sky and the standard deviation of one pixel, in the unit of the data.

    Raises
    ------
    InputError
        If no box holds enough sky, or the sky does not scatter at all.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_ddprism.survey import estimate_noise
    >>> image = np.random.default_rng(0).normal(10.0, 2.0, (128, 128))
    >>> background, noise = estimate_noise(image)
    >>> bool(abs(noise.mean() - 2.0) < 0.05), bool(abs(background.mean() - 10.0) < 0.05)
    (True, True)
    """
    sky = _Sky.of_blank_pixels(data, mask, box_size)
    if not np.median(sky.noise) > 0:
        raise InputError(
            "the noise cannot be estimated: the sky of the image does not scatter (its pixels hold "
            "one and the same value); expected an image with noise"
        )
    return sky.background, sky.noise


def measure_background(data, *, mask, box_size=64):
    """Level of blank sky, as in `estimate_noise`, of an image whose sky need not scatter.

    Parameters
    ----------
    data : (ny, nx) `~numpy.ndarray`
        The image.
    mask : (ny, nx) bool `~numpy.ndarray`
        Pixels to leave out are `True`.
    box_size : int
        Side of the boxes in which the sky is measured, in pixels.

    Returns
    -------
    (ny, nx) `~numpy.ndarray`
        The level in the unit of the data.
    """
    return _Sky.of_blank_pixels(data, mask, box_size).background


class _Sky:
    """Background and noise in every pixel."""

    def __init__(self, data, exclude, box_size):
        # Fluxes may be tiny: in float32 the square of a maggie's noise is close to nothing.
        scale = np.abs(data).max() or 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyUserWarning)
            try:
                sky = Background2D(
                    data / scale,
                    box_size,
                    mask=exclude,
                    exclude_percentile=90,
                    sigma_clip=SigmaClip(sigma=3.0, maxiters=10),
                    bkg_rms_estimator=StdBackgroundRMS(sigma_clip=None),
                )
                self.background = sky.background * scale
                self.noise = sky.background_rms * (scale / CLIPPED)
            except ValueError as error:
                raise InputError(
                    f"the sky cannot be measured: {np.mean(exclude):.0%} of the image's pixels are "
                    f"masked or hold objects, and no box of {box_size} x {box_size} pixels has a "
                    "tenth of blank sky"
                ) from error

    @classmethod
    def of_blank_pixels(cls, data, mask, box_size):
        data = np.asarray(data)
        bad = ~np.isfinite(data)
        if mask is not None:
            bad |= np.asarray(mask, dtype=bool)
        data = as_float(np.where(bad, 0, data))
        sky = cls(data, bad, box_size)
        for _ in range(2):
            excess = smooth(data - sky.background, ~bad, fwhm=2.5)
            objects = excess > OBJECT_THRESHOLD * sky.noise
            sky = cls(data, bad | binary_dilation(objects, iterations=OBJECT_MARGIN), box_size)
        return sky
