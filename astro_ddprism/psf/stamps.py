r"""What PSFs are like in files and arrays, checked once for all uses.

A stamp has a *centre*, where the point source is: measured, as a centroid under a Gaussian window
of the PSF's own width, since an even-sized stamp has no middle pixel and many odd-sized ones were
cut out around the brightest. Of a stamp with the pixels :math:`s`, :math:`r` of which fit on a
pixel of the image, the response in the image's pixels :math:`n` is

.. math:: P_n = r \sum_s p_s \, \mathrm{sinc}(n r + c - s) \qquad\text{or}\qquad
          P_n = \sum_s p_s \, |[s - \tfrac12, s + \tfrac12] \cap
                [n r + c - \tfrac r2, n r + c + \tfrac r2]|

along each axis: an effective PSF, which includes the pixel's response, is a function to be sampled;
one that does not is light to be collected.
"""

import logging
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.utils import proj_plane_pixel_scales

from ..errors import InputError
from ..io.fits_in import find_extension, open_fits, read_extension

__all__ = ["PSFFile", "checked_stamp", "measure_centre", "on_pixels", "read_psf_file"]

logger = logging.getLogger(__name__)

SUM_TOLERANCE = 0.1  # up to which a PSF is taken for one of sum 1
SUM_NOTICED = 1e-3  # from which on its normalization is told
CENTRE_TOLERANCE = 1.5  # pixels of the image from the middle to the centre
CENTRE_NOTICED = 0.05  # pixels of the image; less is the noise of the measurement
SAME_SCALE = 0.01  # relative difference of pixels that are taken for equal
OVERSAMPLINGS = ("OVERSAMP", "OVERSAMPLING", "OVRSAMP", "OSAMP")
SCALES = ("PIXELSCL", "PIXSCALE", "PIXELSCALE", "PIXSCAL1", "PSCALE")  # in arcseconds
# Extensions of STPSF (WebbPSF): those on the pixels of the detector include their response.
DETECTOR, FINE = ("DET_DIST", "DET_SAMP"), ("OVERDIST", "OVERSAMP")
GRIDS = ("NXPSFS", "NUM_PSFS", "DET_YX0")  # keywords of files of many PSFs that photutils reads


@dataclass
class PSFFile:
    """A PSF as a file holds it.

    Parameters
    ----------
    image : `~numpy.ndarray`, shape (ky, kx) or (bands, ky, kx)
        Its pixels.
    label : str
        What messages call it.
    oversampling : float, optional
        How many of its pixels fit on one of the image, where the header tells.
    scale : `~astropy.units.Quantity`, optional
        Angle of each of its pixels, where the header tells.
    includes_pixel : bool
        Whether the response of the image's pixel is in it.
    """

    image: np.ndarray
    label: str
    oversampling: float | None = None
    scale: u.Quantity | None = None
    includes_pixel: bool = True


