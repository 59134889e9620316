r"""Survey images: flux, noise, mask and WCS of one or more bands on one pixel grid.

Every pixel has a Gaussian noise variance :math:`\sigma^2`. It comes, in this order, from the
standard deviation, the variance, the inverse variance, or the weight that the file holds or the
caller names, or it is estimated from the image when asked for. A weight :math:`w` is an inverse
variance but for a factor, which the image itself tells: :math:`\sigma^2 = k / w`, with :math:`k`
the median of :math:`w\,\sigma_\mathrm{sky}^2`.

Masked, saturated and non-finite pixels and those of zero weight carry no information: they are
`True` in the mask, and nothing behind this module reads their values.
"""

import logging
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.nddata import Cutout2D, NDData

from ..errors import InputError, NothingFoundError
from ..io.fits_in import NOISE_NAMES, as_float
from ..io.reading import file_name, printable, reading
from ..io.wcs import celestial_wcs
from ..steps import step
from .calibration import calibrated, flux_per_pixel
from .coverage import without_data
from .formats.base import read_raw
from .formats.bits import bad_pixels
from .formats.pixels import to_variance
from .images import SurveyImage, stack_bands
from .noise import estimate_noise as measure_sky
from .saturation import find_saturation, grow_saturated

__all__ = ["provenance_of", "read_bands", "read_image"]

logger = logging.getLogger(__name__)

MAX_NEGATIVE = 0.1  # part of a noise plane that may be negative, and is then masked


