"""The pixels of a view: plain arrays of whatever kind of array, noise or mask was given.

Every function is handed the ``error`` of a view, ``error(argument, found, expected)``, which names
the view in what it raises.
"""

import numpy as np
import torch
from astropy import units as u
from astropy.utils.masked import Masked

from ..io.mapped import is_mapped, release_pages, row_slices
from ..mixing import Noise
from ..units import AB_FLUX

__all__ = [
    "are_clean",
    "checked_flags",
    "checked_pixels",
    "checked_unit",
    "checked_variance",
    "median",
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


def are_clean(data, variance, noise, mask, saturated, unit, error) -> bool:
    """Whether these are arrays, the data in a file, of which a view would change nothing.

    They are looked at a part at a time.
    """
    arrays = [data, mask, *(each for each in (variance, saturated) if each is not None)]
    if not all(isinstance(each, np.ndarray) for each in arrays) or not is_mapped(data):
        return False
    if any(each.shape != data.shape for each in arrays) or (variance is None) == (noise is None):
        return False
    kinds = set()
    for rows in row_slices(len(data), data[:1].nbytes):
        own = None if noise is None else noise[np.arange(rows.start, rows.stop)]
        own_variance = checked_variance(
            data[rows], None if variance is None else variance[rows], own, error
        )
        bad = mask[rows] if saturated is None else mask[rows] | saturated[rows]
        found = checked_pixels(data[rows], own_variance, bad, unit, error)
        given = (data[rows], found[1] if variance is None else variance[rows], mask[rows])
        if not all(np.array_equal(a, b) for a, b in zip(found, given, strict=True)):
            return False
        if own is not None and not np.array_equal(own.valid.numpy(), ~mask[rows]):
            return False
        kinds.add(found[0].dtype)
        release_pages()
    return data.dtype in kinds and (variance is None or variance.dtype == data.dtype)


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


def median(parts) -> np.floating:
    """The median of positive finite numbers that come in parts, exactly.

    By their bits: positive numbers are in the order of those. Each look at all numbers tells 16
    more bits of the two in the middle.

    Parameters
    ----------
    parts : callable
        Called without arguments; iterates over arrays of numbers, the same each time.
    """
    kinds, sizes = zip(*((part.dtype, part.size) for part in parts()), strict=True)
    dtype, n = np.result_type(*kinds), sum(sizes)
    whole = np.dtype(f"u{dtype.itemsize}")
    found = {(n - 1) // 2: 0, n // 2: 0}  # the bits so far, of the numbers of these ranks
    below = dict.fromkeys(found, 0)  # how many numbers have lower ones
    for shift in range(8 * whole.itemsize - 16, -1, -16):
        counts = {bits: np.zeros(1 << 16, np.int64) for bits in found.values()}
        for part in parts():
            bits = part.astype(dtype, copy=False).view(whole)
            high = bits >> (shift + 16) if shift + 16 < 8 * whole.itemsize else np.zeros_like(bits)
            low = (bits >> shift) & 0xFFFF
            for prefix, count in counts.items():
                count += np.bincount(low[high == prefix].astype(np.int64), minlength=1 << 16)
        for rank, prefix in found.items():
            total = below[rank] + counts[prefix].cumsum()
            digit = int(np.searchsorted(total, rank, side="right"))
            below[rank] = int(total[digit] - counts[prefix][digit])
            found[rank] = (prefix << 16) | digit
    numbers = np.array([*found.values()], whole).view(dtype)
    return np.mean([numbers[0], numbers[-1]], dtype=dtype)
