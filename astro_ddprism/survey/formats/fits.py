"""FITS files: an image, and its noise and mask in extensions that are named so.

A survey's own files are a `Layout`: how they are known, which files lie beside an image, what the
bits of its mask mean, and what its pixels are where no keyword says so. All are read by one
function.
"""

import logging
import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from astropy import log
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning

from ...errors import InputError
from ...io.cards import WCS_NUMBER, leave_out_malformed
from ...io.fits_checks import unpack_once, version_of
from ...io.fits_in import (
    NAMES,
    NOISE_NAMES,
    find_extension,
    find_own,
    hdu_name,
    open_fits,
    read_extension,
    role_of,
)
from ...io.pixel_units import per_solid_angle
from .base import FORMATS, RawImage, find_gain, find_plane, header_of
from .bits import TABLES
from .pixels import find_unit, linear, noise_in_unit

__all__ = ["Layout", "number_of", "read_fits", "register_layout"]

logger = logging.getLogger(__name__)

# What an uncertainty extension holds, as astropy.nddata writes it in the keyword UTYPE.
UTYPES = {
    "StdDevUncertainty": "uncertainty",
    "VarianceUncertainty": "variance",
    "InverseVariance": "ivar",
}
KINDS = {
    "uncertainty": "standard deviation",
    "variance": "variance",
    "ivar": "inverse variance",
    "weight": "weight, scaled to the scatter of the sky",
}
SCALE = re.compile(r"CDELT[12]|(CD|PC)(00)?[12]")  # one of these tells the size of a pixel
N_PEEK = 4  # extensions by which a file is known


@dataclass(frozen=True)
class Layout:
    """How a survey or a mission lays out its FITS files.

    Parameters
    ----------
    name : str
        Name of the format.
    identify : callable
        Of the names and the headers of the first extensions, ``(names, header)``: whether a file is
        of this format; the header is that of the image with what it inherits.
    siblings : mapping
        Where noise and mask lie in files of their own, beside the image: for "mask", "ivar", ...,
        what is replaced in the image's name, a regular expression and its replacement.
    kinds : mapping
        What extensions of known names hold, where it is not what is usual: "WGT": "ivar".
    bits : mapping
        Names of the bits of the mask.
    bad : tuple of str, or callable, optional
        Which of them make a pixel bad; or what tells it, of the names that the mask has.
    area : str, optional
        Name of the extension that holds the area of each pixel, against that of ``PIXAR_SR``.
    unit : str, optional
        The unit of pixels that state none.
    zero_point : callable, optional
        Of the header: the AB magnitude of a pixel value of 1, or `None`.
    noise : callable, optional
        Of the raw image and the open file: the variance, and a line on it, where there is no noise.
    """

    name: str
    identify: Callable
    siblings: Mapping = field(default_factory=dict)
    kinds: Mapping = field(default_factory=dict)
    bits: Mapping = field(default_factory=dict)
    bad: tuple[str, ...] | Callable | None = None
    area: str | None = None
    unit: str | None = None
    zero_point: Callable | None = None
    noise: Callable | None = None


def number_of(header, *names):
    """The first of some keywords that holds a number.

    Parameters
    ----------
    header : mapping
        Keywords of the image.
    *names : str
        Those that may tell, best first.

    Returns
    -------
    float or None
    """
    values = (header.get(name) for name in names)
    numbers = (v for v in values if isinstance(v, int | float) and not isinstance(v, bool))
    return next((float(v) for v in numbers if math.isfinite(v)), None)


def register_layout(layout):
    """Make a layout one of the formats.

    Parameters
    ----------
    layout : `Layout`
        The layout.
    """

    def read(path, *, hdu=None, noise=None, mask=None, unit=None, effective_gain=None):
        return read_fits(
            path, layout, hdu=hdu, noise=noise, mask=mask, unit=unit, effective_gain=effective_gain
        )

    def identify(_origin, path, _file, *_args, **_kwargs):
        if path is None or not Path(path).is_file():
            return False
        names, header = _peek(str(path), version_of(path))
        return bool(names) and layout.identify(names, header)

    FORMATS.register_reader(layout.name, RawImage, read)
    if layout.identify is not None:
        FORMATS.register_identifier(layout.name, RawImage, identify)
    if layout.bits:
        TABLES[layout.name] = dict(layout.bits)


@lru_cache(maxsize=64)
def _peek(path, _version):
    """Names of the first extensions, and their headers as one; nothing of what is no FITS file."""
    names, header = [], {}
    with warnings.catch_warnings(), Path(path).open("rb") as stream:
        warnings.simplefilter("ignore")
        try:
            unpack_once(path)
            hdus = fits.open(stream, memmap=False, lazy_load_hdus=True)
            for i in range(N_PEEK):
                hdu = hdus[i]
                leave_out_malformed(hdu)
                names.append(hdu.name.upper())
                header = {**dict(hdu.header.items()), **header}
        except IndexError:
            pass
        except Exception:  # reading it says what is wrong with it  # noqa: BLE001
            return (), {}
    return tuple(names), header


