"""FITS files: an image, and its noise and mask in extensions that are named so."""

import warnings
from pathlib import Path

from astropy import log
from astropy.wcs import WCS, FITSFixedWarning

from ...errors import InputError
from ...io.fits_in import NAMES, NOISE_NAMES, find_extension, open_fits, parse_unit, read_extension
from .base import FORMATS, RawImage, find_gain, find_plane, find_unit

__all__ = ["from_file"]

# What an uncertainty extension holds, as astropy.nddata writes it in the keyword UTYPE.
UTYPES = {
    "StdDevUncertainty": "uncertainty",
    "VarianceUncertainty": "variance",
    "InverseVariance": "ivar",
}


def from_file(path, *, hdu=None, noise=None, mask=None, unit=None, effective_gain=None):
    """What a FITS file holds; see `~astro_ddprism.survey.read_image` for the arguments.

    Parameters
    ----------
    path : path
        The file.
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
        header = sci.header
        label = f"{path}, HDU {sci.name or 0}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            level = log.level
            log.setLevel("WARNING")  # of left-over SIP, `celestial_wcs` tells what is done
            try:
                wcs = WCS(header, hdus)
            except Exception as error:  # wcslib raises many kinds
                raise InputError(f"{label}: the WCS cannot be read ({error})") from error
            finally:
                log.setLevel(level)
        raw = RawImage(
            data=data,
            # Keywords may stand in the first extension and hold for all.
            header={**dict(hdus[0].header.items()), **dict(header.items())},
            file=Path(path).name,
            unit=parse_unit(header.get("BUNIT"), label) if unit is None else find_unit(unit),
            wcs=wcs,
            label=label,
        )
        if any(h.name.upper() in NAMES["psf"] and h.is_image for h in hdus):
            raw.psf = path
        for kind, spec in (noise or _found_noise(hdus, path)).items():
            plane, found = find_plane(spec, kind, hdus, path)
            raw.noise, raw.noise_label = plane, found.pop("label")
            raw.noise_kind = UTYPES.get(found.get("UTYPE"), kind)
        if mask is None:
            extension = find_extension(hdus, "mask", path)
            mask = None if extension is None else hdus.index(extension)
        if mask is not None:
            raw.mask, _ = find_plane(mask, "mask", hdus, path)
        if effective_gain is not None:
            raw.gain, raw.gain_label = find_gain(
                effective_gain, raw, hdus, [header, hdus[0].header]
            )
    return raw


def _found_noise(hdus, path):
    for kind in NOISE_NAMES:
        extension = find_extension(hdus, kind, path)
        if extension is not None:
            return {kind: hdus.index(extension)}
    return {}


FORMATS.register_reader("fits", RawImage, from_file)
