r"""Detection of galaxies.

Objects are groups of connected pixels of the smoothed image that rise above the sky by a multiple
of its noise, split where they blend (`photutils.segmentation`). Several bands are first averaged
with inverse variance as weight, which is the best image to detect in when all objects have one
colour.

Stars are told by their size. All have one half-light radius, that of the PSF, so among the objects
of high signal-to-noise the radii pile up at its smallest common value (the stellar locus),
:math:`r_\star`; the locus is the narrow window of radii in which the objects are most crowded
compared with the radii above it. A bright object is a star if its radius is below
:math:`1.15\,r_\star`. Where the signal-to-noise is lower, measured radii scatter across this line
while faint galaxies are small and far more numerous than stars; the limit is then
:math:`1.05\,r_\star`, and at the lowest :math:`0.75\,r_\star`, below which nothing is that came
through the telescope (cosmic rays, bad pixels).

Steps of the sky between detectors, ghosts and halos are detected too. They have no peak: an
object's contrast is the height of the smoothed image at its centre above the median of a ring
around it, in units of the noise of single pixels.
"""

import logging
import warnings
from inspect import signature

import numpy as np
from astropy import units as u
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from photutils.segmentation import SourceCatalog, deblend_sources, detect_sources
from photutils.utils.exceptions import NoDetectionsWarning
from scipy.ndimage import maximum_filter

from ..errors import InputError
from ..progress import photutils_bar
from ..units import AB_FLUX
from .noise import measure_background, smooth
from .psf import half_light_radius

__all__ = ["detect_galaxies", "detect_objects", "select_galaxies", "stellar_locus"]

logger = logging.getLogger(__name__)