def read_fits(path, layout, *, hdu=None, noise=None, mask=None, unit=None, effective_gain=None):
    """What a FITS file holds; see `~astro_ddprism.survey.read_image` for the arguments.

    Parameters
    ----------
    path : path
        The file.
    layout : `Layout`
        The layout that it has.
    hdu, mask, unit, effective_gain : optional
        As for `~astro_ddprism.survey.read_image`.
    noise : mapping, optional
        The option that tells the noise, by its name.

    Returns
    -------
    `RawImage`
    """
    if not isinstance(path, str | Path):
        raise InputError(f"image: found {type(path).__name__}, expected a FITS file")
    path = str(path)
    with open_fits(path) as hdus:
        sci = find_extension(hdus, "image", path, hdu)
        data = read_extension(sci, path)
        header = header_of(sci, hdus)
        label = f"{path}, HDU {hdu_name(hdus, sci) or 0}"
        origin = {"flux": f"HDU {hdu_name(hdus, sci) or 0}, format {layout.name}"}
        data, stretch = linear(data, header, label)
        origin["flux"] += stretch
        stated = header.get("BUNIT") or layout.unit
        raw = RawImage(
            data=data,
            header=header,
            file=Path(path).name,
            unit=find_unit(unit, stated, label, origin),
            wcs=_wcs(sci, hdus, label),
            label=label,
            zero_point=layout.zero_point(header) if layout.zero_point and unit is None else None,
            origin=origin,
        )
        if any(h.name.upper() in NAMES["psf"] and h.is_image for h in hdus):
            raw.psf = path
        used = {hdus.index(sci)}
        _find_noise(raw, noise, stated, hdus, sci, layout, path, used)
        _find_mask(raw, mask, hdus, sci, layout, path, used)
        if layout.area in {h.name for h in hdus} and per_solid_angle(raw.unit):
            raw.area, found = find_plane(layout.area, "area", hdus, path, sci)
            used.add(found["hdu"])
        if effective_gain is not None:
            headers = [sci.header, hdus[0].header]
            raw.gain, raw.gain_label = find_gain(effective_gain, raw, hdus, headers, sci)
            origin["gain"] = (
                f"{raw.gain_label.removeprefix(path + ', ')}, electrons for a flux of 1"
            )
        alike = [h for h in hdus if h.is_image and h.shape[-2:] == sci.shape[-2:]]
        unused = [h for h in alike if hdus.index(h) not in used]
        strange = [hdu_name(hdus, h) for h in unused if role_of(h)[0] is None and h is not hdus[0]]
        if strange:
            logger.warning(
                "%s: found HDU %s of the shape of the image, whose name does not tell what it is: "
                "not used", label, ", ".join(strange),
            )  # fmt: skip
        unused = [hdu_name(hdus, h) for h in unused]
        unused = [name for name in unused if f"{label}, HDU {name}" != raw.gain_label]
        if unused:
            origin["not used"] = f"HDU {', '.join(unused)}, of the shape of the image"
    return raw


def _wcs(sci, hdus, label):
    header = sci.header
    if "CTYPE1" not in header and "CTYPE1" in hdus[0].header:
        header = hdus[0].header.copy()
        header.update(sci.header)
    numbers = {k: v for k, v in header.items() if WCS_NUMBER.fullmatch(k)}
    for name, value in numbers.items():
        if isinstance(value, str):  # wcslib would take it for 0
            try:
                header[name] = float(value)
            except ValueError:
                raise InputError(f"{label}: {name}: found {value!r}, expected a number") from None
    if header.get("CTYPE1") and not any(header[k] for k in header if SCALE.match(k)):
        raise InputError(
            f"{label}: found a WCS without a scale, expected CD1_1, ... or CDELT1 and CDELT2"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        level = log.level
        log.setLevel("WARNING")  # of left-over SIP, `celestial_wcs` tells what is done
        try:
            return WCS(header, hdus)
        except Exception as error:  # wcslib raises many kinds
            raise InputError(f"{label}: the WCS cannot be read ({error})") from error
        finally:
            log.setLevel(level)


def _sibling(path, layout, role):
    """The file beside the image that holds a plane, if it is there."""
    if role not in layout.siblings:
        return None
    pattern, replacement = layout.siblings[role]
    file = Path(path)
    other = file.with_name(re.sub(pattern, replacement, file.name))
    return other if other != file and other.is_file() else None


def _find_noise(raw, noise, stated, hdus, sci, layout, path, used):
    if not noise:
        noise = {}
        for kind in NOISE_NAMES:
            own = find_own(hdus, kind, sci)
            found = hdus.index(own) if own is not None else _sibling(path, layout, kind)
            if found is not None:
                kind = layout.kinds.get(own.name.upper(), kind) if own is not None else kind
                noise = {kind: found}
                break
    for kind, spec in noise.items():
        plane, found = find_plane(spec, kind, hdus, path, sci)
        used.add(found.get("hdu"))
        kind = UTYPES.get(found["header"].get("UTYPE"), kind)
        plane, stretch = linear(plane, found["header"], found["label"])
        unit = found["header"].get("BUNIT")
        raw.noise = noise_in_unit(plane, kind, unit, stated, found["label"])
        raw.noise_kind, raw.noise_label = kind, found["label"]
        raw.origin["noise"] = f"{_short(found['label'], path)}, {KINDS[kind]}{stretch}"
    if not noise and layout.noise is not None:
        raw.noise, told = layout.noise(raw, hdus)
        raw.noise_kind, raw.noise_label = "variance", f"{raw.label}, noise"
        raw.origin["noise"] = told


def _find_mask(raw, mask, hdus, sci, layout, path, used):
    if mask is None:
        own = find_own(hdus, "mask", sci)
        mask = hdus.index(own) if own is not None else _sibling(path, layout, "mask")
    if mask is None:
        return
    raw.mask, found = find_plane(mask, "mask", hdus, path, sci)
    used.add(found.get("hdu"))
    raw.bits = found["bits"] or dict(layout.bits)
    raw.bad = layout.bad(set(raw.bits)) if callable(layout.bad) else layout.bad
    raw.origin["mask"] = _short(found["label"], path)


def _short(label, path):
    return label.removeprefix(f"{path}, ")


register_layout(Layout("fits", None))
