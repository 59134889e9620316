r"""Noise and background of an image that does not tell its own.

The sky's level :math:`b` and its scatter :math:`\sigma` are measured in boxes, among the pixels
that hold no object, and interpolated smoothly between the boxes. A pixel belongs to an object if
the image, smoothed lightly, rises above :math:`b + 1.5\,\sigma` around it; as that needs :math:`b`
and :math:`\sigma` first, it is done twice. Smoothing leaves 0.27 of the scatter of white noise, but
more of noise that is smooth itself, and four times what it leaves is never an object.

:math:`\sigma` is the scatter of single pixels of blank sky. The photon noise of the objects is not
in it, and neither is the covariance of neighbouring pixels, which resampled images have: that is
measured by itself, as the mean product of two pixels :math:`p` and :math:`p + d` over all pairs
:math:`\mathcal P_d` of which both are blank,

.. math:: c_d = \frac{\xi_d}{\xi_0}, \qquad
          \xi_d = \frac{1}{|\mathcal P_d|} \sum_{p \in \mathcal P_d}
                  \frac{y_p - b_p}{\sigma_p} \, \frac{y_{p+d} - b_{p+d}}{\sigma_{p+d}} .
"""

import warnings

import numpy as np
import scipy.fft
from astropy.stats import SigmaClip, mad_std
from astropy.utils.exceptions import AstropyUserWarning
from photutils.background import Background2D, StdBackgroundRMS
from scipy.ndimage import binary_dilation, gaussian_filter

from ..errors import InputError
from ..io.fits_in import as_float

__all__ = ["estimate_autocorrelation", "estimate_noise"]

OBJECT_THRESHOLD = 1.5  # of the smoothed image, in units of the noise of single pixels
SMOOTH_THRESHOLD = 4.0  # of the smoothed image, in units of its own noise
# Standard deviation of a Gaussian that was clipped at three of its clipped standard deviations.
# (The median absolute deviation needs no factor, but jumps by steps where pixels are whole counts.)
CLIPPED = 0.9844
OBJECT_MARGIN = 3  # pixels around an object that its wings still reach
MIN_PAIRS = 1000  # that make a correlation: its error is then 0.03


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


def estimate_autocorrelation(data, *, mask=None, max_lag=3, box_size=64):
    """Autocorrelation of the noise of blank sky, as drizzling and resampling leave it.

    Parameters
    ----------
    data : (ny, nx) or (n, ny, nx) array_like
        The image, or several of the same noise, such as cutouts. Pixels that are not finite count
        as masked.
    mask : bool array_like, optional
        Pixels to leave out are `True`, in the shape of the data. Objects that stand out of the
        noise are left out anyway.
    max_lag : int
        The largest distance of two pixels, along both axes.
    box_size : int
        Side of the boxes in which the sky is measured, in pixels. It must be many times the range
        of the correlation, or the background takes part of it.

    Returns
    -------
    (2 max_lag + 1, 2 max_lag + 1) `~numpy.ndarray`
        Correlation of two pixels against their distance: 1 in the centre, equal at opposite lags.
        Its statistical error is about one over the root of the number of blank pixels. As the
        argument ``autocorrelation`` of `~astro_ddprism.mixing.CorrelatedNoise`, it should reach to
        where nothing but this error is left.

    Raises
    ------
    InputError
        If the sky of an image cannot be measured, as for `estimate_noise`, or too few pairs of
        pixels are blank. Of several images, those whose sky cannot be measured are left out.

    Notes
    -----
    Objects that are too faint to stand out are part of what is measured, and raise the correlation
    over the width of the PSF.

    Examples
    --------
    The mean of two neighbours shares half of its noise with the next one:

    >>> import numpy as np
    >>> from astro_ddprism.survey import estimate_autocorrelation
    >>> white = np.random.default_rng(0).normal(size=(256, 257))
    >>> resampled = (white[:, 1:] + white[:, :-1]) / 2
    >>> estimate_autocorrelation(resampled, max_lag=2)[2].round(1) + 0.0
    array([0. , 0.5, 1. , 0.5, 0. ])
    """
    if not isinstance(max_lag, int | np.integer) or max_lag < 1:
        raise InputError(f"max_lag: found {max_lag!r}, expected a whole number of pixels from 1 on")
    data = np.asarray(data)
    images = data.reshape(-1, *data.shape[-2:])
    masks = [None] * len(images) if mask is None else np.reshape(mask, images.shape)
    n_pairs = products = 0
    for image, bad in zip(images, masks, strict=True):
        try:
            sky = _Sky.of_blank_pixels(image, bad, box_size)
        except InputError:
            if len(images) == 1:
                raise
            continue
        residual = np.zeros(sky.blank.shape)
        blank = sky.blank & (sky.noise > 0)
        np.divide(image - sky.background, sky.noise, out=residual, where=blank)
        n_pairs = n_pairs + np.round(_sum_over_pairs(blank.astype(float), max_lag))
        products = products + _sum_over_pairs(residual, max_lag)
    if np.min(n_pairs) < MIN_PAIRS:
        raise InputError(
            f"the autocorrelation cannot be measured: found {int(np.min(n_pairs))} pairs of blank "
            f"pixels at lags up to {max_lag}, expected at least {MIN_PAIRS}"
        )
    covariance = products / n_pairs
    return covariance / covariance[max_lag, max_lag]


def _sum_over_pairs(image, max_lag):
    """Sum of the products of two pixels at all lags, (2 max_lag + 1, 2 max_lag + 1)."""
    grid = tuple(scipy.fft.next_fast_len(n + max_lag, real=True) for n in image.shape)
    power = np.abs(scipy.fft.rfft2(image, s=grid)) ** 2
    lags = np.roll(scipy.fft.irfft2(power, s=grid), (max_lag, max_lag), axis=(0, 1))
    lags = lags[: 2 * max_lag + 1, : 2 * max_lag + 1]
    return (lags + lags[::-1, ::-1]) / 2  # equal but for rounding


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
    """Background and noise in every pixel, and which pixels they were measured in."""

    def __init__(self, data, exclude, box_size):
        self.blank = ~exclude
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
            relative = np.divide(excess, sky.noise, out=np.zeros_like(excess), where=sky.noise > 0)
            scatter = mad_std(relative[sky.blank]) if sky.blank.any() else 0
            objects = relative > max(OBJECT_THRESHOLD, SMOOTH_THRESHOLD * scatter)
            sky = cls(data, bad | binary_dilation(objects, iterations=OBJECT_MARGIN), box_size)
        return sky
