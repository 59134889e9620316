"""Catalogs as files of any format that astronomers and their databases read.

ECSV keeps a catalog as it is. The other formats are plain tables, with positions in degrees and
magnitudes as numbers: FITS and VOTable with a description, a unit and a UCD for every column and
the frame of the sky, Parquet with descriptions and units in its metadata, CSV with names alone.
"""

import importlib.util

from astropy.io import fits
from astropy.io.votable import from_table
from astropy.io.votable.tree import CooSys, Param
from astropy.table import Table

from ..errors import InputError
from ..io.fits import replacing, write_fits
from .product import catalog_header, plain_catalog, table_hdu

__all__ = ["CATALOG_ENDINGS", "check_catalog_path", "write_catalog"]


def _write_ecsv(catalog, path):
    catalog.write(path, format="ascii.ecsv", overwrite=True)


def _write_csv(catalog, path):
    plain_catalog(catalog).write(path, format="ascii.csv", overwrite=True)


def _write_fits(catalog, path):
    hdu = table_hdu(plain_catalog(catalog), "CATALOG")
    catalog_header(hdu.header, catalog)
    write_fits(fits.HDUList([fits.PrimaryHDU(), hdu]), path, overwrite=True)


def _write_votable(catalog, path):
    votable = from_table(Table(plain_catalog(catalog)))
    (resource,) = votable.resources
    (table,) = resource.tables
    resource.coordinate_systems.append(CooSys(ID="sky", system="ICRS"))
    for field in table.fields:
        if str(field.ucd or "").startswith("pos.eq."):
            field.ref = "sky"
    for name in ("aperture", "zero_point"):
        if name in catalog.meta:
            param = Param(votable, name=name, datatype="char", arraysize="*",
                          value=str(catalog.meta[name]))  # fmt: skip
            table.params.append(param)
    votable.to_xml(str(path))


def _write_parquet(catalog, path):
    plain_catalog(catalog).write(path, format="parquet", overwrite=True)


_WRITERS = {
    ".ecsv": _write_ecsv,
    ".csv": _write_csv,
    ".fits": _write_fits,
    ".vot": _write_votable,
    ".xml": _write_votable,
    ".parquet": _write_parquet,
}
CATALOG_ENDINGS = tuple(_WRITERS)
"""Endings of the names of files, each of which tells a format."""


def check_catalog_path(path) -> None:
    """Find out before the work whether a catalog can be written there.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file to be.

    Raises
    ------
    InputError
        If its ending tells no format, or one that needs a package which is not installed.
    """
    if path.suffix.lower() not in _WRITERS:
        raise InputError(
            f"{path}: found the ending {path.suffix!r}, expected one of {', '.join(_WRITERS)}"
        )
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError(f"{path}: found no pyarrow, expected it for Parquet: pip install pyarrow")


def write_catalog(catalog, path, overwrite=False) -> None:
    """Write a catalog in the format that the ending of the file tells.

    Parameters
    ----------
    catalog : QTable
        As of `~astro_ddprism.PosteriorSamples.catalog`.
    path : `~pathlib.Path`
        The file to be, written whole or not at all.
    overwrite : bool
        Whether an existing file is replaced.

    Raises
    ------
    InputError
        If the file exists and may not be replaced, or its ending tells no format that can be
        written.
    """
    check_catalog_path(path)
    with replacing(path, overwrite) as temporary:
        _WRITERS[path.suffix.lower()](catalog, temporary)
