"""Detection of objects.

Objects are groups of connected pixels of the smoothed image that rise above the sky by a multiple
of its noise, split where they blend (`photutils.segmentation`). Several bands are first averaged
with inverse variance as weight, which is the best image to detect in when all objects have one
colour. Which of them are stars is told by `~astro_ddprism.survey.stars`.

Steps of the sky between detectors, ghosts and halos are detected too. They have no peak: an
object's contrast is the height of the smoothed image at its centre above the median of a ring
around it, in units of the noise of single pixels.
"""

import warnings

import numpy as np
from astropy import units as u
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from photutils.segmentation import SourceCatalog, deblend_sources, detect_sources
from photutils.utils.exceptions import NoDetectionsWarning
from scipy.ndimage import maximum_filter

from ..errors import NothingFoundError
from ..progress import photutils_bar
from ..psf.kernels import half_light_radius
from ..steps import step
from .noise import measure_background, smooth
from .stars import flag_stars

__all__ = ["detect_objects", "measure_objects"]

EDGE = 2  # pixels
RING = (3, 5)  # radii of the ring around an object, in units of the smoothing


@step("detection")
def detect_objects(
    image,
    *,
    psf=None,
    threshold=1.5,
    n_pixels=5,
    smoothing=None,
    deblend_contrast=0.005,
    box_size=64,
    progress=False,
):
    """Detect, deblend and measure all objects of an image, stars among them.

    Parameters
    ----------
    image : `SurveyImage`
        The image.
    psf : (ky, kx) or (bands, ky, kx) `~numpy.ndarray`, optional
        Point spread function: gives the smoothing and, where too few stars are bright, their size.
    threshold : float
        Height above the sky of the smoothed image, in units of the noise of single pixels.
    n_pixels : int
        Least number of connected pixels.
    smoothing : float, optional
        Full width at half maximum of the Gaussian to smooth with, in pixels; twice the half-light
        radius of the PSF, or 2.5 without one.
    deblend_contrast : float
        Least part of an object's flux that makes a peak in it an object of its own.
    box_size : int
        Side of the boxes in which the sky is measured, in pixels.
    progress : bool
        Show a progress bar.

    Returns
    -------
    `~astropy.table.QTable`
        One row per object, with the columns ``id`` (str), ``x``, ``y`` (pixels), ``sky_centroid``,
        ``flux`` and ``flux_err`` (of its pixels, in the image's unit; mean of the bands with
        inverse variance as weight), ``snr``, ``peak``, ``half_light_radius``, ``semimajor_axis``,
        ``semiminor_axis`` (pixels, standard deviations), ``orientation``, ``area`` (pixels)
        ``contrast`` and the flags ``star``, ``saturated``, ``edge`` (reaches the image's edge) and
        ``masked`` (a masked pixel within one pixel of the centre). ``meta["stellar_radius"]`` is
        the half-light radius of stars, `None` where it cannot be told.

    Raises
    ------
    InputError
        If nothing is detected.
    """
    objects = measure_objects(
        image,
        psf=psf,
        threshold=threshold,
        n_pixels=n_pixels,
        smoothing=smoothing,
        deblend_contrast=deblend_contrast,
        box_size=box_size,
        progress=progress,
    )
    flag_stars(objects, psf)
    return objects


