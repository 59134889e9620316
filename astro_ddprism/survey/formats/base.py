"""Formats of survey images: what a reader returns, and how it is found.

A format is one module. Its reader takes a file, or an object in memory, and returns a `RawImage`;
its identifier looks at one and says whether it is of the format. Both are registered in `FORMATS`,
a registry of `astropy.io.registry`::

    FORMATS.register_reader("name", RawImage, read)
    FORMATS.register_identifier("name", RawImage, identify)

Of the options of `~astro_ddprism.survey.read_image`, a reader takes those that its format knows,
by their names (``hdu``, ``mask``, ``unit``, ``effective_gain``, and ``noise``, a mapping from one
of "uncertainty", "variance", "ivar" and "weight" to its value); others are refused. The module of
a format is imported by the user, or found through an entry point of the group
``astro_ddprism.formats``. Files that no format knows are read as FITS.
"""

import inspect
import warnings
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.io.registry import UnifiedIORegistry
from astropy.nddata import NDData
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS

from ...errors import InputError
from ...io.fits_in import find_extension, find_plane_of, hdu_name, open_fits, read_extension
from ...units import AB_FLUX
from .bits import header_bits

__all__ = ["FORMATS", "RawImage", "find_gain", "find_plane", "header_of", "read_raw"]

FORMATS = UnifiedIORegistry()
"""The formats that are known, with their readers and identifiers."""

GENERIC = "fits"  # what a file is of that no format knows
GROUP = "astro_ddprism.formats"


@dataclass
class RawImage:
    """What a file or an NDData holds, before it is checked.

    Parameters
    ----------
    data : (ny, nx) or (bands, ny, nx) `~numpy.ndarray`
        The pixels.
    header : dict
        Keywords; ``FILTER``, ``SATURATE`` and those that options name are looked up.
    unit : `~astropy.units.UnitBase`
        Unit of the pixels.
    wcs : `~astropy.wcs.WCS`, or None
        World coordinates of the pixels.
    label : str
        What messages call the image.
    noise : `~numpy.ndarray`, optional
        The noise of each pixel, of the kind ``noise_kind``: "uncertainty" (standard deviation),
        "variance", "ivar" or "weight"; ``noise_label`` is what messages call it.
    mask : `~numpy.ndarray`, optional
        Not zero at bad pixels.
    file : str
        Name of the file, without its folder.
    gain : `~numpy.ndarray`, optional
        Electrons for each unit of flux; ``gain_label`` is what messages call it.
    psf : optional
        The PSF that comes with the image, as `~astro_ddprism.psf.open_psf` takes it.
    bits : dict of str to int
        Names of the bits of the mask.
    bad : tuple of str, optional
        Names of the bits that make a pixel bad; all that are not zero if not given.
    zero_point : float, optional
        AB magnitude of a pixel value of 1, where the format says so.
    area : (ny, nx) `~numpy.ndarray`, optional
        Area of each pixel, against the one that the header tells, of surface brightness.
    origin : dict of str to str
        What served as "flux", "unit", "noise", "mask", "gain" and "zero point", for people, and
        what is "not used".
    """

    data: np.ndarray
    header: dict
    unit: u.UnitBase
    wcs: WCS | None
    label: str
    noise: np.ndarray | None = None
    noise_kind: str = ""
    noise_label: str = ""
    mask: np.ndarray | None = None
    file: str = ""
    gain: np.ndarray | None = None
    gain_label: str = ""
    psf: object = None
    bits: dict[str, int] = field(default_factory=dict)
    bad: tuple[str, ...] | None = None
    zero_point: float | None = None
    area: np.ndarray | None = None
    origin: dict[str, str] = field(default_factory=dict)


def read_raw(image, format=None, **options) -> RawImage:  # noqa: A002
    """Read an image by the reader of its format.

    Parameters
    ----------
    image : path or object
        A file, an `~astropy.nddata.NDData`, or what else a format knows.
    format : str, optional
        Name of the format; by default it is identified by looking at the image.
    **options
        Options of the reader; those that are None are not passed on.

    Returns
    -------
    `RawImage`

    Raises
    ------
    InputError
        If the format is not known, not one of them, or does not know an option.
    """
    _load_plugins()
    if format is None:
        format = _identified(image)  # noqa: A001
    elif format not in _names():
        raise InputError(f"format: found {format!r}, expected one of {', '.join(_names())}")
    reader = FORMATS.get_reader(format, RawImage)
    options = {name: value for name, value in options.items() if value is not None}
    known = inspect.signature(reader).parameters
    for name in options:
        if name not in known and not any(p.kind == p.VAR_KEYWORD for p in known.values()):
            name = next(iter(options[name])) if name == "noise" else name
            expected = ", ".join(list(known)[1:]) or "no option of the kind"
            raise InputError(f"{name}: found it for the format {format!r}, expected {expected}")
    return reader(image, **options)


def _identified(image):
    path = str(image) if isinstance(image, str | Path) else None
    found = FORMATS.identify_format("read", RawImage, path, None, (image,), {})
    if not found and path is not None:
        return GENERIC
    if len(found) != 1:
        label = path or f"image: {type(image).__name__}"
        raise InputError(
            f"{label}: found {'an image of ' + ' and '.join(found) if found else 'no image'}, "
            f"expected one of one format; give it as format: {', '.join(found or _names())}"
        )
    return found[0]


