"""The point spread function, opened, and as it is in the pixels of an image.

Its *kernel* is an odd-sized image whose middle pixel is its centre and whose sum is 1: the response
of the image to a point source of unit flux in the middle of a pixel.

Its width is told by one number, its full width at half maximum: that of the circular Gaussian,
averaged over pixels, which fits its inner part best (`photutils.psf.fit_fwhm`). A Moffat profile,
of which wings are left there, comes out up to a tenth wider than its own. The width is had from the
PSF itself or from the stars of an image, and means the same in both.
"""

import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.modeling import Model
from astropy.nddata import NDData
from astropy.utils.exceptions import AstropyUserWarning
from photutils.psf import GriddedPSFModel, fit_fwhm

from ..errors import InputError
from ..io.fits_in import open_fits
from ..io.reading import reading
from .base import PSF, BandPSFs, pad_kernel
from .fields import PSFExPSF
from .images import GriddedPSF, ImagePSF
from .stamps import SAME_SCALE, read_psf_file

__all__ = ["kernel_fwhm", "kernel_of", "kernels_at", "open_psf", "read_psf", "stack_kernels"]

logger = logging.getLogger(__name__)


def open_psf(psf, *, pixel_scale=None, wcs=None, oversampling=None, scale=None, fine=False):
    """The PSF behind anything that may be given as one.

    Parameters
    ----------
    psf : path, array_like, `~astropy.nddata.NDData`, model, PSF, or a list of these
        The PSF, ``(ky, kx)`` for all bands or ``(bands, ky, kx)``; or a list with one for each
        band. An array is on the pixels of the image. A file tells its pixels by ``PIXELSCL`` or
        ``PIXSCALE``, a celestial WCS or ``OVERSAMP``, and is else taken to be on those of the
        image, too; it may also be of PSFEx, or a grid that photutils reads. A model is one of
        astropy or photutils.
    pixel_scale : `~astropy.units.Quantity`, optional
        Angle of the image's pixels.
    wcs : `~astropy.wcs.WCS`, optional
        WCS of the image, for a PSF that changes over it.
    oversampling, scale : optional
        How many of its pixels fit on one of the image, or the angle of each, instead of what a
        file tells.
    fine : bool
        Refuse files that do not tell their pixels.

    Returns
    -------
    `~astro_ddprism.psf.PSF`

    Raises
    ------
    InputError
        If it is no PSF, or its file cannot be read.
    """
    options = {"oversampling": oversampling, "scale": scale}
    if isinstance(psf, PSF):
        return psf
    if _is_list_of_psfs(psf):
        several = [
            open_psf(one, pixel_scale=pixel_scale, wcs=wcs, fine=fine, **options) for one in psf
        ]
        return several[0] if len(several) == 1 else BandPSFs(several)
    if isinstance(psf, GriddedPSFModel):
        return GriddedPSF(psf, wcs)
    if isinstance(psf, Model):
        includes_pixel = "PRF" in type(psf).__name__ or hasattr(psf, "oversampling")
        box = np.ravel(psf.bounding_box.bounding_box() if hasattr(psf, "bounding_box") else 21)
        size = 2 * math.ceil((box.max() - box.min()) / 2) + 1
        return ImagePSF.from_model(psf, size, oversampling=5, includes_pixel=includes_pixel)
    if not isinstance(psf, str | Path):
        told = oversampling is not None or scale is not None
        return ImagePSF(psf, **(options if told else {"oversampling": 1}))
    with reading(psf, "a PSF", f"psf {psf}"):
        return _of_file(psf, pixel_scale, wcs, fine, options)


def _of_file(path, pixel_scale, wcs, fine, options):
    found = read_psf_file(path, pixel_scale, fine=fine)
    if found is None:
        return _of_many_places(path, wcs)
    if options["oversampling"] is None and options["scale"] is None:
        _check_agree(found, pixel_scale)
        if found.scale is not None and pixel_scale is None and not fine:
            # Where the image's pixels are not known, only its own word can tell.
            found.scale, found.oversampling = None, found.oversampling or 1
        elif (found.scale, found.oversampling) == (None, None) and not fine:
            logger.info("%s: nothing tells its pixels; taken for those of the image", found.label)
            found.oversampling = 1
    return ImagePSF.of_file(found, **options)


