"""Tables of objects, in the formats of the programs that write them, and the names in them."""

import logging
import re
import warnings
from pathlib import Path

import numpy as np
from astropy.io import ascii as text
from astropy.io import fits
from astropy.table import Table

from ..errors import InputError
from ..io.fits_in import open_fits
from ..io.reading import open_input, reading

__all__ = ["find_column", "find_pair", "id_column", "object_ids", "read_table", "some"]

logger = logging.getLogger(__name__)

# What a column of names is called, without case, underscores and dashes, best first.
ID_NAMES = (
    "id", "objectid", "sourceid", "objid", "coaddobjectid", "coaddobjectsid", "targetid",
    "uniqueid", "photoobjid", "specobjid", "detectid", "catid", "catalogid", "srcid", "starid",
    "galaxyid", "lsid", "iauname", "designation", "mainid", "name", "object", "objname",
    "sourcename", "target", "targetname", "label", "number", "recno", "seq", "idx",
)  # fmt: skip
# Right ascensions and declinations, in pairs, best first; case, underscores and dots do not count.
PAIRS = (
    ("ra", "dec"), ("raj2000", "dej2000"), ("raj2000", "decj2000"), ("ra_icrs", "de_icrs"),
    ("ra_icrs", "dec_icrs"), ("alpha_j2000", "delta_j2000"),
    ("alphawin_j2000", "deltawin_j2000"), ("alphapeak_j2000", "deltapeak_j2000"),
    ("alphapsf_j2000", "deltapsf_j2000"), ("ra_deg", "dec_deg"), ("radeg", "dedeg"),
    ("_raj2000", "_dej2000"), ("right_ascension", "declination"), ("coord_ra", "coord_dec"),
    ("i_ra", "i_dec"), ("ira", "idec"), ("ramean", "decmean"), ("rastack", "decstack"),
    ("alpha_sky", "delta_sky"), ("alphawin_sky", "deltawin_sky"), ("target_ra", "target_dec"),
    ("ra_2000", "dec_2000"), ("ra2000", "dec2000"), ("raj2000deg", "dej2000deg"),
    ("ra_obj", "dec_obj"), ("ra_gal", "dec_gal"), ("ra_1", "dec_1"), ("mean_ra", "mean_dec"),
    ("raboss", "decboss"), ("plug_ra", "plug_dec"), ("fiber_ra", "fiber_dec"),
    ("ra_world", "dec_world"),
    ("x_world", "y_world"), ("alpha", "delta"), ("s_ra", "s_dec"), ("radegrees", "decdegrees"),
)  # fmt: skip
BINARY = (".fits", ".fit", ".fts", ".fz", ".ldac", ".cat")
IN_DEGREES = re.compile(r"\s*[(\[]\s*(deg|degrees?|j2000|icrs)\s*[)\]]", re.IGNORECASE)
N_NAMED = 5  # of many, in messages


def read_table(path, label, format=None, as_text=()):  # noqa: A002
    """Read a table of any of the usual programs.

    Parameters
    ----------
    path : path
        FITS (of several tables one with positions, and of most rows, as ``LDAC_OBJECTS``),
        SExtractor's ASCII_HEAD, ECSV, CSV, VOTable, Parquet or what else astropy reads.
    label : str
        What messages call it.
    format : str, optional
        Name of astropy's format of it.
    as_text : sequence of str
        Columns that are to be read as they are written, as far as the format has no types.

    Returns
    -------
    `~astropy.table.Table`

    Raises
    ------
    InputError
        If it is no table.
    """
    path = Path(path)
    with reading(path, "a table that astropy reads; positions_format names its format", label):
        with open_input(path) as file:
            is_fits = file.read(9) == b"SIMPLE  ="
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # units that astropy does not know, and the like
            if format is not None:
                return _decoded(Table.read(path, format=format))
            if is_fits or path.suffix.lower() == ".fz":
                return _decoded(Table.read(path, format="fits", hdu=_table_hdu(path, label)))
            return _decoded(_read_other(path, as_text))


def _read_other(path, as_text):
    suffix = path.suffix.lower()
    with open_input(path) as file:
        head = file.read(4096).decode("utf-8", "replace")
    if suffix in {".ecsv"} or head.startswith("# %ECSV"):
        return Table.read(path, format="ascii.ecsv")
    if suffix in {".parquet", ".pq", ".vot", ".votable", ".xml", ".hdf5", ".h5", ".asdf"}:
        return Table.read(path)
    converters = {name: [text.convert_numpy(str)] for name in as_text}
    options = {"converters": converters, "encoding": "utf-8-sig"}
    first = head.splitlines()[0].split() if head.strip() else []
    if len(first) > 2 and first[0] == "#" and first[1].isdigit():
        return text.read(path, format="sextractor", **options)
    kinds = {".csv": "csv", ".tsv": "tab"}
    if suffix in kinds:
        for delimiter in (None, ";"):
            given = options if delimiter is None else {**options, "delimiter": delimiter}
            try:
                table = text.read(path, format=kinds[suffix], comment="#", **given)
            except text.InconsistentTableError:
                break  # named so, and something else
            if len(table.colnames) > 1:
                return table
    return text.read(path, **options)


