"""ASDF files: written whole or not at all, read whole or refused.

A file is one tree below the key ``astro_ddprism`` (ASDF has keys of its own at the top). ``kind``
says what it holds (``"views"`` or ``"model"``), ``format_version`` and ``software`` say who wrote
it; the rest belongs to the module that writes the kind. Large arrays are binary blocks with
checksums, and everything else is YAML that a text editor shows. Units, sky coordinates and tables
are stored by asdf-astropy; of the package's own objects nothing is known here: who writes or reads
them hands in the `asdf` extensions that know them.
"""

import struct
import warnings
from pathlib import Path

import asdf
import yaml
from asdf.exceptions import (
    AsdfConversionWarning,
    AsdfPackageVersionWarning,
    AsdfWarning,
    ValidationError,
)

from .. import __version__
from ..errors import InputError
from .fits import replacing

__all__ = ["FORMAT_VERSIONS", "read_tree", "write_tree"]

FORMAT_VERSIONS = {"views": 3, "model": 4}
"""Versions of the layouts of trees; they grow when an older reader would misread a file.

How trees of earlier versions become today's, `~astro_ddprism.io.migrations` knows.
"""

_KINDS = {"views": "a dataset of views", "model": "a model"}
_ROOT = "astro_ddprism"
# What asdf raises on a damaged file, as found by cutting files short and flipping their bytes.
_DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OSError,
    EOFError,
    RuntimeError,
    struct.error,
    yaml.YAMLError,
    ValidationError,
    AsdfWarning,
)


def write_tree(
    path, tree, overwrite=False, compression=None, *, extensions=(), format_version=None
):
    """Write an ASDF file. A write that is killed leaves an old file whole.

    Parameters
    ----------
    path : path-like
        The file to be.
    tree : mapping
        What to write, with its ``kind``: ``"views"`` or ``"model"``. Values may be dictionaries,
        lists, numbers, strings, arrays, units, quantities, tables, sky coordinates, and what the
        extensions know.
    overwrite : bool
        Whether to replace an existing file.
    compression : str, optional
        ``"zlib"`` or ``"bzp2"``: how to compress large arrays, without loss.
    extensions : sequence of `asdf.extension.Extension`
        What knows other objects in the tree.
    format_version : int, optional
        The lowest version whose readers know all that the tree holds; by default today's.

    Raises
    ------
    InputError
        If the file exists and may not be replaced, or cannot be made.
    """
    if tree.get("kind") not in _KINDS:
        raise InputError(f"kind: found {tree.get('kind')!r}, expected one of {', '.join(_KINDS)}")
    head = {
        "kind": tree["kind"],
        "format_version": format_version or FORMAT_VERSIONS[tree["kind"]],
        "software": {"name": "astro-ddprism", "version": __version__},
    }
    file = asdf.AsdfFile({_ROOT: {**head, **tree}}, extensions=list(extensions))
    with replacing(path, overwrite) as temporary:
        file.write_to(temporary, all_array_compression=compression)


def read_tree(path, kind, extensions=(), *, label=None):
    """Read an ASDF file that `write_tree` wrote.

    Parameters
    ----------
    path : path-like
        The file.
    kind : {"views", "model"}
        What it must hold.
    extensions : sequence of `asdf.extension.Extension`
        What knows other objects in the tree.
    label : str, optional
        What messages call the file, by default its path.

    Returns
    -------
    tree : dict
        What was written. Arrays are in memory and the file is closed.

    Raises
    ------
    InputError
        If the file does not exist, is no ASDF file, is damaged, was written by a newer version or
        holds another kind.
    """
    path = Path(path)
    label = label or path
    _check_magic(path, label)
    try:
        # The plain YAML comes first: the objects of a newer version may have no converter here.
        _check_head(label, asdf.util.load_yaml(path).get(_ROOT, {}), kind)
        with warnings.catch_warnings():
            # asdf goes on, with a warning, where bytes between blocks or nodes make no sense.
            warnings.filterwarnings("error", message="Read invalid bytes", category=AsdfWarning)
            warnings.simplefilter("error", AsdfConversionWarning)
            # Whether this software can read the file, its format version tells.
            warnings.simplefilter("ignore", AsdfPackageVersionWarning)
            return _load(path, extensions)
    except InputError:
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{label}: found a truncated or damaged ASDF file ({type(error).__name__}: {reason}), "
            f"expected {_KINDS[kind]}"
        ) from error


def _load(path, extensions):
    with asdf.open(
        path,
        lazy_load=False,
        memmap=False,
        validate_checksums=True,
        extensions=list(extensions),
    ) as file:
        return dict(file[_ROOT])


def _check_magic(path, label):
    try:
        with open(path, "rb") as file:
            magic = file.read(5)
    except OSError as error:
        raise InputError(f"{label}: cannot be read: {error.strerror}") from error
    if magic != b"#ASDF":
        found = {b"": "an empty file", b"SIMPL": "a FITS file"}.get(magic, "something else")
        raise InputError(f"{label}: found {found}, expected an ASDF file")


def _check_head(path, tree, kind):
    version, found = tree.get("format_version"), tree.get("kind")
    if version is None or found is None:
        raise InputError(
            f"{path}: found an ASDF file that astro-ddprism did not write, expected {_KINDS[kind]}"
        )
    latest = FORMAT_VERSIONS.get(found, max(FORMAT_VERSIONS.values()))
    if int(version) > latest:
        software = tree.get("software", {}).get("version", "unknown")
        raise InputError(
            f"{path}: found format version {version}, written by astro-ddprism {software}; this is "
            f"astro-ddprism {__version__}, which reads versions up to {latest}: update it"
        )
    if found != kind:
        raise InputError(f"{path}: found {_KINDS.get(found, found)}, expected {_KINDS[kind]}")
