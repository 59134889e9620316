"""FITS files: which extension holds what, and errors that say what was found instead."""

import logging
import lzma
import re
import warnings
import zlib
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
from astropy.io import fits

from ..errors import InputError
from .cards import leave_out_malformed, without_unneeded
from .fits_checks import check_fits, check_packed_size, unpack_once
from .reading import open_input, reading, reason_of

__all__ = [
    "NAMES",
    "NOISE_NAMES",
    "find_extension",
    "find_own",
    "find_plane_of",
    "hdu_name",
    "only_window",
    "open_fits",
    "read_extension",
    "role_of",
]

logger = logging.getLogger(__name__)

# Extension names by what they hold, in the order in which they are believed.
NOISE_NAMES = {
    "uncertainty": ("ERR", "ERROR", "SIGMA", "UNCERT", "RMS", "STD", "STDDEV", "NOISE"),
    "variance": ("VAR", "VARIANCE", "STAT"),
    "ivar": ("IVAR", "INVVAR"),
    "weight": ("WHT", "WEIGHT", "WGT"),
}
NAMES = {
    "image": ("SCI", "IMAGE", "SIGNAL", "DATA"),
    "mask": (
        "MASK", "DQ", "MSK", "FLAGS", "FLAG", "FLG", "BPM", "BADPIX", "QUALITY", "MASKBITS",
        "DATA_QUALITY", "BAD_PIXEL_MASK", "DQUAL",
    ),
    "psf": ("PSF", "PSFIMAGE"),
    "effective_gain": ("EXPOSURE", "EXPMAP", "GAIN"),
    "other": (
        "AREA", "BACKGROUND", "BKG", "CON", "CTX", "CHI2", "COV", "COVERAGE", "EXP", "MODEL",
        "NEXP", "RESIDUAL", "SEG", "SEGM", "SEGMAP", "SKY", "D2IMARR", "WCSDVARR",
    ),
    **NOISE_NAMES,
}  # fmt: skip
ROLES = {name: role for role, names in NAMES.items() for name in names}
SEPARATORS = re.compile(r"[_\-. :]+")
UNSIGNED = 2**15  # BZERO of unsigned integers of 16 bits
DAMAGE = re.compile("truncated|Error validating header", re.IGNORECASE)


@contextmanager
def open_fits(path):
    """Open a FITS file; what is wrong with it becomes an `InputError` that names it."""
    with reading(path, "a FITS file"), open_input(path) as stream:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                unpack_once(path)
                try:
                    hdus = fits.open(stream, memmap=False, lazy_load_hdus=False)
                except OSError:
                    caught.clear()
                    hdus = fits.open(without_unneeded(stream), memmap=False, lazy_load_hdus=False)
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise InputError(f"{path}: not a FITS file ({reason})") from error
        for warning in caught:
            if DAMAGE.search(str(warning.message)):
                told = " ".join(str(warning.message).split())
                raise InputError(f"{path}: the file is truncated or damaged ({told})")
        replaced = any("on-ASCII" in str(warning.message) for warning in caught)
        with hdus:
            check_fits(path, hdus, replaced)
            for hdu in hdus:
                leave_out_malformed(hdu, path)
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


def hdu_name(hdus, hdu):
    """What messages call an extension: its name, with its version if another has the same.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The open file.
    hdu : HDU
        One of its extensions.

    Returns
    -------
    str
    """
    if not hdu.name or sum((h.name, h.ver) == (hdu.name, hdu.ver) for h in hdus) > 1:
        return f"{hdu.name} {hdus.index(hdu)}".strip()
    several = hdu.ver != 1 or sum(h.name == hdu.name for h in hdus) > 1
    return f"{hdu.name},{hdu.ver}" if several else hdu.name


