"""FITS files: an image, and its noise and mask in extensions that are named so."""

import warnings
from pathlib import Path

from astropy.wcs import WCS, FITSFixedWarning

from ...errors import InputError
from ...io.fits_in import NOISE_NAMES, find_extension, open_fits, parse_unit, read_extension
from .base import RawImage, _gain, _plane, _unit

__all__ = ["from_file"]

# What an uncertainty extension holds, as astropy.nddata writes it in the keyword UTYPE.
UTYPES = {
    "StdDevUncertainty": "uncertainty",
    "VarianceUncertainty": "variance",
    "InverseVariance": "ivar",
}


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


def _found_noise(hdus, path):
    for kind in NOISE_NAMES:
        extension = find_extension(hdus, kind, path)
        if extension is not None:
            return {kind: hdus.index(extension)}
    return {}