@step("reading")
def read_image(
    image,
    *,
    format=None,  # noqa: A002
    hdu=None,
    uncertainty=None,
    variance=None,
    ivar=None,
    weight=None,
    mask=None,
    bad_bits=None,
    estimate_noise=False,
    subtract_background=False,
    effective_gain=None,
    saturation=None,
    unit=None,
    zero_point=None,
    name=None,
    partial=False,
):
    """Read a survey image with its noise, its mask and its WCS.

    In a FITS file, also a tile-compressed one, the image is the extension ``SCI`` or ``IMAGE`` or
    else the first image. Extensions ``ERR``, ``ERROR``, ``SIGMA``, ``UNCERT``, ``RMS`` (standard
    deviation), ``VAR``, ``VARIANCE``, ``IVAR``, ``INVVAR``, ``WHT``, ``WEIGHT``, ``WGT`` (inverse
    variance but for a factor) and ``MASK``, ``DQ``, ``MSK``, ``FLAGS`` (not zero: bad) are found by
    name.

    Parameters
    ----------
    image : path, `~astropy.nddata.CCDData` or `~astropy.nddata.NDData`
        The image, ``(ny, nx)`` or ``(bands, ny, nx)``; or what else a format reads.
    format : str, optional
        Name of its format (`astro_ddprism.survey.formats.base`); by default it is identified by
        looking at the image, and a file that no format knows is read as FITS.
    hdu : int, str or (str, int), optional
        Number or name of the image's extension, or name and version, also as ``"SCI,2"``. Noise and
        mask are those of the same version or CCD.
    uncertainty, variance, ivar, weight : int, str, path or array_like, optional
        The noise as standard deviation, variance, inverse variance or weight: number or name of an
        extension of the same file, a file of its own, or an array in the image's unit. At most one.
    mask : int, str, path or bool array_like, optional
        Bad pixels are not zero; like the noise, an extension, a file or an array.
    bad_bits : int, str or sequence of these, optional
        Bits of the mask that make a pixel bad: numbers (``5``, ``"0x1F"``) or names
        (``"SAT,CR"``), as the header, or else the format, names them. By default those that mean
        defects where they have names, and all where they have none.
    estimate_noise : bool
        Estimate the noise from the image's sky (`estimate_noise`) instead.
    subtract_background : bool
        Subtract the sky's level, measured in boxes of 64 pixels.
    effective_gain : float, Quantity, str, path or array_like, optional
        Electrons for each unit of flux: a number, one for each band, a keyword of the header (such
        as ``"GAIN"``, or ``"EXPTIME"`` of an image in electrons per second), or a map of exposure,
        which is an extension, a file or an array. The sources then have photon noise of their own
        (`~astro_ddprism.mixing.PhotonNoise`), and the image's noise must be that of the background
        alone, as it is if estimated in the sky. Pixels of a map where it is 0 or not finite are
        bad.
    saturation : float, "auto" or None
        Pixel value from which on a pixel is saturated; `None` takes the keyword ``SATURATE`` where
        there is one, "auto" looks for the flat tops of saturated stars (`find_saturation`). The
        core of a saturated star is masked with it.
    unit : unit, optional
        Unit of the pixels, instead of the one that the image states. Surface brightness becomes
        flux by the area of a pixel, in microjansky or its own unit.
    zero_point : float or str, optional
        AB magnitude of a pixel value of 1, or the keyword that tells it, or "header" for what the
        format knows (which it does by itself where pixels state no unit). The flux is then
        converted to microjansky.
    name : str, optional
        Name of the band; the keyword ``FILTER`` if not given.
    partial : bool
        Whether it is a part of an image, which may be masked all over.

    Returns
    -------
    `SurveyImage`
        The image.

    Raises
    ------
    InputError
        If the file is truncated or no FITS file, holds no image, no celestial WCS or no noise, if
        the unit is unknown, shapes differ, noise or gain are negative, or all pixels are masked.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.nddata import CCDData, StdDevUncertainty
    >>> from astropy.wcs import WCS
    >>> from astro_ddprism.survey import read_image
    >>> wcs = WCS({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CDELT1": -1e-4, "CDELT2": 1e-4})
    >>> pixels = np.zeros((64, 64))
    >>> pixels[3, 4] = np.nan
    >>> noise = StdDevUncertainty(np.full((64, 64), 0.5))
    >>> image = read_image(CCDData(pixels, uncertainty=noise, wcs=wcs, unit="nJy"))
    >>> image.shape, float(image.variance[0, 0, 0]), int(image.mask.sum())
    ((1, 64, 64), 0.25, 1)
    """
    if isinstance(image, SurveyImage):
        raise InputError("image: found a SurveyImage, which has been read already")
    planes = {"uncertainty": uncertainty, "variance": variance, "ivar": ivar, "weight": weight}
    planes = {kind: plane for kind, plane in planes.items() if plane is not None}
    if len(planes) > 1:
        raise InputError(f"found {' and '.join(planes)}, expected at most one of them")
    if planes and estimate_noise:
        raise InputError(f"found {next(iter(planes))} and estimate_noise, expected one of them")
    options = {"hdu": hdu, "noise": planes or None, "mask": mask, "unit": unit}
    with reading(image, "an image") if isinstance(image, str | Path) else nullcontext():
        raw = read_raw(image, format, **options, effective_gain=effective_gain)
        raw.file, raw.label = file_name(raw.file), printable(raw.label)
        if raw.mask is not None:
            raw.mask = bad_pixels(raw, bad_bits)
        elif bad_bits is not None:
            raise InputError(f"{raw.label}: found bad_bits and no mask, expected one")
        image = _assemble(
            raw,
            estimate=estimate_noise,
            subtract=subtract_background,
            saturation=saturation,
            name=name,
            partial=partial,
        )
        image = flux_per_pixel(image, raw)
        image = calibrated(image, zero_point, raw)
    lines = tuple(printable(line) for line in provenance_of(raw))
    for line in () if partial else lines:
        logger.info("%s: %s", raw.file or raw.label, line)
    return replace(image, provenance=lines)


ORDER = ("flux", "unit", "zero point", "noise", "mask", "masked", "gain", "not used")


def provenance_of(raw):
    """What served as what in an image that was read.

    Parameters
    ----------
    raw : `~astro_ddprism.survey.formats.RawImage`
        The image.

    Returns
    -------
    tuple of str
        A line for each role.
    """
    return tuple(f"{role}: {raw.origin[role]}" for role in ORDER if role in raw.origin)