def role_of(hdu):
    """What the name of an extension says that it holds, and which of several images it belongs to.

    Parameters
    ----------
    hdu : HDU
        The extension.

    Returns
    -------
    role : str or None
        "image", "mask", "psf", "other", ...; `None` if the name is not known.
    key : str
        The rest of the name: "CCD3" of ``CCD3``, ``MASK_CCD3`` and ``CCD3.RMS``, "" of ``SCI``.
    """
    name = hdu.name.strip().upper()
    if name in ROLES or name in {"", "PRIMARY"}:
        return ROLES.get(name), ""
    parts = SEPARATORS.split(name)
    ends = [(parts[-1], parts[:-1]), (parts[0], parts[1:])] if len(parts) > 1 else []
    ends = [(ROLES[word], ".".join(rest)) for word, rest in ends if word in ROLES]
    if ends:  # ERR_SCI, as SCI_ERR, is no image
        return min(ends, key=lambda one: one[0] == "image")
    numbered = re.fullmatch(r"(\D+)(\d+)", name)
    if numbered and numbered[1] in ROLES:
        return ROLES[numbered[1]], numbered[2]
    return None, ".".join(parts)


def find_extension(hdus, role, path, spec=None):
    """The extension of a file that plays a role.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The open file.
    role : str
        What it holds: "image", "psf", ...; some have usual names.
    path : str
        The file's name, for messages.
    spec : int, str or (str, int), optional
        Number, name, or name and version (also as ``"SCI,2"``) of the extension; without it, found
        by name, and for an image or a PSF by order.

    Returns
    -------
    HDU or None
        `None` if none was asked for and none plays this role.

    Raises
    ------
    InputError
        If there is none, or several images are alike and none is named.
    """
    if spec is not None:
        return _named(hdus, role, path, spec)
    named = [hdu for hdu in hdus if _is_image(hdu) and role_of(hdu)[0] == role]
    named.sort(key=lambda hdu: _rank(hdu, role))
    if role != "image":
        if not named and role == "psf":
            named = [hdu for hdu in hdus if _is_image(hdu)]
            if not named:
                raise _no_image(hdus, path)
        return named[0] if named else None
    exact = [hdu for hdu in named if not role_of(hdu)[1]]
    if len({hdu.name for hdu in exact}) == len(exact) > 0:
        return exact[0]
    alike = named or [hdu for hdu in hdus if _is_image(hdu) and role_of(hdu)[0] is None]
    if not alike:
        raise _no_image(hdus, path)
    if len(alike) > 1 and not (alike[0] is hdus[0] and not named):
        names = ", ".join(hdu_name(hdus, hdu) for hdu in alike)
        raise InputError(
            f"{path}: found {len(alike)} images, {names}, expected the name or the number of one "
            f"(hdu); the file has: {describe(hdus)}"
        )
    return alike[0]


def _no_image(hdus, path):
    return InputError(f"{path}: found no image, expected one; the file has: {describe(hdus)}")


def _rank(hdu, role):
    names = NAMES.get(role, ())
    name = hdu.name.upper()
    return names.index(name) if name in names else len(names)


def _named(hdus, role, path, spec):
    """The extension of a number, a name, or a name and a version."""
    if isinstance(spec, str):
        name, comma, version = spec.strip().strip("[]").rpartition(",")
        if spec.strip().isdigit():
            spec = int(spec)
        elif comma and version.strip().isdigit():
            spec = (name.strip(), int(version))
    if isinstance(spec, str) and role == "image":
        same = [hdu for hdu in hdus if hdu.name == spec.strip().upper()]
        if len(same) > 1:
            names = ", ".join(hdu_name(hdus, hdu) for hdu in same)
            raise InputError(f"{path}: found {len(same)} of {spec}, expected one of {names}")
    try:
        return hdus[spec]
    except (KeyError, IndexError):
        raise InputError(
            f"{path}: found no extension {spec!r} for the {role}, the file has: {describe(hdus)}"
        ) from None


