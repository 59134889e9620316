"""Positions on an image, from a catalog.

A position is one row of a table with the columns ``id`` (str), ``x``, ``y`` (pixels, 0 at the
middle of the first) and ``sky_centroid`` (`~astropy.coordinates.SkyCoord`).
"""

import logging
import re
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.coordinates import ICRS, Angle, SkyCoord, UnitSphericalRepresentation
from astropy.table import QTable, Table
from astropy.wcs.utils import wcs_to_celestial_frame

from ..errors import InputError
from .catalogs import find_column, find_pair, object_ids, read_table
from .catalogs import id_column as _id_column

__all__ = ["positions_table", "read_positions"]

logger = logging.getLogger(__name__)

NEAR = 20 * u.deg  # of an image, of positions whose unit is to be told


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
    known = np.isfinite(world[0]) & np.isfinite(world[1])
    x, y = np.full((2, len(known)), np.nan)
    if known.any():
        x[known], y[known] = wcs.all_world2pix(world[0][known], world[1][known], 0, quiet=True)
    return QTable({"id": np.asarray(ids).astype(str), "x": x, "y": y, "sky_centroid": coordinates})


def read_positions(positions, wcs, *, format=None, id_column=None):  # noqa: A002
    """Positions from a catalog.

    Parameters
    ----------
    positions : path, `~astropy.table.Table` or `~astropy.coordinates.SkyCoord`
        A table, or a file of one, in any format of `astropy.table`, with a column of
        `~astropy.coordinates.SkyCoord` or columns of right ascension and declination (ICRS) of any
        usual name (``ra`` and ``dec``, ``RAJ2000``, ``ALPHA_J2000``, ``coord_ra``, ...; ``RAh``,
        ``RAm``, ``RAs``, ... of the CDS): angles or numbers with a unit, numbers in degrees, or
        sexagesimal text, in hours for the right ascension. Rows without a position (masked, NaN,
        -99 or -999 in both) are not on any image.
    wcs : `~astropy.wcs.WCS`
        Celestial WCS of the image.
    format : str, optional
        Name of astropy's format of the file.
    id_column : str, optional
        Column that names the positions. By default one that is called ``id``, ``object_id``,
        ``NUMBER``, ``TARGETID``, ... or anything that ends in ``id``; without one they are
        numbered from 0, with a word.

    Returns
    -------
    `~astropy.table.QTable`
        Columns ``id``, ``x``, ``y``, ``sky_centroid``, one row per position, in order; ``id`` is
        the text of the column as it is written in the table.

    Raises
    ------
    InputError
        If the table cannot be read, is empty, has no positions, or two of one name.

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
        return positions_table(range(positions.size), _unmasked(positions.ravel()), wcs)
    label = "positions"
    if isinstance(positions, str | Path):
        label = f"positions {positions}"
        path = positions
        positions = read_table(path, label, format)
        column = _id_column(positions, label, id_column) if len(positions) else None
        if column is not None and positions[column].dtype.kind in "iuf" and format is None:
            # Text tells more than the number that it looks like: zeros before it, all its digits.
            positions = read_table(path, label, as_text=(column,))
    if not isinstance(positions, Table):
        raise InputError(
            f"{label}: found {type(positions).__name__}, expected a table, a file or a SkyCoord"
        )
    if len(positions) == 0:
        raise InputError(f"{label}: found no rows, expected one per position")
    coordinates = _coordinates(positions, label, wcs)
    column = _id_column(positions, label, id_column)
    return positions_table(object_ids(positions, label, column), coordinates, wcs)


def _coordinates(table, label, wcs):
    skies = [name for name in table.colnames if isinstance(table[name], SkyCoord)]
    if skies:
        name, coordinates = skies[0], _unmasked(table[skies[0]])
    else:
        pair = find_pair(table.colnames)
        if pair is None:
            table, pair = _joined(table)
        if pair is None:
            raise InputError(
                f"{label}: found columns {', '.join(table.colnames)}, expected a SkyCoord or RA "
                "and Dec (named ra and dec, RAJ2000 and DEJ2000, ALPHA_J2000 and DELTA_J2000, ...)"
            )
        name = pair[0]
        coordinates = _of_columns(table, pair, label, wcs)
    finite = np.isfinite(coordinates.spherical.lon) & np.isfinite(coordinates.spherical.lat)
    if not finite.any():
        raise InputError(
            f"{label}, column {name!r}: found no finite number in any row, expected positions"
        )
    if not finite.all():
        logger.warning("%s: found no position in %d rows", label, np.sum(~finite))
    return coordinates


def _joined(table):
    """A table of the angles in columns of hours, minutes and seconds, as the CDS has them."""
    parts = [[find_column(table.colnames, [axis + unit]) for unit in units]
             for axis, units in (("RA", "hms"), ("DE", "dms"))]  # fmt: skip
    if any(None in columns for columns in parts):
        return table, None
    hours, degrees = (
        sum(np.ma.filled(np.ma.asarray(table[name], dtype=float), np.nan) / 60**k
            for k, name in enumerate(columns)) for columns in parts
    )  # fmt: skip
    sign = find_column(table.colnames, ["DE-"])  # of a zero, too
    if sign is not None:
        degrees = degrees * np.where([str(one).strip() == "-" for one in table[sign]], -1, 1)
    names = "RAh RAm RAs", "DEd DEm DEs"
    return Table(dict(zip(names, (15 * hours, degrees), strict=True))), names


def _unmasked(coordinates):
    """Coordinates that are NaN where they are masked."""
    mask = getattr(coordinates, "mask", None)
    if mask is None or not getattr(coordinates, "masked", False):
        return coordinates
    lon, lat = (
        np.where(mask, np.nan, np.asarray(axis.unmasked.to_value(u.deg)))
        for axis in (coordinates.spherical.lon, coordinates.spherical.lat)
    )
    return SkyCoord(lon * u.deg, lat * u.deg, frame=coordinates.frame.replicate_without_data())


def _of_columns(table, names, label, wcs):
    lon, lat = (
        _angles(table[name], f"{label}, column {name!r}", hours=hours)
        for name, hours in zip(names, (True, False), strict=True)
    )
    if names[0].lower() == "coord_ra" and lon[1] is None and lat[1] is None:
        # Older files of the LSST pipelines hold radians, newer ones degrees.
        lon, lat = _by_place(lon[0], lat[0], label, wcs)
    else:
        lon, lat = (
            values * (u.deg if unit is None else unit).to(u.deg) for values, unit in (lon, lat)
        )
    with np.errstate(invalid="ignore"):  # -99 or -999 in both: there is none
        lon, lat = (np.where((lon == lat) & (np.abs(lat) > 90), np.nan, v) for v in (lon, lat))
    finite = np.isfinite(lon) & np.isfinite(lat)
    if (np.abs(lat[finite]) > 90).any() or (np.abs(lon[finite]) > 360).any():
        raise InputError(
            f"{label}: found right ascensions from {np.nanmin(lon):g} to {np.nanmax(lon):g} and "
            f"declinations from {np.nanmin(lat):g} to {np.nanmax(lat):g}, expected degrees"
        )
    lon, lat = (np.where(finite, axis, np.nan) for axis in (lon, lat))
    return SkyCoord(lon * u.deg, lat * u.deg, frame=ICRS())


def _by_place(lon, lat, label, wcs):
    middle = SkyCoord(*wcs.wcs.crval[[wcs.wcs.lng, wcs.wcs.lat]], unit="deg",
                      frame=wcs_to_celestial_frame(wcs)).icrs  # fmt: skip
    near = {}
    for unit in (u.rad, u.deg):
        with np.errstate(invalid="ignore"):
            angles = [axis * unit.to(u.deg) for axis in (lon, lat)]
        fits = np.isfinite(angles[0]) & (np.abs(angles[1]) <= 90)
        here = SkyCoord(angles[0][fits], angles[1][fits], unit="deg").separation(middle)
        if (here < NEAR).any():
            near[unit] = angles
    if len(near) != 1:
        raise InputError(
            f"{label}: found coord_ra and coord_dec without a unit, expected one: degrees and "
            f"radians lead to {'the image' if near else 'no place near the image'}"
        )
    logger.info("%s: coord_ra and coord_dec are in %s", label, next(iter(near)))
    return next(iter(near.values()))


def _angles(column, label, *, hours):
    """Numbers and their unit (None without one); NaN where there are none."""
    mask = np.ma.getmaskarray(column) if isinstance(column, np.ma.MaskedArray) else None
    if mask is None:
        mask = np.broadcast_to(getattr(column, "mask", False), len(column))
    unit = getattr(column, "unit", None)
    values = np.asarray(getattr(getattr(column, "unmasked", column), "value", column))
    if values.dtype.kind not in "fiu":
        return _parsed(values, mask, label, hours=hours)
    if values.dtype == np.float32:
        logger.warning("%s: single precision, good to some 0.05 arcsec", label)
    values = np.where(mask, np.nan, np.ma.getdata(values).astype(float))
    values = np.where(np.isfinite(values), values, np.nan)
    if unit is None or str(unit) == "":
        return values, None
    unit = u.Unit(str(unit).lower(), parse_strict="silent") if isinstance(
        unit, u.UnrecognizedUnit) else unit  # fmt: skip
    if hours and unit in (u.hour, u.hourangle):  # an hour of right ascension is an angle
        unit = u.hourangle
    if not isinstance(unit, u.UnitBase) or not unit.is_equivalent(u.deg):
        known = {"degree": u.deg, "degrees": u.deg, "radian": u.rad, "radians": u.rad}
        if str(unit).lower() not in known:
            raise InputError(f"{label}: found the unit {unit}, expected an angle")
        unit = known[str(unit).lower()]
    return values, unit


def _parsed(values, mask, label, *, hours):
    """Angles in degrees of text: decimal degrees, or sexagesimal, where a first part is hours."""
    degrees = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        if mask[i] or value is None:
            continue
        value = value.decode() if isinstance(value, bytes) else str(value)
        value = value.strip().replace("\N{MINUS SIGN}", "-")
        if not value or value.lower() in {"nan", "null", "none", "--", "n/a"}:
            continue
        try:
            if re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?", value):
                degrees[i] = float(value)
            else:
                has_unit = re.search("[a-zA-Z°]", value)
                unit = None if has_unit else u.hourangle if hours else u.deg
                angle = Angle(value, unit=unit)
                degrees[i] = angle.to_value(u.deg)
        except (ValueError, TypeError, u.UnitsError) as error:
            raise InputError(
                f"{label}: found {value!r} in row {i}, expected degrees as a number or sexagesimal "
                "text"
            ) from error
    return degrees, u.deg
