"""Units of pixels: read as astronomers spell them, and refused where pixels in them do not add.

``BUNIT`` is written in every spelling: in capitals, in the plural, with an S that is a second, with
an A that is an ångström. Every word of it is looked up here before astropy reads the whole; only
where a prefix hangs on the case of a letter (mJy, MJy) the case must be right.
"""

import re
import warnings

from astropy import units as u

from ..errors import InputError

__all__ = ["check_light", "parse_unit", "per_solid_angle", "read_unit"]

# Words by their lower case, as astropy spells them.
WORDS = {
    "electron": "electron electrons e el elec photoelectron photoelectrons",
    "ph": "ph photon photons phot",
    "ct": "ct count counts cts",
    "ct/s": "cps",
    "adu": "adu adus",
    "DN": "dn dns datanumber",
    "s": "s sec second seconds secs",
    "h": "h hr hour hours",
    "Jy": "jy jansky janskys janskies",
    "mJy": "millijansky millijanskys millijy",
    "uJy": "ujy microjansky microjanskys microjy µjy μjy",
    "nJy": "njy nanojansky nanojanskys nanojy",
    "MJy": "megajansky megajanskys megajy",
    "kJy": "kjy kilojansky kilojanskys kilojy",
    "mgy": "mgy maggy maggie maggies",
    "nmgy": "nmgy nanomaggy nanomaggie nanomaggies nmaggy nmaggies nanomgy",
    "umgy": "umgy micromaggy micromaggie micromaggies",
    "pix": "pix pixel pixels px",
    "beam": "beam beams bm",
    "sr": "sr ster sterad steradian steradians",
    "arcsec": "arcsec arcsecs arcsecond arcseconds asec",
    "arcsec2": "sqarcsec sqas arcsecsq",
    "arcmin": "arcmin arcminute arcminutes",
    "deg": "deg degree degrees",
    "Angstrom": "a ang angs angstrom angstroms ångström å",
    "um": "um micron microns micrometer µm μm",
    "nm": "nm",
    "cm": "cm",
    "m": "m meter",
    "erg": "erg ergs",
    "W": "w watt watts",
    "Hz": "hz hertz",
    "K": "k kelvin kelvins",
    "mag": "mag mags magnitude magnitudes abmag stmag",
}
SPELLED = {word: unit for unit, words in WORDS.items() for word in words.split()}
CASED = {"mJy": "mJy", "MJy": "MJy", "Mjy": "MJy"}  # words that capitals alone tell apart
NO_UNIT = {"", "none", "unitless", "dimensionless", "n/a", "1"}
TOKEN = re.compile(
    r"(?P<number>(?<![A-Za-z])\d+\.?\d*(?:[eE][+-]?\d+)?)|(?P<electron>\be-(?!\d))|(?P<word>[^\W\d_]+)",
    re.IGNORECASE,
)
# What light is measured in, with no area on the sky and not for a pixel.
LIGHT = [u.one, u.Jy, u.W / u.m**2, u.W / u.m**3, u.W, u.J, u.W / u.Hz]
COUNTED = {u.ct, u.adu, u.DN, u.electron, u.ph, u.mgy}


def read_unit(text):
    """The unit that a text spells.

    Parameters
    ----------
    text : str
        Such as the value of ``BUNIT``.

    Returns
    -------
    `~astropy.units.UnitBase` or None
        `None` if it spells none.
    """
    text = str(text).strip().strip("'\"[]").strip()
    if text.lower() in NO_UNIT:
        return u.dimensionless_unscaled
    if re.search("MJY.*(sr|ster)", text, re.IGNORECASE):
        text = text.replace("MJY", "MJy")  # nobody has millijanskys a steradian
    text = re.sub(r"\bper\b", "/", text, flags=re.IGNORECASE)
    plain = TOKEN.sub(_word, text)
    for spelling in (plain, text):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)
            try:
                unit = u.Unit(spelling)
            except (ValueError, TypeError):
                continue
        return unit
    return None


def _word(match):
    if match["number"]:
        return match["number"]
    if match["electron"]:
        return "electron"
    word = match["word"]
    return CASED.get(word) or SPELLED.get(word.lower(), word)


def per_solid_angle(unit) -> bool:
    """Whether a unit is one of surface brightness: light for an area on the sky.

    Parameters
    ----------
    unit : `~astropy.units.UnitBase`
        The unit.

    Returns
    -------
    bool
    """
    return _power(unit, u.rad) == -2


def _power(unit, base):
    unit = unit.decompose()
    return dict(zip(unit.bases, unit.powers, strict=True)).get(base, 0)


def check_light(unit, label, text=None):
    """The unit of a pixel's light, without "for a pixel", or an error if its pixels do not add.

    Parameters
    ----------
    unit : `~astropy.units.UnitBase`
        The unit.
    label : str
        Where it stands, for messages.
    text : str, optional
        How it is spelled there.

    Returns
    -------
    `~astropy.units.UnitBase`

    Raises
    ------
    InputError
        For magnitudes and other logarithms, flux for a beam, temperatures, and what is no light.
    """
    found = f"{label}: found the unit {str(unit) if text is None else text!r}"
    if not isinstance(unit, u.UnitBase) or _power(unit, u.dex):
        raise InputError(f"{found}, expected one in which light adds (no magnitudes)")
    if _power(unit, u.beam):
        raise InputError(
            f"{found}, expected flux for a pixel: pixels do not add where each holds the flux of a "
            "whole beam; divide by the beam's area in pixels first"
        )
    unit = unit * u.pix ** -_power(unit, u.pix)
    light = unit * u.sr if per_solid_angle(unit) else unit
    counted = any(_power(light, base) for base in COUNTED)
    if _power(light, u.rad) or not (counted or any(light.is_equivalent(one) for one in LIGHT)):
        raise InputError(f"{found}, expected a unit of light, for a pixel or an area on the sky")
    return unit


def parse_unit(text, label):
    """A unit of light as FITS headers spell it, also in capitals or the plural.

    Parameters
    ----------
    text : str or None
        Value of ``BUNIT``; `None` or blank is dimensionless.
    label : str
        Where it stands, for messages.

    Returns
    -------
    `~astropy.units.UnitBase`
        The unit; "for a pixel" is left out.

    Raises
    ------
    InputError
        If it is no unit that is known, or none in which pixels add.

    Examples
    --------
    >>> from astro_ddprism.io.pixel_units import parse_unit
    >>> parse_unit("ELECTRONS/S", "a.fits"), parse_unit("Counts per pixel", "a.fits")
    (Unit("electron / s"), Unit("ct"))
    """
    unit = u.dimensionless_unscaled if text is None else read_unit(text)
    if unit is None:
        raise InputError(
            f"{label}: found the unit {str(text).strip()!r}, expected one that astropy knows and "
            "in which light adds (no magnitudes); give the right one as unit"
        )
    return check_light(unit, label, None if text is None else str(text).strip())