def _assemble(raw, *, estimate, subtract, saturation, name, partial):
    data = _bands(raw.data, raw.label)
    wcs = celestial_wcs(raw.wcs, raw.label)
    reasons = {"not finite": ~np.isfinite(data)}
    bad = reasons["not finite"].copy()
    if raw.mask is not None:
        bad |= reasons.setdefault("mask", _match(raw.mask, data.shape, f"{raw.label}, mask"))
    if estimate:
        variance = None
        raw.origin["noise"] = "estimated from the scatter of the sky"
    elif raw.noise is None:
        names = ", ".join(name for names in NOISE_NAMES.values() for name in names)
        raise InputError(
            f"{raw.label}: found no noise information, expected an extension named one of {names}, "
            "or one given as uncertainty, variance, ivar or weight, or estimate_noise"
            + ("; not used: " + raw.origin["not used"] if "not used" in raw.origin else "")
        )
    else:
        variance = _checked_variance(_match(raw.noise, data.shape, raw.noise_label), raw, partial)
        reasons["no weight or noise"] = ~(np.isfinite(variance) & (variance > 0))
        bad |= reasons["no weight or noise"]
    gain = None
    if raw.gain is not None:
        gain = _checked_gain(raw.gain, data.shape, raw.gain_label, partial)
        reasons["not exposed"] = ~(gain > 0) | ((gain == np.inf) & (np.ndim(raw.gain) > 1))
        bad |= reasons["not exposed"]
    if not partial:
        _check_any_valid(bad, raw.label)
    reasons["areas of one value, without data"] = np.stack(
        [without_data(d, b, whole=not partial) for d, b in zip(data, bad, strict=True)]
    )
    bad |= reasons["areas of one value, without data"]
    relative = raw.noise_kind == "weight" and not estimate
    sky = None
    if estimate or relative or subtract or saturation == "auto":
        sky = _sky(data, bad, raw.label)
    if subtract:
        data = data - sky[0]
    if estimate:
        variance = np.square(sky[1], dtype=np.float64)
    elif relative:
        variance = variance * _weight_factor(sky[1], variance, bad, raw.noise_label)
    levels = _saturation_levels(saturation, raw, data, sky, bad)
    saturated = np.stack(
        [
            np.zeros(d.shape, dtype=bool) if level is None else grow_saturated(d, level)
            for d, level in zip(data, levels, strict=True)
        ]
    )
    bad |= reasons.setdefault("saturated", saturated)
    if not partial:
        _check_any_valid(bad, raw.label)
        parts = [f"{reason} {where.mean():.2%}" for reason, where in reasons.items() if where.any()]
        told = f"{bad.mean():.2%} of the pixels" + ": " * bool(parts) + ", ".join(parts)
        raw.origin["masked"] = told
    return SurveyImage(
        data=data,
        variance=np.where(bad, np.inf, variance),
        mask=bad,
        wcs=wcs,
        unit=raw.unit,
        names=_names(name or raw.header.get("FILTER"), len(data)),
        saturated=saturated,
        filename=raw.label,
        files=(raw.file,) if raw.file else (),
        effective_gain=gain,
        psf=raw.psf,
    )


def _bands(data, label):
    if not (np.issubdtype(data.dtype, np.number) or data.dtype == bool):
        raise InputError(f"{label}: found pixels of type {data.dtype}, expected numbers")
    if np.iscomplexobj(data):
        raise InputError(
            f"{label}: found complex pixels ({data.dtype}), expected real ones, linear in flux"
        )
    found = data.shape
    while data.ndim > 3 and data.shape[0] == 1:  # radio images: degenerate Stokes and frequency
        data = data[0]
    if data.ndim not in {2, 3} or 0 in data.shape:
        raise InputError(f"{label}: found shape {found}, expected (ny, nx) or (bands, ny, nx)")
    return as_float(data if data.ndim == 3 else data[np.newaxis])


def _match(plane, shape, label):
    """A plane of the image's shape; one plane serves all bands."""
    plane = np.asarray(plane)
    if plane.shape not in {shape, shape[1:]} and not (shape[0] == 1 and plane.shape == (1, *shape)):
        raise InputError(
            f"{label}: found shape {plane.shape}, expected that of the image, {shape[1:]}"
            + (f" or {shape}" if shape[0] > 1 else "")
        )
    return np.broadcast_to(plane, shape)


