"""Positions on an image: from a catalog, or at random.

A position is one row of a table with the columns ``id`` (str), ``x``, ``y`` (pixels, 0 at the
middle of the first) and ``sky_centroid`` (`~astropy.coordinates.SkyCoord`).
"""

from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.coordinates import ICRS, SkyCoord, UnitSphericalRepresentation
from astropy.table import QTable, Table
from astropy.wcs.utils import wcs_to_celestial_frame
from scipy.ndimage import distance_transform_edt

from ..errors import InputError

__all__ = ["place_randoms", "positions_table", "read_positions"]

RA_NAMES = ("ra", "raj2000", "ra_icrs", "alpha_j2000", "ra_deg", "_raj2000", "right_ascension")
DEC_NAMES = ("dec", "dej2000", "de_icrs", "delta_j2000", "dec_deg", "_dej2000", "declination")
ID_NAMES = ("id", "object_id", "source_id", "objid", "name", "label", "number")


def positions_table(ids, coordinates, wcs):
    """A table of positions with their pixels.

    Parameters
    ----------
    ids : array_like
        Name of each position.
    coordinates : `~astropy.coordinates.SkyCoord`
        The positions.
    wcs : `~astropy.wcs.WCS`
        Celestial WCS of the image.

    Returns
    -------
    `~astropy.table.QTable`
        Columns ``id``, ``x``, ``y``, ``sky_centroid``; ``x`` and ``y`` are NaN for positions that
        the projection cannot show.
    """
    frame = coordinates.transform_to(wcs_to_celestial_frame(wcs)).represent_as(
        UnitSphericalRepresentation
    )
    # Unlike world_to_pixel this does not fail for all where one position is far off the image.
    world = (frame.lon.deg, frame.lat.deg)
    if wcs.wcs.lng > wcs.wcs.lat:
        world = world[::-1]
    x, y = wcs.all_world2pix(*world, 0, quiet=True)
    return QTable({"id": np.asarray(ids).astype(str), "x": x, "y": y, "sky_centroid": coordinates})


def read_positions(positions, wcs):
    """Positions from a catalog.

    Parameters
    ----------
    positions : path, `~astropy.table.Table` or `~astropy.coordinates.SkyCoord`
        A table, or any file that `astropy.table.Table.read` reads, with a column of
        `~astropy.coordinates.SkyCoord` or columns of right ascension and declination (ICRS): ``ra``
        and ``dec``, ``RAJ2000`` and ``DEJ2000``, ``ALPHA_J2000`` and ``DELTA_J2000``, ..., in any
        case, in degrees if they have no unit. A column ``id``, ``object_id``, ``source_id``,
        ``name``, ``label`` or ``number`` names the positions; without it they are numbered from 0.
    wcs : `~astropy.wcs.WCS`
        Celestial WCS of the image.

    Returns
    -------
    `~astropy.table.QTable`
        Columns ``id``, ``x``, ``y``, ``sky_centroid``, one row per position, in order.

    Raises
    ------
    InputError
        If the table cannot be read, is empty, has no positions, or some are not finite or no
        angles.

    Examples
    --------
    >>> from astropy.table import Table
    >>> from astropy.wcs import WCS
    >>> from astro_ddprism.survey import read_positions
    >>> wcs = WCS({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10, "CRVAL2": 20,
    ...            "CRPIX1": 50, "CRPIX2": 50, "CDELT1": -1e-4, "CDELT2": 1e-4})
    >>> table = read_positions(Table({"ID": [7], "RA": [10.0], "DEC": [20.001]}), wcs)
    >>> print(table["id"][0], table["x"].round(2)[0], table["y"].round(2)[0])
    7 49.0 59.0
    """
    if isinstance(positions, SkyCoord):
        return positions_table(range(positions.size), positions.ravel(), wcs)
    label = "positions"
    if isinstance(positions, str | Path):
        label = f"positions {positions}"
        positions = _read_table(positions, label)
    if not isinstance(positions, Table):
        raise InputError(
            f"{label}: found {type(positions).__name__}, expected a table, a file or a SkyCoord"
        )
    if len(positions) == 0:
        raise InputError(f"{label}: found no rows, expected one per position")
    coordinates = _coordinates(positions, label)
    column = _column(positions, ID_NAMES)
    ids = np.arange(len(positions)) if column is None else _ids(positions[column], label)
    return positions_table(ids, coordinates, wcs)


def _read_table(path, label):
    if not Path(path).exists():
        raise FileNotFoundError(2, "No such file or directory", str(path))
    try:
        return Table.read(path)
    except Exception as error:  # each of the many readers raises its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{label}: no table that astropy reads ({reason})") from error


def _column(table, names):
    found = {name.lower(): name for name in reversed(table.colnames)}
    return next((found[name] for name in names if name in found), None)


def _ids(column, label):
    if np.ma.is_masked(column):
        raise InputError(f"{label}: found rows without an id in column {column.name!r}")
    values = np.asarray(column)
    return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values


def _coordinates(table, label):
    ra, dec = _column(table, RA_NAMES), _column(table, DEC_NAMES)
    skies = [name for name in table.colnames if isinstance(table[name], SkyCoord)]
    if skies:
        coordinates = table[skies[0]]
        if not (
            np.isfinite(coordinates.spherical.lon) & np.isfinite(coordinates.spherical.lat)
        ).all():
            raise InputError(f"{label}, column {skies[0]!r}: found positions that are not finite")
        return coordinates
    if ra is None or dec is None:
        raise InputError(
            f"{label}: found columns {', '.join(table.colnames)}, expected a SkyCoord or RA and "
            "Dec (named ra and dec, RAJ2000 and DEJ2000, ALPHA_J2000 and DELTA_J2000, ...)"
        )
    lon, lat = (_degrees(table[name], f"{label}, column {name!r}") for name in (ra, dec))
    if (np.abs(lat) > 90).any() or (lon < -360).any() or (lon > 360).any():
        raise InputError(
            f"{label}: found right ascensions from {lon.min():g} to {lon.max():g} and declinations "
            f"from {lat.min():g} to {lat.max():g}, expected degrees"
        )
    return SkyCoord(lon * u.deg, lat * u.deg, frame=ICRS())


def _degrees(column, label):
    if np.asarray(column).dtype.kind not in "fiu":
        raise InputError(f"{label}: found {column[0]!r}, expected degrees as a number")
    values = np.ma.filled(np.ma.asarray(getattr(column, "value", column)).astype(float), np.nan)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise InputError(
            f"{label}: found no finite number in row {bad[0]} and {len(bad) - 1} others"
        )
    try:
        return values * (column.unit or u.deg).to(u.deg)
    except u.UnitConversionError as error:
        raise InputError(f"{label}: found the unit {column.unit}, expected an angle") from error


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
    from .cutouts import masked_fraction_map

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
