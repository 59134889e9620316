"""The pixels of a view: plain arrays of whatever kind of array, noise or mask was given.

Every function is handed the ``error`` of a view, ``error(argument, found, expected)``, which names
the view in what it raises.
"""

import numpy as np
import torch
from astropy import units as u
from astropy.utils.masked import Masked

from ..mixing import Noise
from ..units import AB_FLUX

__all__ = [
    "checked_flags",
    "checked_pixels",
    "checked_unit",
    "checked_variance",
    "plain_values",
]


def checked_unit(unit, data, error) -> u.UnitBase:
    """The unit that is given, or else that of the data; dimensionless without any."""
    if unit is None:
        unit = getattr(data, "unit", None) or u.dimensionless_unscaled
    try:
        known = u.Unit(unit)
    except (TypeError, ValueError):
        known = None
    # Magnitudes do not add as light does.
    linear = isinstance(known, u.UnitBase) and not isinstance(known, u.UnrecognizedUnit)
    if not linear or u.dex in known.decompose().bases:
        raise error("unit", repr(str(unit)), "a linear unit that astropy.units knows")
    bases = known.decompose().bases
    if u.rad in bases or u.beam in bases:  # sources on other pixels would not have the same light
        raise error("unit", repr(str(unit)), "flux for a pixel: multiply by the area of a pixel")
    return known


def checked_flags(argument, flags, shape, error) -> np.ndarray:
    """Flags as an array of bool, of the shape of the data."""
    flags = np.asarray(flags)
    if flags.dtype != bool or flags.shape != shape:
        found = f"shape {flags.shape} of type {flags.dtype}"
        raise error(argument, found, f"bool, of the shape of the data, {shape}")
    return flags


def plain_values(argument, values, unit, error):
    """The plain array of any kind of array, and its own mask."""
    mask = np.False_
    if isinstance(values, Masked):
        values, mask = values.unmasked, values.mask
    elif isinstance(values, np.ma.MaskedArray):
        values, mask = values.data, np.ma.getmaskarray(values)
    if isinstance(values, u.Quantity):
        try:
            values = u.Quantity(values, dtype=float).to_value(unit, AB_FLUX)
        except u.UnitConversionError as reason:
            raise error(argument, f"unit {values.unit}", f"one like {unit}") from reason
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise error(argument, f"an array of type {values.dtype}", "real numbers")
    return values, mask


def checked_variance(data, variance, noise, error):
    """The variance of every pixel, from either of the two arguments that tell it."""
    if (variance is None) == (noise is None):
        found = "neither" if noise is None else "both"
        raise error("variance, noise", found, "one of the two")
    if noise is None:
        return variance
    if not isinstance(noise, Noise):
        raise error("noise", type(noise).__name__, "one of astro_ddprism.mixing")
    shape = noise.n_observations, *noise.shape
    if shape != np.shape(data):
        raise error("noise", f"shape {shape}", f"that of the data, {np.shape(data)}")
    # In float64: variances of fluxes in W / m2 leave the range of float32.
    return noise.to("cpu", torch.float64).variance.numpy()


def checked_pixels(data, variance, mask, unit, error):
    """Flux, variance and mask as plain arrays; 0 and infinity at pixels without information."""
    data, masked_data = plain_values("data", data, unit, error)
    variance, masked_variance = plain_values("variance", variance, unit**2, error)
    if data.ndim < 2 or data.size == 0:
        raise error("data", f"shape {data.shape}", "(n_observations, ..., ny, nx)")
    mask = np.False_ if mask is None else np.asarray(mask)
    if mask.dtype != bool:
        raise error("mask", f"an array of type {mask.dtype}", "bool, True at bad pixels")
    for argument, values in (("variance", variance), ("mask", mask)):
        try:
            np.broadcast_to(values, data.shape)
        except ValueError as reason:
            found = f"shape {values.shape}"
            raise error(argument, found, f"that of the data, {data.shape}") from reason
    mask = mask | masked_data | masked_variance | ~np.isfinite(data)
    n_negative = np.count_nonzero((variance < 0) & ~mask)
    if n_negative:
        found = f"{n_negative} negative values"
        raise error("variance", found, "positive ones, or 0 where unknown")
    mask = mask | ~((variance > 0) & np.isfinite(variance))
    data, variance = np.where(mask, 0, data), np.where(mask, np.inf, variance)
    dtype = _dtype(data, variance[~mask])
    return data.astype(dtype), variance.astype(dtype), mask


def _dtype(data, variance):
    """The shorter type that holds these values, so that faint units lose nothing."""
    limits = np.finfo(np.float32)
    fits = variance.size == 0 or (
        variance.min() >= limits.tiny and max(variance.max(), np.abs(data).max()) <= limits.max
    )
    return np.float32 if fits else np.float64