def _table_hdu(path, label):
    with open_fits(path) as hdus:
        tables = [
            (i, hdu)
            for i, hdu in enumerate(hdus)
            if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)
        ]
        tables = [(i, hdu) for i, hdu in tables if not hdu.is_image and hdu.name != "LDAC_IMHEAD"]
        if not tables:
            raise InputError(f"{label}: found no table in the FITS file, expected one")
        number, hdu = max(tables, key=lambda one: (
            find_pair(one[1].columns.names) is not None, one[1].header["NAXIS2"], -one[0],
        ))  # fmt: skip
        if len(tables) > 1:
            logger.info("%s: its table %s (HDU %d) is read", label, hdu.name or "", number)
        return number


def _decoded(table):
    """Names without blanks around them, and text as text."""
    for name in table.colnames:
        if name != name.strip():
            table.rename_column(name, name.strip())
    return table


def plain_name(name):
    """A column's name without case, what joins words, and that it is in degrees."""
    name = IN_DEGREES.sub("", str(name))
    return str(name).lower().replace("_", "").replace("-", "").replace(" ", "").replace(".", "")


def find_column(columns, names):
    """The first of some names among those of columns, in any case and spelling; None without."""
    found = {plain_name(name): name for name in reversed(columns)}
    return next((found[plain_name(name)] for name in names if plain_name(name) in found), None)


def find_pair(columns):
    """The columns of right ascension and declination among some; None without any.

    Parameters
    ----------
    columns : list of str
        Names of all columns.

    Returns
    -------
    (str, str) or None
    """
    pairs = (tuple(find_column(columns, [name]) for name in pair) for pair in PAIRS)
    return next((pair for pair in pairs if None not in pair), None)


def id_column(table, label, wanted=None):
    """The column that names the rows of a table.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The table.
    label : str
        What messages call it.
    wanted : str, optional
        Its name.

    Returns
    -------
    str, or None if there is none

    Raises
    ------
    InputError
        If there is no column of the name that is wanted.
    """
    if wanted is not None:
        if wanted not in table.colnames:
            raise InputError(
                f"{label}: id_column: found columns {', '.join(table.colnames)}, expected {wanted}"
            )
        return wanted
    found = {plain_name(name): name for name in reversed(table.colnames)}
    known = [found[name] for name in ID_NAMES if name in found]
    # A survey's own: something that ends in id.
    known += [
        name
        for name in table.colnames
        if plain_name(name).endswith("id") and name not in known and not _is_float(table[name])
    ]
    distinct = [name for name in known if _is_distinct(table[name])]
    if distinct:
        return distinct[0]
    return known[0] if known else None


def _is_float(column):
    return getattr(column, "dtype", np.dtype(object)).kind in "fc"


def _is_distinct(column):
    values = _texts(column)
    return len(set(values)) == len(values)


def object_ids(table, label, column):
    """The names of the rows, as text, each as it is.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The table.
    label : str
        What messages call it.
    column : str, or None
        The column; without one the rows are numbered.

    Returns
    -------
    array of str

    Raises
    ------
    InputError
        If two rows have the same name, or numbers are not exact.
    """
    if column is None:
        logger.warning(
            "%s: found no column of names in %s; the rows are numbered from 0 (id_column tells "
            "another)", label, ", ".join(table.colnames),
        )  # fmt: skip
        return np.arange(len(table)).astype(str)
    values = table[column]
    if _is_float(values):
        numbers = np.ma.filled(np.ma.asarray(values).astype(float), np.nan)
        if (np.abs(numbers) >= 2**53).any():
            raise InputError(
                f"{label}, column {column!r}: found numbers of floating point beyond 2**53, which "
                "are not exact, expected whole numbers or text"
            )
    names = np.array(_texts(values), dtype=str)
    missing = [i for i, name in enumerate(names) if name == ""]
    if missing:
        logger.warning(
            "%s, column %r: found no name in %d rows, which are called by their numbers: %s",
            label, column, len(missing), some([f"row-{i}" for i in missing]),
        )  # fmt: skip
        names = names.astype(object)
        names[missing] = [f"row-{i}" for i in missing]
        names = names.astype(str)
    unique, counts = np.unique(names, return_counts=True)
    if len(unique) < len(names):
        raise InputError(
            f"{label}, column {column!r}: found {some(unique[counts > 1])} more than once, "
            "expected a name of its own for each row; id_column tells another column"
        )
    logger.info("%s: %d rows, named by the column %r", label, len(names), column)
    return names


def _texts(column):
    """Values as text, empty where masked."""
    mask = getattr(column, "mask", None)
    mask = np.zeros(len(column), dtype=bool) if mask is None else np.broadcast_to(mask, len(column))
    data = np.ma.getdata(column) if isinstance(column, np.ma.MaskedArray) else (
        getattr(column, "unmasked", column)
    )  # fmt: skip
    return [
        "" if masked else _as_text(value)
        for value, masked in zip(np.asarray(data).tolist(), mask, strict=True)
    ]


def _as_text(value):
    if value is None or value != value:
        return ""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin-1")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def some(names):
    """The first of many names, for messages."""
    names = [str(name) for name in names]
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return ", ".join(names[:N_NAMED]) + more
