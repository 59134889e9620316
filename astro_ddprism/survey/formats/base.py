"""What a file or an NDData holds before it is checked, and the planes that options name."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.nddata import NDData
from astropy.wcs import WCS

from ...errors import InputError
from ...io.fits_in import find_extension, parse_unit, read_extension, read_plane
from ...units import AB_FLUX

__all__ = ["RawImage", "to_variance"]


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


def _unit(unit):
    return unit if isinstance(unit, u.UnitBase) else parse_unit(unit, "unit")


def to_variance(array, kind):
    """The variance behind a standard deviation ("uncertainty"), variance, "ivar" or "weight"."""
    array = np.asarray(array, dtype=np.float64)
    if kind == "uncertainty":
        return array**2
    if kind == "variance":
        return array
    return np.divide(1.0, array, out=np.full_like(array, np.inf), where=array > 0)