@step("detection")
def measure_objects(
    image,
    *,
    psf=None,
    threshold=1.5,
    n_pixels=5,
    smoothing=None,
    deblend_contrast=0.005,
    box_size=64,
    progress=False,
):
    """Detect, deblend and measure all objects; which are stars is not told yet.

    Parameters are those of `detect_objects`, and so is the table but for ``star``.
    """
    data, error, mask = _detection_image(image)
    scale = np.median(error[~mask])  # photutils squares fluxes, which may be tiny
    data, error = data / scale, error / scale
    sky = measure_background(data, mask=mask, box_size=box_size)
    data = np.where(mask, 0, data - sky)
    if smoothing is None:
        smoothing = 2.5 if psf is None else 2 * half_light_radius(psf)
    smoothed = smooth(data, ~mask, smoothing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)
        warnings.simplefilter("ignore", AstropyUserWarning)  # deblending modes
        segments = detect_sources(smoothed, threshold * error, n_pixels, mask=mask)
        if segments is None:
            raise NothingFoundError(
                f"{image.filename}: found no object {threshold:g} times the noise above the sky in "
                f"{n_pixels} connected pixels, expected galaxies"
            )
        segments = deblend_sources(
            smoothed, segments, n_pixels, contrast=deblend_contrast, **photutils_bar(progress)
        )
        catalog = SourceCatalog(
            data, segments, error=error, mask=mask, wcs=image.wcs, **photutils_bar(progress)
        )
        radius = np.atleast_1d(u.Quantity(catalog.flux_radius(0.5)).value)
    flux, flux_err = (np.atleast_1d(v) for v in (catalog.segment_flux, catalog.segment_flux_err))
    x, y = np.atleast_1d(catalog.x_centroid), np.atleast_1d(catalog.y_centroid)
    good = np.isfinite(x) & np.isfinite(y) & (flux > 0) & (flux_err > 0)
    objects = QTable(
        {
            "id": np.atleast_1d(catalog.labels).astype(str),
            "x": x,
            "y": y,
            "sky_centroid": np.atleast_1d(catalog.sky_centroid),
            "flux": flux * scale * image.unit,
            "flux_err": flux_err * scale * image.unit,
            "snr": flux / flux_err,
            "peak": np.atleast_1d(catalog.max_value) * scale * image.unit,
            "half_light_radius": radius * u.pix,
            "semimajor_axis": np.atleast_1d(catalog.semimajor_axis),
            "semiminor_axis": np.atleast_1d(catalog.semiminor_axis),
            "orientation": np.atleast_1d(catalog.orientation),
            "area": np.atleast_1d(catalog.segment_area),
            "saturated": _touches(segments, image.saturated.any(axis=0)),
            "edge": _at_edge(catalog, mask.shape),
        }
    )[good]
    if len(objects) == 0:
        raise NothingFoundError(
            f"{image.filename}: found no object with a positive flux, expected galaxies"
        )
    objects["masked"] = _centre_masked(image.mask, objects)
    objects["contrast"] = _contrast(
        np.where(mask, np.nan, data / error), smoothed / error, objects, smoothing
    )
    return objects


def _detection_image(image):
    """Mean of the bands with inverse variance as weight, its error and its mask.

    Saturated pixels that hold a value stay, so that a saturated star is one object, and known as
    one.
    """
    finite = np.isfinite(image.data)
    fallback = np.median(image.variance[~image.mask])
    saturated = image.saturated & finite
    variance = np.where(saturated & image.mask, fallback, image.variance)
    weight = np.where((image.mask & ~saturated) | ~finite, 0, 1 / variance)
    total = weight.sum(axis=0)
    mask = total == 0
    safe = np.where(mask, 1, total)
    data = (weight * np.where(finite, image.data, 0)).sum(axis=0) / safe
    return data, np.where(mask, np.sqrt(fallback), safe**-0.5), mask


def _touches(segments, where):
    found = np.unique(segments.data[where])
    return np.isin(segments.labels, found)


def _at_edge(catalog, shape):
    return (
        (np.atleast_1d(catalog.bbox_xmin) < EDGE)
        | (np.atleast_1d(catalog.bbox_ymin) < EDGE)
        | (np.atleast_1d(catalog.bbox_xmax) >= shape[1] - EDGE)
        | (np.atleast_1d(catalog.bbox_ymax) >= shape[0] - EDGE)
    )


def _centre_masked(mask, objects):
    near = maximum_filter(mask.any(axis=0), size=3, mode="nearest")
    ny, nx = near.shape
    x = np.clip(np.round(objects["x"]).astype(int), 0, nx - 1)
    y = np.clip(np.round(objects["y"]).astype(int), 0, ny - 1)
    return near[y, x]


def _contrast(data, smoothed, objects, smoothing):
    ny, nx = data.shape
    x, y = (np.round(objects[axis]).astype(int)[:, np.newaxis] for axis in ("x", "y"))

    def pixels(inner, outer):
        reach = np.arange(-int(outer), int(outer) + 1)
        dy, dx = np.meshgrid(reach, reach, indexing="ij")
        chosen = (np.hypot(dy, dx) >= inner) & (np.hypot(dy, dx) <= outer)
        return np.clip(y + dy[chosen], 0, ny - 1), np.clip(x + dx[chosen], 0, nx - 1)

    ring = np.ma.masked_invalid(data[pixels(*(radius * smoothing for radius in RING))])
    level = np.ma.median(ring, axis=1).filled(0)
    return smoothed[pixels(0, smoothing)].max(axis=1) - level
