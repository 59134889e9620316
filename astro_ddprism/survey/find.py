"""Galaxies on an image: detected objects that are no stars, or those of a catalog."""

import logging
from inspect import signature

import numpy as np
from astropy import units as u

from ..errors import InputError, NothingFoundError
from ..units import AB_FLUX
from .detection import detect_objects

__all__ = ["detect_galaxies", "detect_stars", "find_galaxies", "select_galaxies"]

logger = logging.getLogger(__name__)


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
        raise NothingFoundError(
            f"found no galaxy among the detections ({summary}), expected at least one"
        )
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


def detect_stars(image):
    """Detect objects for the sake of the stars among them: blends stay blends.

    Parameters
    ----------
    image : `~astro_ddprism.survey.SurveyImage`
        The image.

    Returns
    -------
    `~astropy.table.QTable`, or None
        As of `~astro_ddprism.survey.detect_objects`; None where nothing is detected.
    """
    try:
        return detect_objects(image, deblend_contrast=1.0)
    except InputError:
        return None


def find_galaxies(image, *, psf=None, positions=None, detection=None):
    """Galaxies from a catalog, or detected.

    Parameters
    ----------
    image : `SurveyImage`
        The image.
    psf : `~numpy.ndarray`, optional
        Its PSF, for the detection.
    positions : `~astropy.table.QTable`, optional
        What a catalog has for galaxies (`~astro_ddprism.survey.read_positions`).
    detection
        As for `views_from_image`.

    Returns
    -------
    galaxies, objects : `~astropy.table.QTable`
        The galaxies, and all that random positions may have to keep away from.
    """
    detection, selection = split_options(detection or {})
    if positions is not None:
        return positions, positions
    objects = detect_objects(image, psf=psf, **detection)
    return select_galaxies(objects, **selection), objects
