"""Images that are in memory, as `~astropy.nddata.NDData`."""

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

from ...errors import InputError
from .base import FORMATS, RawImage, find_gain, find_plane, find_unit, to_variance

__all__ = ["from_nddata"]


def from_nddata(image, *, noise=None, mask=None, unit=None, effective_gain=None):
    """What an NDData holds; see `~astro_ddprism.survey.read_image` for the arguments.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        The image.
    mask, unit, effective_gain : optional
        As for `~astro_ddprism.survey.read_image`.
    noise : mapping, optional
        The option that tells the noise, by its name.

    Returns
    -------
    `RawImage`
    """
    if not isinstance(image, NDData):
        raise InputError(f"image: found {type(image).__name__}, expected an NDData")
    label = str(image.meta.get("FILENAME", type(image).__name__)) if image.meta else "image"
    unit = find_unit(unit) if unit is not None else image.unit or u.dimensionless_unscaled
    raw = RawImage(
        data=np.asarray(image.data), header=dict(image.meta), unit=unit, wcs=image.wcs, label=label
    )
    raw.psf = image.psf
    raw.file = Path(label).name if image.meta and "FILENAME" in image.meta else ""
    for kind, spec in (noise or {}).items():
        raw.noise, found = find_plane(spec, kind, None, label)
        raw.noise_kind, raw.noise_label = kind, found["label"]
    if not noise and image.uncertainty is not None:
        raw.noise = _variance_of(image.uncertainty, unit, label)
        raw.noise_kind, raw.noise_label = "variance", f"{label}, uncertainty"
    masks = [np.asarray(image.mask)] if image.mask is not None else []
    if mask is not None:
        masks.append(find_plane(mask, "mask", None, label)[0])
    if masks:
        raw.mask = masks[0] if len(masks) == 1 else (masks[0] != 0) | (masks[1] != 0)
    if effective_gain is not None:
        raw.gain, raw.gain_label = find_gain(effective_gain, raw, None, [raw.header])
    return raw


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


FORMATS.register_reader("nddata", RawImage, from_nddata)
FORMATS.register_identifier(
    "nddata", RawImage, lambda _origin, _path, _file, image, **_: isinstance(image, NDData)
)