def read_psf_file(path, pixel_scale=None, *, fine=False):
    """Read a PSF and what its header tells of its pixels.

    Parameters
    ----------
    path : path
        A FITS file: the extension ``PSF`` or ``PSFIMAGE``, of STPSF's (``OVERSAMP``, ``DET_SAMP``,
        ``OVERDIST``, ``DET_DIST``) the one that fits the image, else the first image.
    pixel_scale : `~astropy.units.Quantity`, optional
        Angle of the image's pixels.
    fine : bool
        Prefer the oversampled one of STPSF's extensions where the image's pixels are not known.

    Returns
    -------
    `PSFFile`, or None where the file holds no image: a model (`astro_ddprism.psf.fields`)

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    with open_fits(path) as hdus:
        if any(h.name == "PSF_DATA" for h in hdus) or any(
            key in h.header for h in hdus for key in GRIDS
        ):
            return None
        named = {h.name.upper(): h for h in hdus if h.is_image and len(h.shape) >= 2}
        hdu, collected = _of_stpsf(named, pixel_scale, fine)
        if hdu is None:
            hdu = find_extension(hdus, "psf", path)
        label = f"psf {path}" + (f", HDU {hdu.name}" if len(hdus) > 1 and hdu.name else "")
        own = hdu.header
        oversampling, scale = header_scale(own)
        if (oversampling, scale) == (None, None):
            oversampling, scale = header_scale(hdus[0].header)
        return PSFFile(read_extension(hdu, path), label, oversampling, scale, not collected)


def _of_stpsf(named, pixel_scale, fine):
    detector = next((named[name] for name in DETECTOR if name in named), None)
    fine_one = next((named[name] for name in FINE if name in named), None)
    if detector is None or fine_one is None:
        return (detector, False) if detector is not None else (fine_one, fine_one is not None)
    if pixel_scale is not None:
        _, scale = header_scale(detector.header)
        fits_on = scale is not None and abs((scale / pixel_scale).to_value(u.one) - 1) < SAME_SCALE
    else:
        fits_on = not fine
    return (detector, False) if fits_on else (fine_one, True)


def header_scale(header):
    """Oversampling and angle of a PSF's pixels, as far as a header tells.

    Parameters
    ----------
    header : mapping
        Keywords.

    Returns
    -------
    oversampling : float, or None
    scale : `~astropy.units.Quantity`, or None
    """
    oversampling = next((_number(header, key) for key in OVERSAMPLINGS if key in header), None)
    scale = next((_number(header, key) for key in SCALES if key in header), None)
    if scale is not None:
        return oversampling, scale * u.arcsec
    if not isinstance(header, fits.Header):
        return oversampling, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)  # a table has no axes of an image
        wcs = WCS(header, naxis=2)
    if wcs.has_celestial:
        return oversampling, np.mean(proj_plane_pixel_scales(wcs.celestial)) * u.deg
    angles = [unit for unit in wcs.wcs.cunit if unit.is_equivalent(u.deg)]
    if len(angles) == 2:
        return oversampling, abs(wcs.wcs.cdelt[0]) * angles[0]
    return oversampling, None


def _number(header, key):
    value = header[key]
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise InputError(f"psf, keyword {key}: found {value!r}, expected a positive number")
    return number


def checked_stamp(image, label, oversampling=1.0, centre=None):
    """Refuse what is no PSF, and measure where its centre is.

    Parameters
    ----------
    image : array_like, shape (ky, kx) or (bands, ky, kx)
        The PSF.
    label : str
        What messages call it.
    oversampling : float
        How many of its pixels fit on one of the image.
    centre : (float, float), optional
        Where the point source is; measured if not given.

    Returns
    -------
    image : `~numpy.ndarray` of float64
        Of sum 1 in each band.
    centre : (float, float)
        Zero-based pixel x and y of the point source: the middle, unless the mean over the bands
        is measured to lie elsewhere.

    Raises
    ------
    InputError
        If it has another number of axes, is not finite, is zero everywhere, sums neither to 1
        within a tenth nor to ``oversampling**2`` (as photutils has it), or lies more than 1.5
        pixels of the image off the middle.
    """
    image = np.asarray(image, dtype=np.float64)
    if image.ndim not in {2, 3} or image.size == 0:
        raise InputError(
            f"{label}: found an array of shape {image.shape}, expected (ky, kx) or (bands, ky, kx)"
        )
    bands = image.reshape(-1, *image.shape[-2:])
    for band in bands:
        if not np.isfinite(band).all():
            raise InputError(
                f"{label}: found {np.sum(~np.isfinite(band))} pixels that are not finite, "
                "expected none"
            )
        if not band.any():
            raise InputError(f"{label}: found zero in every pixel, expected a sum of 1")
    sums = bands.sum(axis=(1, 2))
    norms = [
        next((n for n in (1, oversampling**2) if abs(s / n - 1) <= SUM_TOLERANCE), None)
        for s in sums
    ]
    if None in norms:
        found = sums[norms.index(None)]
        raise InputError(
            f"{label}: found a sum of {found:.6g}, expected 1 within {SUM_TOLERANCE:g}; divide the "
            "PSF by its sum"
        )
    if (np.abs(sums / norms - 1) > SUM_NOTICED).any():
        logger.warning("%s: its sum is %s; divided by it", label, _text(sums / norms))
    bands = bands / sums[:, None, None]
    if centre is None:
        centre = _centre(bands, label, oversampling)
    return bands.reshape(image.shape), tuple(map(float, centre))


def _centre(bands, label, oversampling):
    """Where a PSF's point source is: in the middle, or where it is measured."""
    middle = (np.array(bands.shape[:0:-1]) - 1) / 2
    centres = np.array([measure_centre(band) for band in bands])
    off = np.abs(centres - middle).max(axis=0)
    if (off > CENTRE_TOLERANCE * max(1, oversampling)).any():
        worst = centres[np.argmax(np.abs(centres - middle).max(axis=1))]
        raise InputError(
            f"{label}: found the centre at pixel (x, y) = ({worst[0]:.4g}, {worst[1]:.4g}), "
            f"expected it in the middle, ({middle[0]:g}, {middle[1]:g})"
        )
    centre = centres.mean(axis=0)
    if (np.abs(centre - middle) < CENTRE_NOTICED * max(1, oversampling)).all():
        centre = middle
    elif (middle == middle.astype(int)).all():
        logger.warning(
            "%s: the point source is at (x, y) = (%.2f, %.2f), not in the middle pixel, (%d, %d); "
            "recentred", label, *centre, *middle,
        )  # fmt: skip
    return centre