def _check_agree(found, pixel_scale):
    """Refuse an oversampled PSF that tells the image's pixels for its own."""
    if found.scale is None or found.oversampling in {None, 1} or pixel_scale is None:
        return
    if abs((found.scale / pixel_scale).to_value(u.one) - 1) < SAME_SCALE:
        raise InputError(
            f"{found.label}: found an oversampling of {found.oversampling:g} and pixels of "
            f"{found.scale:.4g}, those of the image, which do not agree; expected one of them, "
            "given as oversampling or scale"
        )


def _of_many_places(path, wcs):
    with open_fits(path) as hdus:
        if any(hdu.name == "PSF_DATA" for hdu in hdus):
            field = PSFExPSF(path, wcs)
            return field if field.changes else field.at_pixel(0, 0)
    try:
        model = GriddedPSFModel.read(path)
    except Exception as error:  # its readers raise many kinds
        raise InputError(f"psf {path}: no grid of PSFs that photutils reads ({error})") from error
    return GriddedPSF(model, wcs)


def read_psf(psf, n_bands=1, pixel_scale=None):
    """Read a PSF as it is in the pixels of an image.

    Parameters
    ----------
    psf : path, array_like, `~astropy.nddata.NDData`, model, PSF, or a list of these
        The PSF (`open_psf`).
    n_bands : int
        Number of bands of the image.
    pixel_scale : `~astropy.units.Quantity`, optional
        Angle of the image's pixels: a PSF on others is brought to them.

    Returns
    -------
    (ky, kx) or (bands, ky, kx) `~numpy.ndarray` of float64
        Odd-sized, its centre in the middle, of sum 1.

    Raises
    ------
    InputError
        If the PSF is not finite, is zero everywhere, does not sum to 1 within a tenth, is centred
        elsewhere than in the middle, or has another number of bands than the image.

    Examples
    --------
    >>> from astro_ddprism.psf import read_psf
    >>> read_psf([[0, 0.1, 0], [0.1, 0.6, 0.1], [0, 0.1, 0]]).shape
    (3, 3)
    """
    return kernel_of(open_psf(psf, pixel_scale=pixel_scale), n_bands, pixel_scale)


def kernels_at(psf, coordinates, n_bands, pixel_scale):
    """The kernels of a PSF that may change over an image, at several places.

    Parameters
    ----------
    psf : `~astro_ddprism.psf.PSF`
        The PSF.
    coordinates : `~astropy.coordinates.SkyCoord`, shape (N,)
        The places.
    n_bands, pixel_scale
        As for `kernel_of`.

    Returns
    -------
    (ky, kx), (bands, ky, kx) or (N, bands, ky, kx) `~numpy.ndarray`
        One for all where it does not change.
    """
    if psf.at(coordinates[0]) is psf:
        return kernel_of(psf, n_bands, pixel_scale)
    return stack_kernels([kernel_of(psf.at(place), n_bands, pixel_scale) for place in coordinates])


def stack_kernels(kernels):
    """Kernels of (ky, kx) or (bands, ky, kx), of any sizes, as one array (N, bands, ky, kx)."""
    ny, nx = np.max([kernel.shape[-2:] for kernel in kernels], axis=0)
    return np.stack([pad_kernel(k.reshape(-1, *k.shape[-2:]), ny, nx) for k in kernels])


def kernel_of(psf, n_bands, pixel_scale=None):
    """The kernel of a PSF in the pixels of an image.

    Parameters
    ----------
    psf : `~astro_ddprism.psf.PSF`
        The PSF at one place.
    n_bands : int
        Number of bands of the image.
    pixel_scale : `~astropy.units.Quantity`, optional
        Angle of the image's pixels.

    Returns
    -------
    (ky, kx) or (bands, ky, kx) `~numpy.ndarray` of float64

    Raises
    ------
    InputError
        If it has another number of bands, or an angle for a width and the image's is not known.
    """
    if pixel_scale is None and getattr(psf, "scale", None) is not None:
        raise InputError(
            f"psf: found one with pixels of {psf.scale}, expected the angle of the image's"
        )
    side = 1.0 if pixel_scale is None else pixel_scale.to_value(u.arcsec)
    kernel = psf.kernel(side * np.eye(2))
    if len(kernel) not in {1, n_bands}:
        raise InputError(
            f"psf: found {len(kernel)} bands, expected 1 or the {n_bands} of the image"
        )
    return kernel if psf.n_bands is not None or len(kernel) > 1 else kernel[0]


def _is_list_of_psfs(psf):
    """Whether these are several PSFs, and not the rows of one."""
    if not isinstance(psf, Sequence) or isinstance(psf, str):
        return False
    return all(isinstance(one, str | Path | NDData | np.ndarray | PSF | Model) for one in psf)


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
