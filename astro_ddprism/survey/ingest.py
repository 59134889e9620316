"""What a FITS file or an NDData holds, before it is checked: pixels, noise, mask, WCS and unit."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.nddata import (
    InverseVariance,
    NDData,
    StdDevUncertainty,
    UnknownUncertainty,
    VarianceUncertainty,
)
from astropy.wcs import WCS, FITSFixedWarning

from ..errors import InputError
from ..units import AB_FLUX
from .files import NOISE_NAMES, find_extension, open_fits, parse_unit, read_extension, read_plane

__all__ = ["RawImage", "from_file", "from_nddata", "to_variance"]

# What an uncertainty extension holds, as astropy.nddata writes it in the keyword UTYPE.
UTYPES = {
    "StdDevUncertainty": "uncertainty",
    "VarianceUncertainty": "variance",
    "InverseVariance": "ivar",
}


@dataclass
class RawImage:
    """What a file or an NDData holds, before it is checked."""

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


def from_file(path, hdu, planes, mask, unit, gain):
    """What a FITS file holds; see `read_image` for the arguments, ``planes`` is noise by kind."""
    path = str(path)
    with open_fits(path) as hdus:
        sci = find_extension(hdus, "image", path, hdu)
        data = read_extension(sci, path)
        header = sci.header
        label = f"{path}, HDU {sci.name or 0}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            try:
                wcs = WCS(header, hdus)
            except Exception as error:  # wcslib raises many kinds
                raise InputError(f"{label}: the WCS cannot be read ({error})") from error
        raw = RawImage(
            data=data,
            # Keywords may stand in the first extension and hold for all.
            header={**dict(hdus[0].header.items()), **dict(header.items())},
            file=Path(path).name,
            unit=parse_unit(header.get("BUNIT"), label) if unit is None else _unit(unit),
            wcs=wcs,
            label=label,
        )
        if not planes:
            planes = _found_noise(hdus, path)
        for kind, spec in planes.items():
            plane, found = _plane(spec, kind, hdus, path)
            raw.noise, raw.noise_label = plane, found.pop("label")
            raw.noise_kind = UTYPES.get(found.get("UTYPE"), kind)
        if mask is None:
            extension = find_extension(hdus, "mask", path)
            mask = None if extension is None else hdus.index(extension)
        if mask is not None:
            raw.mask, _ = _plane(mask, "mask", hdus, path)
        if gain is not None:
            raw.gain, raw.gain_label = _gain(gain, raw, hdus, [header, hdus[0].header])
    return raw


def _gain(spec, raw, hdus, headers):
    """Electrons per unit of flux, from any of the ways to tell it, and where it comes from."""
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
    plane, found = _plane(spec, role, hdus, raw.label)
    return plane, found["label"]


def _found_noise(hdus, path):
    for kind in NOISE_NAMES:
        extension = find_extension(hdus, kind, path)
        if extension is not None:
            return {kind: hdus.index(extension)}
    return {}


def _plane(spec, role, hdus, path):
    """The array behind an option, and what its header tells."""
    if not isinstance(spec, str | Path | int | np.integer):
        return _value(spec, role), {"label": role}
    names = {h.name.upper() for h in hdus} if hdus is not None else set()
    if hdus is not None and (
        not isinstance(spec, str | Path) or str(spec).isdigit() or str(spec).upper() in names
    ):
        extension = find_extension(hdus, role, path, spec)
        label = f"{path}, HDU {extension.name or spec}"
        return read_extension(extension, path), {
            "label": label,
            "UTYPE": extension.header.get("UTYPE"),
        }
    if not Path(spec).exists():
        raise InputError(
            f"{role}: found no file {spec} and no extension of this name in {path}, expected one "
            "or the other"
        )
    return read_plane(spec, role=role), {"label": str(spec)}


def _value(plane, role):
    if isinstance(plane, NDData):
        plane = plane.data
    if isinstance(plane, u.Quantity):
        raise InputError(f"{role}: found a Quantity, expected an array in the image's unit")
    return np.asarray(plane)


def from_nddata(image, planes, mask, unit, gain):
    """What an NDData holds; see `read_image` for the arguments, ``planes`` is the noise by kind."""
    label = str(image.meta.get("FILENAME", type(image).__name__)) if image.meta else "image"
    unit = _unit(unit) if unit is not None else image.unit or u.dimensionless_unscaled
    raw = RawImage(
        data=np.asarray(image.data), header=dict(image.meta), unit=unit, wcs=image.wcs, label=label
    )
    raw.file = Path(label).name if image.meta and "FILENAME" in image.meta else ""
    if raw.wcs is not None and not isinstance(raw.wcs, WCS):
        raise InputError(
            f"{label}: found a WCS of type {type(raw.wcs).__name__}, expected astropy.wcs.WCS"
        )
    for kind, spec in planes.items():
        raw.noise, found = _plane(spec, kind, None, label)
        raw.noise_kind, raw.noise_label = kind, found["label"]
    if not planes and image.uncertainty is not None:
        raw.noise = _variance_of(image.uncertainty, unit, label)
        raw.noise_kind, raw.noise_label = "variance", f"{label}, uncertainty"
    masks = [np.asarray(image.mask)] if image.mask is not None else []
    if mask is not None:
        masks.append(_plane(mask, "mask", None, label)[0])
    if masks:
        raw.mask = masks[0] if len(masks) == 1 else (masks[0] != 0) | (masks[1] != 0)
    if gain is not None:
        raw.gain, raw.gain_label = _gain(gain, raw, None, [raw.header])
    return raw


def _unit(unit):
    return unit if isinstance(unit, u.UnitBase) else parse_unit(unit, "unit")


def _variance_of(uncertainty, unit, label):
    """An NDUncertainty as a variance in the image's unit; zero inverse variances are infinite."""
    known = StdDevUncertainty | VarianceUncertainty | InverseVariance
    if isinstance(uncertainty, UnknownUncertainty) or not isinstance(uncertainty, known):
        raise InputError(
            f"{label}: found an uncertainty of type {type(uncertainty).__name__}, expected "
            "StdDevUncertainty, VarianceUncertainty or InverseVariance"
        )
    array = np.asarray(uncertainty.array, dtype=np.float64)
    power = {"std": 1, "var": 2, "ivar": -2}[uncertainty.uncertainty_type]
    if uncertainty.unit is not None:
        try:
            array = array * uncertainty.unit.to(unit**power)
        except u.UnitConversionError as error:
            raise InputError(
                f"{label}: found an uncertainty in {uncertainty.unit}, expected {unit**power}"
            ) from error
    if (array < 0).any():
        raise InputError(
            f"{label}, uncertainty: found {np.sum(array < 0)} negative values, expected none"
        )
    return to_variance(array, {1: "uncertainty", 2: "variance", -2: "ivar"}[power])


def to_variance(array, kind):
    """The variance behind a standard deviation ("uncertainty"), variance, "ivar" or "weight"."""
    array = np.asarray(array, dtype=np.float64)
    if kind == "uncertainty":
        return array**2
    if kind == "variance":
        return array
    return np.divide(1.0, array, out=np.full_like(array, np.inf), where=array > 0)