def find_own(hdus, role, image):
    """The plane of an image, in its own file: that of its own version and of its own CCD.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The open file.
    role : str
        What the plane holds: "mask", "uncertainty", ...
    image : HDU
        The image.

    Returns
    -------
    HDU or None
    """
    named = [h for h in hdus if h is not image and _is_image(h) and role_of(h)[0] == role]
    key = role_of(image)[1]
    images = [h for h in hdus if _is_image(h) and role_of(h)[0] in {"image", None}]
    own = [h for h in named if role_of(h)[1] == key]
    own = own or [h for h in named if image.name and role_of(h)[1] == image.name.upper()]
    if not own and len(images) == 1:
        own = [h for h in named if not role_of(h)[1]]
    own.sort(key=lambda hdu: _rank(hdu, role))
    same = [h for h in own if h.ver == image.ver]
    if not same and len(images) == 1 and len(own) == 1:
        same = own
    # Sets without versions follow each other: the plane stands behind its image.
    alike = [h for h in same if h.name == same[0].name]
    if len(alike) > 1:
        first, later = hdus.index(image), [hdus.index(h) for h in images if h.name == image.name]
        last = min((i for i in later if i > first), default=len(hdus))
        same = [h for h in alike if first < hdus.index(h) < last]
    return same[0] if same else None


def find_plane_of(hdus, role, path, like=None):
    """The extension of a file of its own that holds a plane of an image.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The open file.
    role : str
        What the plane holds.
    path : str
        The file's name, for messages.
    like : HDU, optional
        The image that it belongs to.

    Returns
    -------
    HDU
        Of the plane's usual name, or of the image's name and version, or the only image.

    Raises
    ------
    InputError
        If several could be meant.
    """
    images = [h for h in hdus if _is_image(h)]
    if not images:
        raise _no_image(hdus, path)
    if like is not None:
        twins = [h for h in images if like.name and h.name == like.name]
        if len(twins) > 1:
            twins = [h for h in twins if h.ver == like.ver]
        found = find_own(hdus, role, like) or (twins[0] if len(twins) == 1 else None)
        if found is not None:
            return found
    named = [h for h in images if role_of(h)[0] == role]
    found = named if len(named) == 1 else images
    if len(found) > 1 and found[0] is not hdus[0]:
        raise InputError(
            f"{path}: found {len(found)} images, expected one that is named as the {role}; the "
            f"file has: {describe(hdus)}"
        )
    return found[0]


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
        Floats stay what they are; integers stay integers, unless some are not defined (``BLANK``):
        these are NaN then.
    """
    label = f"{path}, HDU {hdu.name or 0}"
    if not hdu.is_image:
        raise InputError(f"{label}: found a table, expected an image")
    if len(hdu.shape) < 2:
        found = f"{len(hdu.shape)} dimensions" if hdu.shape else "no data"
        raise InputError(f"{label}: found {found}, expected an image of two or three dimensions")
    if hdu.header.get("BZERO") == UNSIGNED and hdu.header.get("BITPIX") < 0:
        logger.warning(
            "%s: found floats with BZERO %d, that of unsigned integers, which is added; if it is "
            "left over, all is too bright by it", label, UNSIGNED,
        )  # fmt: skip
    check_packed_size(hdu, label)
    shape, part = _WINDOW.get() or (None, None)
    blank, zero, scale = (
        hdu.header.get(k, d) for k, d in (("BLANK", None), ("BZERO", 0), ("BSCALE", 1))
    )
    try:
        data = _section(hdu, *part) if hdu.shape[-2:] == shape else hdu.data
    except Exception as error:  # those who unpack tiles raise of every kind
        raise InputError(
            f"{label}: the pixels cannot be read, the file is damaged ({reason_of(error)})"
        ) from error
    data = data.astype(data.dtype.newbyteorder("="), copy=False)
    if blank is not None and data.dtype.kind == "u" and zero and scale == 1:
        return np.where(data == blank + zero, np.nan, data)  # astropy leaves it as a number
    return data


def _section(hdu, rows, columns):
    """A part of an image; of one that is not in tiles whole rows are read, at once."""
    outer = (slice(None),) * (len(hdu.shape) - 2)
    if isinstance(hdu, fits.CompImageHDU):
        return np.asarray(hdu.section[(*outer, rows, columns)])
    return hdu.section[(*outer, rows)][..., columns].copy()


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