def measure_centre(image):
    """Where a PSF's point source is.

    Parameters
    ----------
    image : (ny, nx) `~numpy.ndarray`
        The PSF.

    Returns
    -------
    (2,) `~numpy.ndarray`
        Zero-based pixel x and y: the centroid under a Gaussian window of the PSF's width, around
        itself.
    """
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    row, column = np.unravel_index(np.argmax(image), image.shape)
    centre = np.array([column, row], dtype=float)
    bright = np.clip(image, 0, None)
    # As many pixels as the half of the light takes; at least the peak's neighbours.
    light = np.cumsum(np.sort(bright, axis=None)[::-1])
    area = np.searchsorted(light, light[-1] / 2) + 1
    variance = max(0.5, area / np.pi / (2 * math.log(2)))
    for _ in range(100):
        window = bright * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 2 / variance)
        total = window.sum()
        step = np.array([(window * (x - centre[0])).sum(), (window * (y - centre[1])).sum()])
        step *= 2 / total  # of a PSF as wide as the window, which halves its offset
        centre += step
        if np.abs(step).max() < 1e-4 or not ((centre > -1) & (centre < image.shape[::-1])).all():
            break
    return centre


def on_pixels(image, centre, ratio, *, includes_pixel=True, label="psf"):
    """The response to a point source in the middle of a pixel of the image.

    Parameters
    ----------
    image : (bands, ny, nx) `~numpy.ndarray`
        The PSF.
    centre : (float, float)
        Its centre, pixel x and y.
    ratio : float
        How many of its pixels fit on a pixel of the image, along each axis.
    includes_pixel : bool
        Whether it includes the response of the image's pixel.
    label : str
        What messages call it.

    Returns
    -------
    (bands, ky, kx) `~numpy.ndarray`
        Odd-sized, its centre in the middle pixel, of sum 1.

    Raises
    ------
    InputError
        If the PSF's pixels are too coarse to tell.
    """
    if abs(ratio / max(1, round(ratio)) - 1) < SAME_SCALE:
        ratio = max(1, round(ratio))
    ny, nx = image.shape[1:]
    if ratio == 1 and includes_pixel and tuple(centre) == (nx // 2, ny // 2) and ny % 2 and nx % 2:
        return image
    if ratio > max(nx, ny):
        raise InputError(
            f"{label}: found {nx} x {ny} pixels, {ratio:.4g} of which fit on a pixel of the image, "
            "expected a PSF of more than one of its pixels; is its scale one in arcseconds?"
        )
    if not includes_pixel and ratio < 1 - SAME_SCALE:
        raise InputError(
            f"{label}: found pixels that are {1 / ratio:.3g} times those of the image, expected "
            "finer ones, as it does not include the response of the image's pixel"
        )
    along_y, along_x = (
        _matrix(n, c, ratio, includes_pixel) for n, c in zip((ny, nx), centre[::-1], strict=True)
    )
    kernel = along_y @ image @ along_x.T
    return kernel / kernel.sum(axis=(1, 2), keepdims=True)


def _matrix(n, centre, ratio, includes_pixel):
    """From the pixels of a PSF to those of the image, along one axis."""
    half = math.floor((max(centre, n - 1 - centre) + 0.5) / ratio)
    place = np.arange(-half, half + 1)[:, None] * ratio + centre - np.arange(n)
    if includes_pixel:
        return np.sinc(place)
    return np.clip(ratio / 2 + 0.5 - np.abs(place), 0, min(1, ratio))


def psf_label(psf):
    """What messages call a PSF."""
    return f"psf {psf}" if isinstance(psf, str | Path) else "psf"


def _text(numbers):
    return ", ".join(f"{number:.4g}" for number in np.atleast_1d(numbers))
