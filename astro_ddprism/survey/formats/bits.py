"""Bits of masks: their names, in headers and in the tables of surveys, and which are defects.

A bit of a mask need not mean that a pixel is bad: some tell that an object was detected there, or
that a cosmic ray was corrected. Headers name their bits in several ways: ``MP_NAME = 3`` (LSST,
HSC: the number of the bit), ``MBIT_3 = 'NAME'`` (Legacy Surveys), ``MSKNAM03 = 'NAME'`` with
``MSKVAL03 = 8`` (Pan-STARRS). Where a header names them, those of `DEFECTS` are bad, unless the
format has a table of its own.

Pixels are told apart by `astropy.nddata.bitmask`. Its own reading of bits knows neither hexadecimal
numbers nor names that only a header tells, so that `parse_bits` reads them.
"""

import re

import numpy as np
from astropy.nddata.bitmask import bitfield_to_boolean_mask

from ...errors import InputError

__all__ = ["DEFECTS", "TABLES", "bad_pixels", "header_bits"]

DEFECTS = {
    "BAD", "SAT", "SATURATED", "CR", "COSMIC", "EDGE", "NO_DATA", "NODATA", "SUSPECT",
    "UNMASKEDNAN", "VIGNETTED", "SENSOR_EDGE", "CROSSTALK", "DO_NOT_USE", "NON_SCIENCE", "BLANK",
    "FLAT", "DARK", "DETECTOR", "RANGE", "LOW", "STREAK", "TRAIL", "SATELLITE", "ITL_DIP",
    "PARTLY_VIGNETTED",
}  # fmt: skip

TABLES: dict[str, dict[str, int]] = {}
"""Names of bits by the name of the format; each format adds its own."""


def header_bits(header):
    """Names of the bits of a mask, as its header tells them.

    Parameters
    ----------
    header : mapping
        Keywords and values.

    Returns
    -------
    dict of str to int
        The value of each bit.

    Examples
    --------
    >>> from astro_ddprism.survey.formats.bits import header_bits
    >>> header_bits({"MP_SAT": 1, "MBIT_3": "BRIGHT", "MSKNAM00": "CR", "MSKVAL00": 64})
    {'SAT': 2, 'BRIGHT': 8, 'CR': 64}
    """
    bits = {}
    for keyword, value in header.items():
        numbered = re.fullmatch(r"(MBIT_?|MSKNAM)(\d+)", keyword)
        if re.match("MP_|MBIT_", keyword) and isinstance(value, int) and 0 <= value < 64:
            bits[keyword.partition("_")[2]] = 1 << value
        elif numbered and isinstance(value, str):
            number = header.get(f"MSKVAL{numbered[2]}") if numbered[1] == "MSKNAM" else None
            bits[value.strip().upper()] = (
                number if isinstance(number, int) else 1 << int(numbered[2])
            )
    return bits


def bad_pixels(raw, bad_bits=None):
    """Which pixels the mask of an image says to be bad; a line on it goes to its ``origin``.

    Parameters
    ----------
    raw : `~astro_ddprism.survey.formats.RawImage`
        The image, with a mask.
    bad_bits : int, str or sequence of these, optional
        The bits that make a pixel bad, added up or one by one: numbers, also hexadecimal, and
        names. By default those that the format says, else all.

    Returns
    -------
    bool `~numpy.ndarray`

    Raises
    ------
    InputError
        If the mask has no bits, not these, or their names are not known.
    """
    mask = np.asarray(raw.mask)
    if bad_bits is None and not raw.bits:
        raw.origin["mask"] += ", all that is not zero is bad"
        if mask.dtype.kind in "iu":
            raw.origin["mask"] += _present(mask, {})
        return mask != 0
    undefined = np.zeros(mask.shape, dtype=bool)
    if mask.dtype.kind == "f":
        undefined = ~np.isfinite(mask)
        whole = np.where(undefined, 0, mask)
        if not (whole == np.rint(whole)).all() or np.abs(whole).max(initial=0) >= 2**53:
            raise InputError(
                f"{raw.label}: bad_bits needs a mask of integers, found {mask.dtype} with fractions"
            )
        mask = whole.astype(np.int64)
    elif mask.dtype.kind not in "iu":
        if bad_bits is None:
            return mask != 0
        raise InputError(f"{raw.label}: bad_bits needs a mask of integers, found {mask.dtype}")
    if bad_bits is not None:
        value = parse_bits(bad_bits, raw.bits, raw.label)
    else:
        value = sum({raw.bits[name] for name in _defects(raw)})
    n_bits = 8 * mask.dtype.itemsize
    if not 0 <= value < 1 << n_bits:
        raise InputError(
            f"{raw.label}: bad_bits: found {value}, expected bits of a mask of {mask.dtype}, which "
            f"has {n_bits}"
        )
    mask = mask.view(np.dtype(f"u{mask.dtype.itemsize}"))
    names = [name for name, bit in raw.bits.items() if bit & value == bit] or [hex(value)]
    raw.origin["mask"] += f", bad: {', '.join(names)}" + _present(mask, raw.bits)
    return bitfield_to_boolean_mask(mask, value, flip_bits=True) | undefined


def _defects(raw):
    names = DEFECTS if raw.bad is None else raw.bad
    return [name for name in raw.bits if name in names]


def _present(mask, bits):
    """The bits that are set somewhere, and in which part of the pixels."""
    mask = mask.view(np.dtype(f"u{mask.dtype.itemsize}"))
    found = int(np.bitwise_or.reduce(mask, axis=None)) if mask.size else 0
    names = {value: name for name, value in bits.items()}
    parts = []
    for k in range(8 * mask.dtype.itemsize):
        if found >> k & 1:
            part = np.mean(mask & mask.dtype.type(1 << k) != 0)
            parts.append(f"{names.get(1 << k, 1 << k)} {part:.2%}")
    return f" (set: {', '.join(parts)})" if parts else " (none is set)"


def parse_bits(spec, names, label="mask"):
    """The value of bits that are told by number or by name.

    Parameters
    ----------
    spec : int, str or sequence of these
        Such as 5, ``"0x1F"`` or ``"SAT,CR"``.
    names : mapping of str to int
        The names that the image itself gives; else those of `TABLES` hold, where they agree.
    label : str
        What messages call the image.

    Returns
    -------
    int
    """
    if isinstance(spec, str):
        spec = [part for part in re.split(r"[,|+\s]+", spec.strip()) if part]
    elif isinstance(spec, int | np.integer):
        spec = [spec]
    value = 0
    for part in spec:
        value |= _one_bit(part, names, label)
    return value


def _one_bit(part, names, label):
    if isinstance(part, int | np.integer) and not isinstance(part, bool):
        return int(part)
    part = str(part).strip()
    try:
        return int(part, 0)
    except ValueError:
        pass
    name = part.upper()
    known = {n.upper(): bit for n, bit in names.items()}
    if name in known:
        return known[name]
    tables = {} if names else {f: t[name] for f, t in TABLES.items() if name in t}
    if len(set(tables.values())) == 1:
        return next(iter(tables.values()))
    told = ", ".join(f"{n} ({bit})" for n, bit in known.items())
    if tables:
        told = "its number: it is " + ", ".join(f"{bit} in {f}" for f, bit in tables.items())
    raise InputError(
        f"{label}: bad_bits: found {part!r}, expected {told or 'numbers: the mask names no bits'}"
    )
