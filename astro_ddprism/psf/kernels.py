"""The point spread function, read and checked.

A PSF is an odd-sized image whose middle pixel is its centre and whose sum is 1: the response of the
image to a point source of unit flux in the middle of a pixel.

Its width is told by one number, its full width at half maximum: that of the circular Gaussian,
averaged over pixels, which fits its inner part best (`photutils.psf.fit_fwhm`). A Moffat profile,
of which wings are left there, comes out up to a tenth wider than its own. The width is had from the
PSF itself or from the stars of an image, and means the same in both.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.nddata import NDData
from astropy.utils.exceptions import AstropyUserWarning
from photutils.psf import fit_fwhm

from ..errors import InputError
from ..io.fits_in import read_plane

__all__ = ["kernel_fwhm", "read_psf"]

SUM_TOLERANCE = 1e-2
CENTRE_TOLERANCE = 1  # pixels from the middle to the peak


def read_psf(psf, n_bands=1):
    """Read a PSF and check that it is one.

    Parameters
    ----------
    psf : path, array_like, `~astropy.nddata.NDData`, or a list of these
        The PSF, ``(ky, kx)`` for all bands or ``(bands, ky, kx)``; or a list with one for each
        band, which may differ in size. From a FITS file the first image is read.
    n_bands : int
        Number of bands of the image.

    Returns
    -------
    (ky, kx) or (bands, ky, kx) `~numpy.ndarray` of float64
        The PSF.

    Raises
    ------
    InputError
        If the PSF has an even size, is not finite, is zero everywhere, does not sum to 1 within 1
        %, has its peak elsewhere than in the middle, or has another number of bands than the image.

    Examples
    --------
    >>> from astro_ddprism.psf import read_psf
    >>> read_psf([[0, 0.1, 0], [0.1, 0.6, 0.1], [0, 0.1, 0]]).shape
    (3, 3)
    """
    if _is_list_of_psfs(psf):
        bands = [read_psf(one) for one in psf]
        if any(band.ndim != 2 for band in bands) or len(bands) not in {1, n_bands}:
            raise InputError(
                f"psf: found a list of {len(bands)}, expected one two-dimensional PSF for all or "
                f"for each of the {n_bands} bands"
            )
        return bands[0] if len(bands) == 1 else _common_size(bands)
    name = f"psf {psf}" if isinstance(psf, str | Path) else "psf"
    if isinstance(psf, str | Path):
        kernel = read_plane(psf, role="psf")
    else:
        kernel = psf.data if isinstance(psf, NDData) else psf
    kernel = np.asarray(kernel, dtype=np.float64)
    if kernel.ndim not in {2, 3} or (kernel.ndim == 3 and len(kernel) not in {1, n_bands}):
        raise InputError(
            f"{name}: found an array of shape {kernel.shape}, expected (ky, kx) or "
            f"(bands, ky, kx) with {n_bands} bands"
        )
    for band in kernel.reshape(-1, *kernel.shape[-2:]):
        _check(band, name)
    return kernel[0] if kernel.ndim == 3 and len(kernel) == 1 else kernel


def _is_list_of_psfs(psf):
    """Whether these are several PSFs, and not the rows of one."""
    if not isinstance(psf, Sequence) or isinstance(psf, str):
        return False
    return all(isinstance(one, str | Path | NDData | np.ndarray) for one in psf)


def _check(kernel, name):
    ny, nx = kernel.shape
    if ny % 2 == 0 or nx % 2 == 0:
        raise InputError(
            f"{name}: found a size of {ny} x {nx} pixels, expected odd numbers, so that one pixel "
            "is the centre"
        )
    if not np.isfinite(kernel).all():
        raise InputError(
            f"{name}: found {np.sum(~np.isfinite(kernel))} pixels that are not finite, "
            "expected none"
        )
    if not kernel.any():
        raise InputError(f"{name}: found zero in every pixel, expected a sum of 1")
    if abs(kernel.sum() - 1) > SUM_TOLERANCE:
        raise InputError(
            f"{name}: found a sum of {kernel.sum():.6g}, expected 1 within {SUM_TOLERANCE:g}; "
            "divide the PSF by its sum"
        )
    y, x = np.unravel_index(np.argmax(kernel), kernel.shape)
    if max(abs(y - ny // 2), abs(x - nx // 2)) > CENTRE_TOLERANCE:
        raise InputError(
            f"{name}: found the peak at pixel (x, y) = ({x}, {y}), expected it in the middle, "
            f"({nx // 2}, {ny // 2})"
        )


def _common_size(bands):
    ny, nx = np.max([band.shape for band in bands], axis=0)
    pads = [((ny - band.shape[0]) // 2, (nx - band.shape[1]) // 2) for band in bands]
    return np.stack(
        [np.pad(band, ((py, py), (px, px))) for band, (py, px) in zip(bands, pads, strict=True)]
    )


def half_light_radius(psf):
    """Half-light radius of a PSF, the mean over its bands, in pixels.

    Parameters
    ----------
    psf : (ky, kx) or (bands, ky, kx) `~numpy.ndarray`
        The PSF.

    Returns
    -------
    float
        The radius of the circle around the middle that holds half of the sum.
    """
    ky, kx = psf.shape[-2:]
    y, x = np.mgrid[:ky, :kx]
    radius = np.hypot(y - ky // 2, x - kx // 2).ravel()
    order = np.argsort(radius, kind="stable")
    radii = []
    for band in psf.reshape(-1, ky * kx):
        growth = np.maximum.accumulate(np.cumsum(band[order]) / band.sum())
        # A pixel's light reaches out to where a disc has the area of all pixels so far.
        area_radius = np.sqrt((np.arange(len(order)) + 0.5) / np.pi)
        radii.append(np.interp(0.5, growth, area_radius))
    return float(np.mean(radii))


def kernel_fwhm(psf):
    """Full width at half maximum of a PSF, band by band.

    Parameters
    ----------
    psf : (ky, kx) or (bands, ky, kx) `~numpy.ndarray`
        The PSF.

    Returns
    -------
    (bands,) `~numpy.ndarray`
        In pixels; one band where all have the same PSF.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_ddprism.psf.kernels import kernel_fwhm
    >>> r2 = np.sum(np.square(np.mgrid[-9:10, -9:10]), axis=0)
    >>> kernel_fwhm(np.exp(-r2 / 2 / 2.0**2)).round(2)  # 2.35 times 2 pixels, less the pixel's
    array([4.66])
    """
    ky, kx = psf.shape[-2:]
    guess = 2 * half_light_radius(psf)
    centre = [(kx // 2, ky // 2)]
    return np.concatenate([star_widths(band, centre, guess) for band in psf.reshape(-1, ky, kx)])


def star_widths(data, positions, guess, mask=None):
    """Full widths at half maximum of point sources.

    Parameters
    ----------
    data : (ny, nx) `~numpy.ndarray`
        An image.
    positions : (N, 2) array_like
        Pixels x and y of the sources.
    guess : float
        Their width, about.
    mask : (ny, nx) bool `~numpy.ndarray`, optional
        Bad pixels.

    Returns
    -------
    (N,) `~numpy.ndarray`
        In pixels; NaN where the fit fails.
    """
    side = 2 * max(2, round(0.6 * guess)) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)  # one bad fit among many
        return fit_fwhm(data, xypos=positions, fwhm=guess, fit_shape=side, mask=mask)