STAR_WINDOW = 1.1  # the locus: radii within 10 %
# Above this signal-to-noise ratio stars are smaller than this, in units of the locus. On a field of
# `simulate_field`, 7 % of the galaxies kept are faint stars then, and 6 % of the galaxies with a
# ratio of 15 to 30 are lost.
STAR_LIMITS = {30: 1.15, 15: 1.05, 0: 0.75}
BRIGHT_SNR = 30
STAR_COUNT = 8  # fewer objects make no locus
EDGE = 2  # pixels
RING = (3, 5)  # radii of the ring around an object, in units of the smoothing


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
            raise InputError(
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
        raise InputError(
            f"{image.filename}: found no object with a positive flux, expected galaxies"
        )
    objects["masked"] = _centre_masked(image.mask, objects)
    objects["contrast"] = _contrast(
        np.where(mask, np.nan, data / error), smoothed / error, objects, smoothing
    )
    _flag_stars(objects, psf)
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


def _flag_stars(objects, psf):
    radius = objects["half_light_radius"].value
    bright = (objects["snr"] > BRIGHT_SNR) & ~objects["saturated"] & ~objects["edge"]
    near = None if psf is None else half_light_radius(psf)
    locus = stellar_locus(radius[bright], near=near)
    if locus is None:
        locus = near
    objects.meta["stellar_radius"] = locus
    if locus is None:
        objects["star"] = np.zeros(len(objects), dtype=bool)
        logger.info("stars are not told from galaxies: no stellar locus and no PSF")
        return
    limit = np.select(
        [objects["snr"] > snr for snr in STAR_LIMITS], list(STAR_LIMITS.values()), np.inf
    )
    objects["star"] = ~(radius > limit * locus)


def stellar_locus(radii, *, near=None):
    """Half-light radius of the stars among bright objects.

    Parameters
    ----------
    radii : array_like
        Half-light radii of objects of high signal-to-noise, in pixels.
    near : float, optional
        Where it should be, within 30 %, as the PSF tells.

    Returns
    -------
    float or None
        The radius; `None` where no narrow window of radii is crowded enough.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_ddprism.survey import stellar_locus
    >>> rng = np.random.default_rng(0)
    >>> stars, galaxies = rng.normal(1.7, 0.03, 40), rng.uniform(1.5, 6, 200)
    >>> bool(abs(stellar_locus([*stars, *galaxies]) - 1.7) < 0.05)
    True
    >>> stellar_locus(rng.uniform(1.5, 6, 200)) is None
    True
    """
    radii = np.sort(np.asarray(radii, dtype=float))
    radii = radii[np.isfinite(radii) & (radii > 0)]
    if near is not None:
        radii = radii[(radii > 0.7 * near) & (radii < 2 * near)]
    if len(radii) < STAR_COUNT:
        return None
    # Objects in the window that starts at each radius, against two windows above it, per window.
    end = np.searchsorted(radii, radii * STAR_WINDOW, side="right")
    count = end - np.arange(len(radii))
    above = (np.searchsorted(radii, radii * STAR_WINDOW**3, side="right") - end) / 2
    excess = (count - above) / np.sqrt(count + above / 2)
    # Stars are smaller than most galaxies, and the window holds at least as many as galaxies.
    excess[(radii > np.median(radii)) | (count < 2 * above)] = -np.inf
    if near is not None:
        excess[radii > 1.3 * near] = -np.inf
    best = int(np.argmax(excess))
    if count[best] < STAR_COUNT or excess[best] < 4:
        return None
    return float(np.median(radii[best : end[best]]))


def select_galaxies(
    objects, *, reject_stars=True, min_snr=10.0, min_contrast=2.0, min_flux=None, max_flux=None
):
    """Those of the objects that are galaxies.

    Saturated objects and those at the edge or with a masked centre are never among them.

    Parameters
    ----------
    objects : `~astropy.table.QTable`
        From `detect_objects`.
    reject_stars : bool
        Leave out the stars.
    min_snr : float
        Least signal-to-noise ratio of the flux.
    min_contrast : float
        Least contrast with the surroundings; the default is just above that of steps and ghosts.
    min_flux, max_flux : float or `~astropy.units.Quantity`, optional
        Range of fluxes; a number is in the image's unit.

    Returns
    -------
    `~astropy.table.QTable`
        The rows that are left; ``meta`` holds how many objects there were and how many went for
        which reason: ``n_objects``, ``n_saturated``, ``n_edge``, ``n_masked``, ``n_star``,
        ``n_faint``, ``n_diffuse``, ``n_flux``.

    Raises
    ------
    InputError
        If none is left.
    """
    unit = objects["flux"].unit
    with np.errstate(invalid="ignore"):
        out_of_range = np.zeros(len(objects), dtype=bool)
        if min_flux is not None:
            out_of_range |= objects["flux"] < _flux(min_flux, unit, "min_flux")
        if max_flux is not None:
            out_of_range |= objects["flux"] > _flux(max_flux, unit, "max_flux")
    reasons = {
        "saturated": objects["saturated"],
        "edge": objects["edge"],
        "masked": objects["masked"],
        "star": objects["star"] & reject_stars,
        "faint": objects["snr"] < min_snr,
        "diffuse": objects["contrast"] < min_contrast,
        "flux": out_of_range,
    }
    left = np.ones(len(objects), dtype=bool)
    counts = {"n_objects": len(objects)}
    for reason, rejected in reasons.items():
        counts[f"n_{reason}"] = int(np.sum(left & rejected))
        left &= ~np.asarray(rejected)
    summary = ", ".join(f"{n} {name.removeprefix('n_')}" for name, n in counts.items())
    logger.info("detected: %s; %d galaxies", summary, left.sum())
    if not left.any():
        raise InputError(f"found no galaxy among the detections ({summary}), expected at least one")
    galaxies = objects[left]
    galaxies.meta.update(counts)
    return galaxies


def _flux(value, unit, name):
    try:
        given = u.Quantity(value, unit if not isinstance(value, u.Quantity) else None)
        return given.to(unit, AB_FLUX)
    except u.UnitConversionError as error:
        raise InputError(f"{name}: found {value}, expected a flux in {unit}") from error


def detect_galaxies(image, *, psf=None, **options):
    """Detect the galaxies of an image.

    Parameters
    ----------
    image : `SurveyImage`
        The image.
    psf : (ky, kx) or (bands, ky, kx) `~numpy.ndarray`, optional
        Point spread function.
    **options
        Those of `detect_objects` (threshold, n_pixels, smoothing, deblend_contrast, box_size,
        progress) and of `select_galaxies` (reject_stars, min_snr, min_contrast, min_flux,
        max_flux).

    Returns
    -------
    `~astropy.table.QTable`
        One row per galaxy, with the columns of `detect_objects` and the counts of
        `select_galaxies`.

    Raises
    ------
    InputError
        If there is no galaxy, or an option has another name.
    """
    detection, selection = split_options(options)
    return select_galaxies(detect_objects(image, psf=psf, **detection), **selection)


def split_options(options):
    """Tell options of `detect_objects` from options of `select_galaxies`.

    Parameters
    ----------
    options : dict
        Options of either.

    Returns
    -------
    detection, selection : dict
        Those of each.
    """
    known = [
        {
            name
            for name, one in signature(function).parameters.items()
            if one.kind is one.KEYWORD_ONLY
        }
        for function in (detect_objects, select_galaxies)
    ]
    known[0].discard("psf")
    unknown = set(options) - known[0] - known[1]
    if unknown:
        raise InputError(
            f"detection: found the options {', '.join(sorted(unknown))}, expected "
            f"{', '.join(sorted(known[0] | known[1]))}"
        )
    return tuple(
        {name: value for name, value in options.items() if name in names} for names in known
    )
