"""Images that are in memory, as `~astropy.nddata.NDData`."""

from pathlib import Path

import numpy as np
from astropy.nddata import (
    InverseVariance,
    NDData,
    StdDevUncertainty,
    UnknownUncertainty,
    VarianceUncertainty,
)

from ...errors import InputError
from .base import FORMATS, RawImage, find_gain, find_plane
from .pixels import find_unit, linear, noise_in_unit

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
    origin = {"flux": type(image).__name__}
    data, stretch = linear(np.asarray(image.data), image.meta, label)
    origin["flux"] += stretch
    if stretch and image.uncertainty is not None:
        raise InputError(
            f"{label}: found an uncertainty of pixels on an asinh scale, expected none"
        )
    raw = RawImage(
        data=data,
        header=dict(image.meta),
        unit=find_unit(unit, image.unit, label, origin),
        wcs=image.wcs,
        label=label,
        origin=origin,
    )
    raw.psf = image.psf
    raw.file = Path(label).name if image.meta and "FILENAME" in image.meta else ""
    for kind, spec in (noise or {}).items():
        raw.noise, found = find_plane(spec, kind, None, label)
        raw.noise_kind, raw.noise_label = kind, found["label"]
        origin["noise"] = f"{found['label']}, as {kind}"
    if not noise and image.uncertainty is not None:
        raw.noise, raw.noise_kind = _noise_of(image.uncertainty, image.unit or raw.unit, label)
        raw.noise_label = f"{label}, uncertainty"
        origin["noise"] = f"uncertainty, {type(image.uncertainty).__name__}"
    masks = [np.asarray(image.mask)] if image.mask is not None else []
    if mask is not None:
        masks.append(find_plane(mask, "mask", None, label)[0])
    if masks:
        raw.mask = masks[0] if len(masks) == 1 else (masks[0] != 0) | (masks[1] != 0)
        origin["mask"] = "mask" if mask is None else "the option mask"
    if effective_gain is not None:
        raw.gain, raw.gain_label = find_gain(effective_gain, raw, None, [raw.header])
        origin["gain"] = f"{raw.gain_label}, electrons for a flux of 1"
    return raw


def _noise_of(uncertainty, unit, label):
    """An NDUncertainty in the image's own unit, and its kind."""
    known = StdDevUncertainty | VarianceUncertainty | InverseVariance
    if isinstance(uncertainty, UnknownUncertainty) or not isinstance(uncertainty, known):
        raise InputError(
            f"{label}: found an uncertainty of type {type(uncertainty).__name__}, expected "
            "StdDevUncertainty, VarianceUncertainty or InverseVariance"
        )
    kind = {"std": "uncertainty", "var": "variance", "ivar": "ivar"}[uncertainty.uncertainty_type]
    return noise_in_unit(np.asarray(uncertainty.array), kind, uncertainty.unit, unit, label), kind


FORMATS.register_reader("nddata", RawImage, from_nddata)
FORMATS.register_identifier(
    "nddata", RawImage, lambda _origin, _path, _file, image, **_: isinstance(image, NDData)
)
