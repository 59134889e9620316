"""Positions on an image, from a catalog.

A position is one row of a table with the columns ``id`` (str), ``x``, ``y`` (pixels, 0 at the
middle of the first) and ``sky_centroid`` (`~astropy.coordinates.SkyCoord`).
"""

from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.coordinates import ICRS, SkyCoord, UnitSphericalRepresentation
from astropy.table import QTable, Table
from astropy.wcs.utils import wcs_to_celestial_frame

from ..errors import InputError

__all__ = ["positions_table", "read_positions"]

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
