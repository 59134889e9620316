"""FITS files: which extension holds what, and errors that say what was found instead."""

import lzma
import re
import warnings
import zlib
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from ..errors import InputError

__all__ = [
    "NAMES",
    "NOISE_NAMES",
    "find_extension",
    "only_window",
    "open_fits",
    "read_extension",
    "read_plane",
]

# Extension names by what they hold, in the order in which they are believed.
NOISE_NAMES = {
    "uncertainty": ("ERR", "ERROR", "SIGMA", "UNCERT", "RMS", "STD", "STDDEV"),
    "variance": ("VAR", "VARIANCE"),
    "ivar": ("IVAR", "INVVAR"),
    "weight": ("WHT", "WEIGHT", "WGT"),
}
NAMES = {
    "image": ("SCI", "IMAGE", "SIGNAL", "DATA"),
    "mask": ("MASK", "DQ", "MSK", "FLAGS"),
    "psf": ("PSF", "PSFIMAGE"),
    "effective_gain": ("EXPOSURE", "EXPMAP", "GAIN"),
    **NOISE_NAMES,
}
NOT_SCIENCE = {name for role, names in NAMES.items() if role != "image" for name in names}
DAMAGE = re.compile("truncated|Error validating header", re.IGNORECASE)


@contextmanager
def open_fits(path):
    """Open a FITS file; what is wrong with it becomes an `InputError` that names it."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: found a folder, expected a FITS file")
    with path.open("rb") as stream:  # astropy leaves it open where reading fails
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                hdus = fits.open(stream, memmap=False, lazy_load_hdus=False)
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise InputError(f"{path}: not a FITS file ({reason})") from error
        for warning in caught:
            if DAMAGE.search(str(warning.message)):
                raise InputError(f"{path}: the file is truncated or damaged ({warning.message})")
        with hdus:
            yield hdus


def describe(hdus):
    """One line on what a FITS file holds, for messages."""
    return ", ".join(f"{i} {hdu.name or '(no name)'} ({_kind(hdu)})" for i, hdu in enumerate(hdus))


def _kind(hdu):
    if isinstance(hdu, fits.BinTableHDU | fits.TableHDU) and not _is_image(hdu):
        return "table"
    shape = getattr(hdu, "shape", ())
    return "image of " + " x ".join(map(str, shape)) if shape else "no data"


def _is_image(hdu):
    return hdu.is_image and len(hdu.shape) >= 2


def find_extension(hdus, role, path, spec=None):
    """The extension of a file that plays a role.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The open file.
    role : str
        What it holds: "image", "mask", "psf", "uncertainty", ...; some have usual names.
    path : str
        The file's name, for messages.
    spec : int, str or (str, int), optional
        Number, name, or name and version of the extension; without it, found by name, and for an
        image by order.

    Returns
    -------
    HDU or None
        `None` if none was asked for and none plays this role.
    """
    if spec is not None:
        if isinstance(spec, str) and spec.strip().isdigit():
            spec = int(spec)
        try:
            return hdus[spec]
        except (KeyError, IndexError):
            raise InputError(
                f"{path}: found no extension {spec!r} for the {role}, "
                f"the file has: {describe(hdus)}"
            ) from None
    for name in NAMES.get(role, ()):
        for hdu in hdus:
            if hdu.name.upper() == name and _is_image(hdu):
                return hdu
    if role not in {"image", "psf"}:
        return None
    for hdu in hdus:
        if _is_image(hdu) and (role == "psf" or hdu.name.upper() not in NOT_SCIENCE):
            return hdu
    raise InputError(f"{path}: found no image, expected one; the file has: {describe(hdus)}")


_WINDOW = ContextVar("window", default=None)


@contextmanager
def only_window(shape, rows, columns):
    """Read no more than a part of every image of some rows and columns, within the block.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns of the images of which a part is read; others are read whole.
    rows, columns : slice
        The part.
    """
    token = _WINDOW.set((tuple(shape), (rows, columns)))
    try:
        yield
    finally:
        _WINDOW.reset(token)


def read_extension(hdu, path):
    """The pixels of an extension, in the machine's byte order, as they are stored.

    Within `only_window`, those of a part of it.

    Parameters
    ----------
    hdu : HDU
        The extension.
    path : str
        The file's name, for messages.

    Returns
    -------
    `~numpy.ndarray`
        Floats stay what they are; integers stay integers.
    """
    label = f"{path}, HDU {hdu.name or 0}"
    if not hdu.is_image:
        raise InputError(f"{label}: found a table, expected an image")
    if len(hdu.shape) < 2:
        found = f"{len(hdu.shape)} dimensions" if hdu.shape else "no data"
        raise InputError(f"{label}: found {found}, expected an image of two or three dimensions")
    shape, part = _WINDOW.get() or (None, None)
    try:
        if hdu.shape[-2:] == shape:
            data = np.asarray(hdu.section[(slice(None),) * (len(hdu.shape) - 2) + part])
        else:
            data = hdu.data
    except (OSError, TypeError, ValueError, IndexError, RuntimeError, AstropyUserWarning) as error:
        raise InputError(
            f"{label}: the pixels cannot be read, the file is damaged ({error})"
        ) from error
    return data.astype(data.dtype.newbyteorder("="), copy=False)


def read_plane(path, *, role, hdu=None):
    """The pixels of one extension of a file of its own.

    Parameters
    ----------
    path : path
        FITS file.
    role : str
        What the extension holds; among several it is found by its usual names, else it is the first
        image.
    hdu : int or str, optional
        Number or name of the extension instead.

    Returns
    -------
    `~numpy.ndarray`
        The pixels.
    """
    with open_fits(path) as hdus:
        found = find_extension(hdus, role, path, hdu) or find_extension(hdus, "psf", path)
        return read_extension(found, path)


ALIASES = {
    "electrons": "electron",
    "counts": "count",
    "adus": "adu",
    "nanomaggies": "nmgy",
    "maggies": "mgy",
    "second": "s",
    "seconds": "s",
    "sec": "s",
}


def parse_unit(text, label):
    """A unit as FITS headers spell it, also in capitals or the plural.

    Parameters
    ----------
    text : str or None
        Value of ``BUNIT``; `None` or blank is dimensionless.
    label : str
        Where it stands, for messages.

    Returns
    -------
    `~astropy.units.UnitBase`
        The unit.

    Raises
    ------
    InputError
        If it is no unit that astropy knows.
    """
    if text is None or not str(text).strip():
        return u.dimensionless_unscaled
    text = str(text).strip()
    lower = re.sub("[a-z]+", lambda word: ALIASES.get(word.group(), word.group()), text.lower())
    for spelling in (text, lower):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)
            try:
                unit = u.Unit(spelling)
            except (ValueError, TypeError):
                continue
        if isinstance(unit, u.UnitBase) and u.dex not in unit.decompose().bases:
            return unit
    raise InputError(
        f"{label}: found the unit {text!r}, expected one that astropy knows and in which light "
        "adds (no magnitudes); give the right one as unit"
    )


def as_float(data):
    """Pixels as float32, or float64 if that is what they are.

    Parameters
    ----------
    data : array_like
        Any numbers.

    Returns
    -------
    `~numpy.ndarray`
        The same as floats.
    """
    data = np.asarray(data)
    return data.astype(np.float64 if data.dtype == np.float64 else np.float32, copy=False)
