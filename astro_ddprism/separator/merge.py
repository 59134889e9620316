"""The catalogs of tiles that overlap, as one data set with every object once."""

import shutil

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astropy.table.meta import get_header_from_yaml
from scipy.spatial import KDTree

from ..errors import InputError
from ..io.outputs import replacing
from .records import published

try:
    import pyarrow as pa
    from pyarrow import parquet
except ImportError:  # an extra
    pa = None

__all__ = ["BORDER", "check_parquet", "publish", "read_parquet", "write_parquet"]

BORDER = 3.0  # arcseconds of depth, within which two tiles both separate an object
MATCH = 1.5  # arcseconds, within which two objects of two tiles are one


def check_parquet():
    """Refuse to go on where Parquet cannot be written."""
    if pa is None:
        raise InputError(
            "pyarrow: found none, expected it to be installed: pip install 'astro-ddprism[survey]'"
        )


def write_parquet(table, path):
    """Write a table as a file of Parquet, with units, in place of another."""
    with replacing(path, overwrite=True) as part:
        Table(table).write(str(part), format="parquet", overwrite=True)


def read_parquet(path) -> Table | None:
    """What `write_parquet` wrote, with units; None of an empty file."""
    if not path.stat().st_size:
        return None
    data = parquet.read_table(path, partitioning=None)
    # What astropy has written there for itself.
    told = data.schema.metadata[b"table_meta_yaml"].decode().split("\n")
    units = {c["name"]: c.get("unit") for c in get_header_from_yaml(told)["datatype"]}
    table = Table(
        {n: np.asarray(data[n].to_numpy(zero_copy_only=False)) for n in data.column_names}
    )
    for name in table.colnames:
        if table[name].dtype.kind == "O":
            table[name] = table[name].astype(str)
        table[name].unit = units[name]
    return table


def publish(folder, records):
    """Write the data set ``catalog/``: of each tile the rows that no other tile has better.

    Parameters
    ----------
    folder : pathlib.Path
        Where ``tiles/NAME.parquet`` are.
    records : list of Record
        The tiles. Those that failed have no rows.

    Returns
    -------
    records : list of Record
        With the number of objects that came out.
    """
    done = [record for record in records if record.status == "done"]
    lost = _lost({record.name: folder / "tiles" / f"{record.name}.parquet" for record in done})
    result = []
    for record in records:
        place = folder / "catalog" / f"tile={record.name}"
        table = None
        if record.status == "done":
            table = read_parquet(folder / "tiles" / f"{record.name}.parquet")
        if table is not None:
            keep = ~np.isin(np.asarray(table["id"]).astype(str), lost.get(record.name, []))
            table = table[keep]
            table.remove_column("rival_depth")
        if table is None or not len(table):
            shutil.rmtree(place, ignore_errors=True)
            result.append(published(record, 0))
            continue
        place.mkdir(parents=True, exist_ok=True)
        write_parquet(table, place / "part-0.parquet")
        result.append(published(record, len(table)))
    return result


def _lost(paths) -> dict[str, list[str]]:
    """Names of the objects that another tile has better, by tile."""
    names, ids, sky, depth = [], [], [], []
    for name, path in paths.items():
        table = read_parquet(path)
        if table is None:
            continue
        here = np.asarray(table["rival_depth"]) > np.asarray(table["depth"]) - BORDER
        if here.any():
            names += [name] * int(here.sum())
            ids += np.asarray(table["id"])[here].astype(str).tolist()
            sky.append(np.column_stack([table["ra"], table["dec"]])[here])
            depth.append(np.asarray(table["depth"])[here])
    if not names:
        return {}
    sky, depth = np.concatenate(sky), np.concatenate(depth)
    vectors = SkyCoord(*sky.T, unit="deg").cartesian.xyz.value.T
    near = KDTree(vectors).query_ball_tree(KDTree(vectors), (MATCH * u.arcsec).to_value(u.rad))
    lost, gone = {}, set()
    # The deepest first; of two that are as deep, the first in its order.
    for i in sorted(range(len(names)), key=lambda i: (-depth[i], i)):
        if i in gone:
            continue
        for j in near[i]:
            if names[j] != names[i] and j not in gone and (depth[j], -j) < (depth[i], -i):
                gone.add(j)
                lost.setdefault(names[j], []).append(ids[j])
    return lost
