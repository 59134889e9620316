"""Pixels and their units, as they are stored, made linear flux for a pixel."""

import numpy as np
from astropy import units as u

from ...errors import InputError
from ...io.pixel_units import check_light, parse_unit, per_solid_angle, read_unit
from ...units import AB_FLUX

__all__ = ["find_unit", "linear", "noise_in_unit", "pixel_area", "to_variance"]

SOFTENED = ("BSOFTEN", "BOFFSET")
OTHER_STRETCHES = ("SOFTEN", "SOFTPAR", "ASINHB", "LUPTSOFT", "LUPTB")
POWERS = {"uncertainty": 1, "variance": 2, "ivar": -2}
AREA_TOLERANCE = 0.1  # of the area that a header tells, against that of the WCS


def find_unit(given, stated, label, origin):
    """The unit of the pixels, as the option ``unit`` or the image tells it.

    Parameters
    ----------
    given : unit or str, optional
        The option; it replaces what is stated.
    stated : unit or str, optional
        What the image states.
    label : str
        What messages call the image.
    origin : dict
        Takes the line on the unit.

    Returns
    -------
    `~astropy.units.UnitBase`

    Raises
    ------
    InputError
        If the unit is none of light, or the option cannot be right: flux for a pixel in place of a
        surface brightness, a magnitude or the flux of a beam.
    """
    own = read_unit(stated) if stated is None or isinstance(stated, str) else stated
    own = u.dimensionless_unscaled if stated is None else own
    spelled = "no unit" if stated is None else f"the unit {str(stated).strip()!r}"
    if given is None:
        origin["unit"] = f"{stated}" if stated is not None else "none stated"
        if isinstance(stated, str) or stated is None:
            return parse_unit(stated, label)
        return check_light(stated, label)
    unit = (
        check_light(given, "unit") if isinstance(given, u.UnitBase) else parse_unit(given, "unit")
    )
    # What the pixels are, no other name makes right.
    if own is not None and _is_no_flux(own):
        check_light(own, label, stated)
    if own is not None and per_solid_angle(own) and not per_solid_angle(unit):
        raise InputError(
            f"{label}: found {spelled}, a surface brightness, and the option unit, {unit}, "
            "expected none: it is multiplied by the area of a pixel, or another surface brightness"
        )
    origin["unit"] = f"{unit}, as given in place of {spelled}"
    return unit


def _is_no_flux(unit):
    """Whether a unit is known to be a magnitude or the flux of a beam."""
    return not isinstance(unit, u.UnitBase) or bool({u.dex, u.beam} & {*unit.decompose().bases})


def linear(array, header, label):
    r"""Pixels as they were before an asinh stretch that their header tells of.

    Pixels :math:`v` of Pan-STARRS stacks are
    :math:`a\,\mathrm{asinh}\frac{f - f_0}{2 s}` of the flux :math:`f`, with
    :math:`a = 2.5 / \ln 10` and the keywords ``BSOFTEN`` (:math:`s`) and ``BOFFSET`` (:math:`f_0`).

    Parameters
    ----------
    array : `~numpy.ndarray`
        The pixels.
    header : mapping
        Their header.
    label : str
        What messages call them.

    Returns
    -------
    array : `~numpy.ndarray`
    text : str
        What was done, or "".

    Raises
    ------
    InputError
        If a stretch is told but not how to undo it.
    """
    stretch = [name for name in OTHER_STRETCHES if name in header]
    stretch += [name for name in SOFTENED if name in header and not _all_numbers(header, SOFTENED)]
    if stretch:
        raise InputError(
            f"{label}: found the keyword {stretch[0]} of an asinh stretch, expected linear flux, "
            "or both BSOFTEN and BOFFSET as numbers"
        )
    if SOFTENED[0] not in header:
        return array, ""
    softening, offset = (float(header[name]) for name in SOFTENED)
    scale = 2.5 / np.log(10)
    flux = offset + 2 * softening * np.sinh(np.asarray(array, dtype=np.float64) / scale)
    return flux, f", asinh undone (BSOFTEN {softening:.6g}, BOFFSET {offset:.6g})"


def _all_numbers(header, names):
    return all(
        isinstance(header.get(name), int | float) and np.isfinite(header[name]) for name in names
    )


def noise_in_unit(noise, kind, unit, raw_unit, label):
    """A noise plane in the unit of the image.

    Parameters
    ----------
    noise : `~numpy.ndarray`
        The plane.
    kind : str
        "uncertainty", "variance", "ivar" or "weight"; a weight has no unit that matters.
    unit : unit or str, optional
        The unit that it states.
    raw_unit : unit or str, optional
        The unit that the image states, whatever replaces it.
    label : str
        What messages call the plane.

    Returns
    -------
    `~numpy.ndarray`

    Raises
    ------
    InputError
        If the units do not fit.
    """
    if kind == "weight" or unit is None or unit == raw_unit:  # headers are copied as they are
        return noise
    own, image = (read_unit(one) if isinstance(one, str) else one for one in (unit, raw_unit))
    if own is None or image is None or u.dimensionless_unscaled in (own, image) or own == image:
        return noise
    power = POWERS[kind]
    try:
        factor = (own ** (1 if power > 0 else -1)).to(image ** abs(power), equivalencies=AB_FLUX)
    except u.UnitConversionError as error:
        raise InputError(
            f"{label}: found the unit {str(unit)!r}, expected {image**power} for the {kind} of an "
            f"image in {image}"
        ) from error
    return noise if factor == 1 else noise * (factor if power > 0 else 1 / factor)


def to_variance(array, kind):
    """The variance behind a standard deviation ("uncertainty"), variance, "ivar" or "weight".

    It is NaN where these are negative, and infinite where a weight is zero.
    """
    array = np.asarray(array, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        array = np.where(array < 0, np.nan, array)
    if kind == "uncertainty":
        return array**2
    if kind == "variance":
        return array
    return np.divide(1.0, array, out=np.full_like(array, np.inf), where=array > 0)


def pixel_area(header, wcs):
    """The area of a pixel on the sky.

    Parameters
    ----------
    header : mapping
        Its ``PIXAR_SR`` holds, unless the image was resampled to other pixels since: the WCS tells.
    wcs : `~astropy.wcs.WCS`
        Celestial world coordinates of the pixels.

    Returns
    -------
    area : `~astropy.units.Quantity`
    text : str
        Where it comes from.
    """
    area = wcs.proj_plane_pixel_area().to(u.sr)
    told = header.get("PIXAR_SR")
    if not isinstance(told, int | float) or not np.isfinite(told) or not told > 0:
        return area, "the WCS"
    if abs(told / area.value - 1) > AREA_TOLERANCE:
        return area, f"the WCS; PIXAR_SR is {told / area.value:.3g} times that"
    return told * u.sr, "PIXAR_SR"
