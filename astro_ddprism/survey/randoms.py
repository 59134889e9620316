"""Random positions on an image, where line-of-sight light is alone."""

import numpy as np
from astropy import units as u
from astropy.table import QTable
from scipy.ndimage import distance_transform_edt

from ..errors import InputError
from .cutouts import masked_fraction_map

__all__ = ["place_randoms"]

# Distances, in pixels, of positions that lie beside an object.
CROWDED = 2.5, 10.0


def place_randoms(
    image, n, *, size=1, max_masked_fraction=0.2, avoid=None, min_distance=None,
    crowded_fraction=0.0, seed=0,
):  # fmt: skip
    """Random positions, uniform over the part of the image that can be cut out.

    Positions lie at the middle of pixels, no two at the same pixel. By default they do not avoid
    anything: the view of random sky should hold what random sky holds. But few random positions lie
    beside a bright object, and what is to separate galaxies that do must have seen many: some can
    be placed there on purpose.

    Parameters
    ----------
    image : `SurveyImage`
        The image.
    n : int
        Number of positions.
    size : int
        Side of the cutouts to come, in pixels: they lie wholly on the image.
    max_masked_fraction : float
        Part of a cutout's pixels that may be masked.
    avoid : `~astropy.table.QTable`, optional
        Positions to keep away from, or to be beside, with columns ``x`` and ``y``.
    min_distance : float or `~astropy.units.Quantity`, optional
        How far, in pixels or as an angle.
    crowded_fraction : float
        Part of the positions that lie beside one of ``avoid``, 2.5 to 10 pixels away.
    seed : int
        Seed of the random numbers.

    Returns
    -------
    `~astropy.table.QTable`
        Columns ``id`` ("random-0", ...), ``x``, ``y``, ``sky_centroid``.

    Raises
    ------
    InputError
        If the image has no room for so many.
    """
    with np.errstate(invalid="ignore"):
        allowed = masked_fraction_map(image.mask, size) <= max_masked_fraction
    if not 0 <= crowded_fraction <= 1:
        raise InputError(f"crowded_fraction: found {crowded_fraction}, expected a part of one")
    distance = None
    if min_distance is not None or crowded_fraction > 0:
        if avoid is None:
            name = "min_distance" if min_distance is not None else "crowded_fraction"
            raise InputError(f"{name}: found no positions to avoid, expected them as avoid")
        distance = _distance(image, avoid)
    if min_distance is not None:
        allowed &= distance >= _pixels(min_distance, image.wcs)
    pixels = np.flatnonzero(allowed)
    if n < 1:
        raise InputError(f"n: found {n} random positions, expected at least 1")
    if len(pixels) < n:
        raise InputError(
            f"{image.filename}: found {len(pixels)} pixels where a random cutout of "
            f"{size} x {size} pixels can be placed (at most {max_masked_fraction:.0%} masked, "
            f"min_distance = {min_distance}), expected at least {n}"
        )
    rng = np.random.default_rng(seed)
    n_crowded = round(n * crowded_fraction)
    chosen = rng.choice(pixels, n - n_crowded, replace=False)
    if n_crowded:
        beside = allowed & (distance >= CROWDED[0]) & (distance <= CROWDED[1])
        beside.flat[chosen] = False
        crowded = np.flatnonzero(beside)
        if len(crowded) < n_crowded:
            raise InputError(
                f"{image.filename}: found {len(crowded)} pixels beside detections where a random "
                f"cutout can be placed, expected at least {n_crowded}"
            )
        chosen = np.concatenate([chosen, rng.choice(crowded, n_crowded, replace=False)])
    y, x = np.unravel_index(chosen, allowed.shape)
    return QTable(
        {
            "id": np.array([f"random-{i}" for i in range(n)]),
            "x": x.astype(float),
            "y": y.astype(float),
            "sky_centroid": image.wcs.pixel_to_world(x, y),
        }
    )


def _distance(image, avoid):
    """Distance of every pixel from the nearest of these positions, in pixels."""
    ny, nx = image.shape[1:]
    free = np.ones((ny, nx), dtype=bool)
    x, y = np.round([avoid["x"], avoid["y"]])
    inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
    if not inside.any():
        return np.full((ny, nx), np.inf)
    free[y[inside].astype(int), x[inside].astype(int)] = False
    return distance_transform_edt(free)


def _pixels(distance, wcs):
    if not isinstance(distance, u.Quantity) or distance.unit in {u.pix, u.dimensionless_unscaled}:
        return float(getattr(distance, "value", distance))
    try:
        angle = distance.to(u.deg)
    except u.UnitConversionError as error:
        raise InputError(f"min_distance: found {distance}, expected pixels or an angle") from error
    scale = np.sqrt(wcs.proj_plane_pixel_area().to_value(u.deg**2))
    return float(angle.value / scale)
