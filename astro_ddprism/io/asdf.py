"""ASDF files: written whole or not at all, read whole or refused.

A file is one tree below the key ``astro_ddprism`` (ASDF has keys of its own at the top). ``kind``
says what it holds (``"views"`` or ``"model"``), ``format_version`` and ``software`` say who wrote
it; the rest belongs to the module that writes the kind. Large arrays are binary blocks with
checksums, and everything else is YAML that a text editor shows. Units, sky coordinates and tables
are stored by asdf-astropy; of the package's own objects nothing is known here: who writes or reads
them hands in the `asdf` extensions that know them.
"""

import hashlib
import io
import warnings
from pathlib import Path

import asdf
from asdf.exceptions import AsdfConversionWarning, AsdfPackageVersionWarning, AsdfWarning

from .. import __version__
from ..errors import InputError
from .blocks import NO_CHECKSUM, check_arrays, check_head, read_blocks, read_head, write_checksum
from .outputs import replacing
from .reading import open_input, reason_of

__all__ = ["FORMAT_VERSIONS", "open_checked", "read_file", "read_tree", "write_tree"]

FORMAT_VERSIONS = {"views": 3, "model": 4}
"""Versions of the layouts of trees; they grow when an older reader would misread a file.

How trees of earlier versions become today's, `~astro_ddprism.io.migrations` knows.
"""

_KINDS = {"views": "a dataset of views", "model": "a model"}
_ROOT = "astro_ddprism"


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

    Returns
    -------
    sha256 : str
        Of the file.
    """
    if tree.get("kind") not in _KINDS:
        raise InputError(f"kind: found {tree.get('kind')!r}, expected one of {', '.join(_KINDS)}")
    head = {
        "kind": tree["kind"],
        "format_version": format_version or FORMAT_VERSIONS[tree["kind"]],
        "software": {"name": "astro-ddprism", "version": __version__},
        "checksum": NO_CHECKSUM,
    }
    file = asdf.AsdfFile({_ROOT: {**head, **tree}}, extensions=list(extensions))
    # asdf writes to a stream: to a path, it writes beside it first, and leaves that there.
    with replacing(path, overwrite) as temporary, open(temporary, "rb+") as stream:
        file.write_to(stream, all_array_compression=compression)
        write_checksum(stream)
        stream.seek(0)
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_tree(path, kind, extensions=(), *, label=None) -> dict:
    """The tree of `read_file`, for who needs no more."""
    return read_file(path, kind, extensions, label=label)[0]


def read_file(path, kind, extensions=(), *, label=None) -> tuple[dict, str]:
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
    sha256 : str
        Of the bytes that were read.

    Raises
    ------
    InputError
        If the file does not exist, is no ASDF file, is damaged, was written by a newer version or
        holds another kind.
    """
    path = Path(path)
    label = label or path
    try:
        stream = open_input(path)
    except OSError as error:
        raise InputError(f"{label}: cannot be read: {error.strerror}") from error
    with stream:
        content = stream.read()  # all at once: whoever replaces the file now, changes nothing
    _check_magic(content[:5], label)
    try:
        return _load(content, kind, extensions), hashlib.sha256(content).hexdigest()
    except _UnsuitableError as error:
        raise InputError(f"{label}: {error}") from error
    except Exception as error:  # asdf, and what it builds, raise of every kind
        reason = str(error) if isinstance(error, InputError) else reason_of(error)
        raise InputError(
            f"{label}: found a truncated or damaged ASDF file ({reason}), expected {_KINDS[kind]}"
        ) from error


def open_checked(path) -> asdf.AsdfFile:
    """Open an ASDF file of others, once all its arrays are known to lie in it.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    file : `asdf.AsdfFile`
        To be closed; its arrays are in memory.

    Raises
    ------
    InputError
        If an array or a block is not in the file.
    """
    with open_input(path) as stream:
        content = io.BytesIO(stream.read())
    check_arrays(read_head(content), read_blocks(content))
    content.seek(0)
    return asdf.open(content, memmap=False, lazy_load=False)


class _UnsuitableError(InputError):
    """A whole file that holds something else."""


def _load(content, kind, extensions):
    stream = io.BytesIO(content)
    head = read_head(stream)
    # The plain YAML comes first: the objects of a newer version may have no converter here.
    tree = check_arrays(head, read_blocks(stream)).get(_ROOT, {})
    _check_head(tree, kind)
    check_head(head)
    stream.seek(0)
    options = {"lazy_load": False, "memmap": False, "validate_checksums": True}
    with warnings.catch_warnings():
        # asdf goes on, with a warning, where bytes between blocks or nodes make no sense.
        warnings.filterwarnings("error", message="Read invalid bytes", category=AsdfWarning)
        warnings.simplefilter("error", AsdfConversionWarning)
        # Whether this software can read the file, its format version tells.
        warnings.simplefilter("ignore", AsdfPackageVersionWarning)
        with asdf.open(stream, extensions=list(extensions), **options) as file:
            return dict(file[_ROOT])


def _check_magic(magic, label):
    if magic != b"#ASDF":
        found = {b"": "an empty file", b"SIMPL": "a FITS file"}.get(magic, "something else")
        raise InputError(f"{label}: found {found}, expected an ASDF file")


def _check_head(tree, kind):
    version, found = tree.get("format_version"), tree.get("kind")
    if version is None or found is None:
        raise _UnsuitableError(
            f"found an ASDF file that astro-ddprism did not write, expected {_KINDS[kind]}"
        )
    latest = FORMAT_VERSIONS.get(found, max(FORMAT_VERSIONS.values()))
    if int(version) > latest:
        software = tree.get("software", {}).get("version", "unknown")
        raise _UnsuitableError(
            f"found format version {version}, written by astro-ddprism {software}; this is "
            f"astro-ddprism {__version__}, which reads versions up to {latest}: update it"
        )
    if found != kind:
        raise _UnsuitableError(f"found {_KINDS.get(found, found)}, expected {_KINDS[kind]}")