def _names():
    return sorted(FORMATS.get_formats(RawImage, "Read")["Format"])


@cache
def _load_plugins():
    for plugin in entry_points(group=GROUP):
        try:
            plugin.load()
        except Exception as error:  # of somebody else's package  # noqa: BLE001
            warnings.warn(
                f"the format {plugin.name!r} ({plugin.value}) cannot be loaded: {error}",
                AstropyUserWarning,
                stacklevel=2,
            )


def find_gain(spec, raw, hdus, headers, image=None):
    """Electrons per unit of flux, from any of the ways to tell it, and where it comes from.

    Parameters
    ----------
    spec : float, Quantity, str, path or array_like
        The option ``effective_gain`` of `~astro_ddprism.survey.read_image`.
    raw : `RawImage`
        The image, of which the unit and the label are known.
    hdus : `~astropy.io.fits.HDUList`, or None
        The open file, where its extensions may be named.
    headers : sequence of mapping
        Where a keyword is looked up.
    image : HDU, optional
        The image whose version or CCD the gain is of.

    Returns
    -------
    gain : `~numpy.ndarray`
    label : str
        What messages call it.
    """
    role = "effective_gain"
    if isinstance(spec, u.Quantity):
        try:
            return spec.to_value(u.electron / raw.unit, AB_FLUX), role
        except u.UnitConversionError as error:
            raise InputError(
                f"{role}: found unit {spec.unit}, expected one like {u.electron / raw.unit}"
            ) from error
    if not isinstance(spec, str | Path):
        return _value(spec, role), role
    names = {h.name.upper() for h in hdus} if hdus is not None else set()
    if str(spec).upper() not in names and not Path(spec).exists():
        value = next((header[str(spec)] for header in headers if str(spec) in header), None)
        label = f"{raw.label}, keyword {spec}"
        if value is None:
            raise InputError(
                f"{role}: found no keyword, no extension and no file {spec} in {raw.label}, "
                "expected one of these, or a number"
            )
        if isinstance(value, bool | str) or not np.isscalar(value):
            raise InputError(f"{label}: found {value!r}, expected a number: electrons per flux")
        return np.asarray(value, dtype=float), label
    plane, found = find_plane(spec, role, hdus, raw.label, image)
    return plane, found["label"]


def find_plane(spec, role, hdus, path, image=None):
    """The array behind an option, and what its header tells.

    Parameters
    ----------
    spec : int, str, path or array_like
        The option: an extension, a file of its own or an array.
    role : str
        What it is.
    hdus : `~astropy.io.fits.HDUList`, or None
        The open file, where its extensions may be named.
    path : str
        What messages call the image.
    image : HDU, optional
        The image whose version or CCD the plane is of.

    Returns
    -------
    array : `~numpy.ndarray`
    found : dict
        Its ``label`` for messages, its ``header``, the names of its ``bits``, and the extension's
        index ``hdu`` in ``hdus``.
    """
    if not isinstance(spec, str | Path | int | np.integer | tuple):
        return _value(spec, role), {"label": role, "header": {}, "bits": {}}
    if hdus is not None and _names_extension(spec, hdus):
        if isinstance(spec, str) and image is not None and "," not in spec:
            own = [h for h in hdus if (h.name, h.ver) == (spec.upper(), image.ver)]
            spec = hdus.index(own[0]) if own else spec
        extension = find_extension(hdus, role, path, spec)
        return read_extension(extension, path), {
            "label": f"{path}, HDU {hdu_name(hdus, extension)}",
            "header": header_of(extension, hdus, of_plane=True),
            "bits": header_bits(header_of(extension, hdus)),
            "hdu": hdus.index(extension),
        }
    if not Path(str(spec)).exists():
        raise InputError(
            f"{role}: found no file {spec} and no extension of this name in {path}, expected one "
            "or the other"
        )
    with open_fits(spec) as others:
        extension = find_plane_of(others, role, str(spec), image)
        return read_extension(extension, str(spec)), {
            "label": f"{spec}, HDU {hdu_name(others, extension)}",
            "header": header_of(extension, others, of_plane=True),
            "bits": header_bits(header_of(extension, others)),
        }


def _names_extension(spec, hdus):
    if not isinstance(spec, str | Path):
        return True
    name = str(spec).strip().strip("[]").partition(",")[0].strip().upper()
    return name.isdigit() or name in {h.name.upper() for h in hdus}


def header_of(hdu, hdus, *, of_plane=False):
    """The keywords that hold for an extension: its own, and those that it inherits.

    Parameters
    ----------
    hdu : HDU
        The extension.
    hdus : `~astropy.io.fits.HDUList`
        Its file, in whose first header keywords may stand that hold for all.
    of_plane : bool
        Whether it is a plane of an image: it inherits where its keyword ``INHERIT`` says so, and
        an image where it does not say otherwise.

    Returns
    -------
    dict
        Keywords that have a value.
    """
    both = dict(hdu.header.items())
    told = hdu.header.get("INHERIT")
    if told is True or (told is not False and not of_plane):
        both = {**dict(hdus[0].header.items()), **both}
    return {
        name: value for name, value in both.items() if not isinstance(value, fits.card.Undefined)
    }


def _value(plane, role):
    if isinstance(plane, NDData):
        plane = plane.data
    if isinstance(plane, u.Quantity):
        raise InputError(f"{role}: found a Quantity, expected an array in the image's unit")
    return np.asarray(plane)
