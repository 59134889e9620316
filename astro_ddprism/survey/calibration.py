"""Images made flux for a pixel in physical units: by the area of a pixel, by a zero point."""

import numpy as np
from astropy import units as u

from ..errors import InputError
from ..io.pixel_units import per_solid_angle
from ..units import AB_FLUX
from .formats.pixels import pixel_area

__all__ = ["calibrated", "flux_per_pixel"]

MOST = 100  # magnitudes


def flux_per_pixel(image, raw):
    """An image of surface brightness as one of flux for a pixel: times the area of a pixel.

    Parameters
    ----------
    image : `~astro_ddprism.survey.SurveyImage`
        The image.
    raw : `~astro_ddprism.survey.formats.RawImage`
        What its file held; its ``origin`` takes a line.

    Returns
    -------
    `~astro_ddprism.survey.SurveyImage`
    """
    if not per_solid_angle(image.unit):
        return image
    area, text = pixel_area(raw.header, image.wcs)
    unit = u.uJy
    if not (image.unit * u.sr).is_equivalent(u.Jy, AB_FLUX):  # what it is without the angles
        parts = [*zip(image.unit.bases, image.unit.powers, strict=True)]
        parts = [(b, p) for b, p in parts if u.rad not in b.decompose().bases]
        unit = u.CompositeUnit(1, *map(list, zip(*parts, strict=True)))
    factor = (1 * image.unit * area).to_value(unit, AB_FLUX)
    if raw.area is not None and text == "PIXAR_SR":
        factor = factor * np.where(raw.area > 0, raw.area, 1)
        text += " and the area of each pixel"
    raw.origin["unit"] += f", times the area of a pixel ({area:.4g}, from {text}): flux in {unit}"
    return image.scaled(factor, unit)


def _zero_point(zero_point, raw):
    if isinstance(zero_point, str) and zero_point == "header":
        zero_point = raw.zero_point
    elif isinstance(zero_point, str) and zero_point in raw.header:
        zero_point = raw.header[zero_point]
    try:
        number = float(zero_point)
    except (TypeError, ValueError):
        number = np.nan
    if not abs(number) < MOST:  # NaN is not
        raise InputError(
            f"{raw.label}: zero_point: found {zero_point!r}, expected an AB magnitude or a keyword "
            "of the header that tells it"
        )
    return number


def calibrated(image, zero_point, raw):
    """An image of counts, with a zero point, or of maggies, in microjansky.

    Maggies are no unit of the FITS standard: products in microjansky are read everywhere.

    Parameters
    ----------
    image : `~astro_ddprism.survey.SurveyImage`
        The image.
    zero_point : float or str, optional
        The option of `~astro_ddprism.survey.read_image`.
    raw : `~astro_ddprism.survey.formats.RawImage`
        What its file held; its ``origin`` takes a line.

    Returns
    -------
    `~astro_ddprism.survey.SurveyImage`
    """
    if zero_point is None:
        if image.unit != u.dimensionless_unscaled and image.unit.is_equivalent(u.mgy):
            raw.origin["unit"] += f", of the AB system: flux in uJy, from {image.unit}"
            return image.scaled((1 * image.unit).to_value(u.uJy, AB_FLUX), u.uJy)
        if raw.zero_point is None or image.unit != u.dimensionless_unscaled:
            return image
        raw.origin["zero point"] = f"{raw.zero_point:.6g} mag, of the format: flux in uJy"
        number = raw.zero_point
    else:
        number = _zero_point(zero_point, raw)
        raw.origin["zero point"] = f"{number:.6g} mag, as given ({zero_point}): flux in uJy"
    if image.unit.is_equivalent(u.Jy, AB_FLUX):
        raise InputError(
            f"{image.filename}: found a zero point and the unit {image.unit}, which has one of its "
            "own; expected one or the other"
        )
    factor = float((number * u.ABmag).to_value(u.uJy))
    return image.scaled(factor, u.uJy)