def _checked_variance(noise, raw, partial):
    """The variance; NaN where the noise is negative, which a few pixels may be."""
    if np.iscomplexobj(noise):
        raise InputError(f"{raw.noise_label}: found complex numbers, expected real ones")
    with np.errstate(invalid="ignore"):
        negative = int(np.sum(noise < 0))
    if not partial and negative > MAX_NEGATIVE * noise.size:
        raise InputError(
            f"{raw.noise_label}: found {negative} negative values as {raw.noise_kind}, "
            "expected none"
        )
    if negative:
        logger.warning(
            "%s: %d negative values as %s are masked", raw.noise_label, negative, raw.noise_kind
        )
    return to_variance(noise, raw.noise_kind)


def _checked_gain(gain, shape, label, partial):
    """Electrons per unit of flux in every pixel, of any number of numbers."""
    gain = np.asarray(gain, dtype=np.float64)
    if gain.ndim < 2:
        if not (gain > 0).all():
            raise InputError(f"{label}: found {gain}, expected a positive number of electrons")
        if gain.ndim and len(gain) != shape[0]:
            raise InputError(
                f"{label}: found {len(gain)} numbers, expected one for each of {shape[0]} bands"
            )
        return np.broadcast_to(np.reshape(gain, (-1, 1, 1)), shape)
    gain = _match(gain, shape, label)
    negative = int(np.sum(gain < 0))
    if not partial and negative > MAX_NEGATIVE * gain.size:
        raise InputError(f"{label}: found {negative} negative values, expected none")
    return gain


def _check_any_valid(bad, label):
    if bad.all():
        raise NothingFoundError(
            f"{label}: all pixels are masked, saturated, not finite or without weight, expected an "
            "image with data in it"
        )


def _sky(data, bad, label):
    """Background and noise of each band; infinite noise in a band without any data."""
    background, noise = np.zeros_like(data), np.full_like(data, np.inf)
    for band in np.flatnonzero(~bad.all(axis=(1, 2))):
        try:
            background[band], noise[band] = measure_sky(data[band], mask=bad[band])
        except InputError as error:
            raise InputError(f"{label}: {error}") from error
    return background, noise


def _weight_factor(rms, variance, bad, label):
    factors = [
        np.median((np.square(s, dtype=np.float64) / v)[~b]) if not b.all() else 1.0
        for s, v, b in zip(rms, variance, bad, strict=True)
    ]
    logger.info("%s: inverse variance = weight times %s", label, [f"{1 / k:.4g}" for k in factors])
    return np.reshape(factors, (-1, 1, 1))


def _saturation_levels(saturation, raw, data, sky, bad):
    if saturation is None:
        saturation = raw.header.get("SATURATE")
        if (
            not isinstance(saturation, int | float)
            or not np.isfinite(saturation)
            or saturation <= 0
        ):
            return [None] * len(data)
    if isinstance(saturation, str):
        if saturation != "auto":
            raise InputError(f"saturation: found {saturation!r}, expected a pixel value or 'auto'")
        return [
            None if b.all() else find_saturation(d - level, float(np.median(rms[~b])), mask=b)
            for d, level, rms, b in zip(data, *sky, bad, strict=True)
        ]
    levels = np.broadcast_to(np.asarray(saturation, dtype=float), len(data))
    if not (levels > 0).all():
        raise InputError(f"saturation: found {saturation}, expected a positive pixel value")
    return list(levels)


def _names(name, n_bands):
    if n_bands == 1:
        return (str(name).strip() if name else "band0",)
    return tuple(f"band{i}" for i in range(n_bands))


def read_bands(image, options):
    """Read an image that may have been read already, or several bands of it.

    Parameters
    ----------
    image : `SurveyImage`, path, `~astropy.nddata.NDData`, or a list of these
        The image, or its bands.
    options : dict
        Options of `read_image`.

    Returns
    -------
    `SurveyImage`
    """
    if isinstance(image, SurveyImage):
        if options:
            raise InputError(
                f"found the options {', '.join(options)}, expected none: the image "
                "has been read already"
            )
        return image
    if isinstance(image, list | tuple):
        return stack_bands(
            [one if isinstance(one, SurveyImage) else read_image(one, **options) for one in image]
        )
    if isinstance(image, Cutout2D):
        image = NDData(image.data, wcs=image.wcs)
    if isinstance(image, str | Path) or hasattr(image, "uncertainty"):
        return read_image(image, **options)
    raise InputError(
        f"image: found {type(image).__name__}, expected a file, an NDData, a SurveyImage or a list "
        "of these"
    )
