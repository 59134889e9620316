"""Roman: exposures and mosaics, which are ASDF files.

``roman.data``, ``roman.err`` and ``roman.dq``; without ``err`` the variance is the sum of the
parts that there are (``var_poisson``, ``var_rnoise``, ``var_flat``). The files are read as plain
trees, with roman_datamodels if it is there, which knows the tags of its own objects. Their WCS is
a gwcs object, of which the package gwcs makes a SIP polynomial.

Bits of ``dq``: roman-pipeline.readthedocs.io, "Data Quality Flags".
"""

import warnings
from pathlib import Path

import asdf
import numpy as np
from astropy import units as u
from astropy.wcs import WCS

from ...errors import InputError
from ...io.asdf import open_checked
from .base import FORMATS, RawImage, find_gain, find_plane
from .bits import TABLES
from .pixels import find_unit

__all__ = ["BAD", "BITS", "from_roman", "is_roman"]

BITS = {
    "DO_NOT_USE": 1, "SATURATED": 2, "JUMP_DET": 4, "DROPOUT": 8, "GW_AFFECTED_DATA": 16,
    "PERSISTENCE": 32, "AD_FLOOR": 64, "OUTLIER": 128, "UNRELIABLE_ERROR": 256, "NON_SCIENCE": 512,
    "DEAD": 1024, "HOT": 2048, "WARM": 4096, "LOW_QE": 8192, "TELEGRAPH": 32768,
    "NONLINEAR": 65536, "BAD_REF_PIXEL": 131072, "NO_FLAT_FIELD": 262144, "NO_GAIN_VALUE": 524288,
    "NO_LIN_CORR": 1048576, "NO_SAT_CHECK": 2097152, "UNRELIABLE_BIAS": 4194304,
    "UNRELIABLE_DARK": 8388608, "UNRELIABLE_SLOPE": 16777216, "UNRELIABLE_FLAT": 33554432,
    "UNRELIABLE_RESET": 268435456, "OTHER_BAD_PIXEL": 1073741824, "REFERENCE_PIXEL": 2147483648,
}  # fmt: skip
BAD = ("DO_NOT_USE", "NON_SCIENCE")
UNIT = u.DN / u.s  # of exposures, where nothing is stated


def from_roman(path, *, noise=None, mask=None, unit=None, effective_gain=None):
    """What a Roman file holds; see `~astro_ddprism.survey.read_image` for the arguments.

    Parameters
    ----------
    path : path
        The file.
    noise, mask, unit, effective_gain : optional
        As for `~astro_ddprism.survey.read_image`; ``noise`` is a mapping.

    Returns
    -------
    `RawImage`
    """
    label = str(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tags of packages that are not there
        try:
            tree = open_checked(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{label}: not an ASDF file ({error})") from error
    with tree:
        roman = tree.tree.get("roman")
        if not isinstance(roman, dict) and not hasattr(roman, "data"):
            raise InputError(f"{label}: found an ASDF file without roman.data, expected an image")
        meta = _get(roman, "meta") or {}
        origin = {"flux": "roman.data"}
        data = _get(roman, "data")
        stated = getattr(data, "unit", None) or UNIT
        raw = RawImage(
            data=np.array(getattr(data, "value", data)),
            header=_keywords(meta),
            unit=find_unit(unit, stated, label, origin),
            wcs=None,
            label=label,
            file=Path(path).name,
            origin=origin,
        )
        raw.wcs = _fits_wcs(_get(meta, "wcs"), raw.data.shape, label)
        _take_noise(raw, roman, noise)
        dq = _get(roman, "dq")
        if mask is not None or dq is not None:
            raw.mask = np.array(dq) if mask is None else find_plane(mask, "mask", None, label)[0]
            raw.bits, raw.bad = dict(BITS), BAD
            origin["mask"] = "roman.dq" if mask is None else "the option mask"
        if effective_gain is not None:
            raw.gain, raw.gain_label = find_gain(effective_gain, raw, None, [raw.header])
            origin["gain"] = f"{raw.gain_label}, electrons for a flux of 1"
    return raw


def _get(node, name):
    """A part of a tree of dictionaries, or of objects of roman_datamodels."""
    return node.get(name) if hasattr(node, "get") else getattr(node, name, None)


def _keywords(meta):
    instrument = _get(meta, "instrument") or {}
    photometry = _get(meta, "photometry") or {}
    known = {
        "FILTER": _get(instrument, "optical_element"),
        "EXPTIME": _get(_get(meta, "exposure") or {}, "exposure_time"),
        "PIXAR_SR": _get(photometry, "pixel_area") or _get(photometry, "pixelarea_steradians"),
    }
    return {
        name: getattr(value, "value", value) for name, value in known.items() if value is not None
    }


def _take_noise(raw, roman, noise):
    for kind, spec in (noise or {}).items():
        raw.noise, found = find_plane(spec, kind, None, raw.label)
        raw.noise_kind, raw.noise_label = kind, found["label"]
        raw.origin["noise"] = f"{found['label']}, as {kind}"
    if noise:
        return
    parts = [
        name for name in ("var_poisson", "var_rnoise", "var_flat") if _get(roman, name) is not None
    ]
    if _get(roman, "err") is not None:
        names, raw.noise_kind, raw.noise = ["err"], "uncertainty", _plain(roman, "err")
    elif parts:
        names, raw.noise_kind = parts, "variance"
        raw.noise = sum(_plain(roman, name) for name in parts)
    else:
        return
    raw.noise_label = f"{raw.label}, roman.{names[0]}"
    raw.origin["noise"] = f"roman.{' + roman.'.join(names)}, {raw.noise_kind}"


def _plain(roman, name):
    plane = _get(roman, name)
    return np.array(getattr(plane, "value", plane))


def _fits_wcs(wcs, shape, label):
    """The WCS as one of FITS headers; that of an exposure as a polynomial."""
    if wcs is None or isinstance(wcs, WCS):
        return wcs
    if not hasattr(wcs, "to_fits_sip"):
        raise InputError(
            f"{label}: found a gwcs object, expected the package gwcs to read it: pip install gwcs"
        )
    box = ((-0.5, shape[-1] - 0.5), (-0.5, shape[-2] - 0.5))
    return WCS(wcs.to_fits_sip(bounding_box=box, max_pix_error=0.01))


def is_roman(_origin, path, _file, *_args, **_options):
    """Whether a file is an ASDF file of Roman.

    Parameters
    ----------
    path : str
        The file.

    Returns
    -------
    bool
    """
    if path is None or not Path(path).is_file():
        return False
    with Path(path).open("rb") as file:
        if file.read(5) != b"#ASDF":
            return False
    try:
        return "roman" in asdf.util.load_yaml(path)
    except (OSError, ValueError):
        return False


TABLES["roman"] = BITS
FORMATS.register_reader("roman", RawImage, from_roman)
FORMATS.register_identifier("roman", RawImage, is_roman)
