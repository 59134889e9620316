"""ASDF files: written whole or not at all, read whole or refused.

A file is one tree below the key ``astro_ddprism`` (ASDF has keys of its own at the top). ``kind``
says what it holds (``"views"`` or ``"model"``), ``format_version`` and ``software`` say who wrote
it; the rest belongs to the module that writes the kind. Large arrays are binary blocks with
checksums, and everything else is YAML that a text editor shows. Units, sky coordinates and tables
are stored by asdf-astropy; of the package's own objects nothing is known here: who writes or reads
them hands in the `asdf` extensions that know them.
"""

import contextlib
import hashlib
import io
import re
import warnings
from contextvars import ContextVar
from pathlib import Path

import asdf
import numpy as np
from asdf.exceptions import AsdfConversionWarning, AsdfPackageVersionWarning, AsdfWarning
from asdf.tagged import tag_object
from asdf.tags.core.ndarray import NDArrayType, numpy_dtype_to_asdf_datatype

from .. import __version__
from ..errors import InputError
from .blocks import (
    NO_CHECKSUM,
    append_block,
    check_arrays,
    check_blocks,
    check_head,
    read_blocks,
    read_head,
    write_checksum,
)
from .mapped import LEAST, kept
from .outputs import replacing
from .reading import open_input, reason_of

__all__ = [
    "FORMAT_VERSIONS",
    "map_tree",
    "open_checked",
    "plain",
    "read_file",
    "read_tree",
    "wrapped",
    "write_tree",
]

FORMAT_VERSIONS = {"views": 3, "model": 4}
"""Versions of the layouts of trees; they grow when an older reader would misread a file.

How trees of earlier versions become today's, `~astro_ddprism.io.migrations` knows.
"""

# From which number on blocks are counted that are written after those of asdf.
_LATER = 9_000_000_000
# Large arrays of the tree that is being written, and their numbers.
_LARGE: ContextVar[dict | None] = ContextVar("large", default=None)
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
    large = {}
    token = _LARGE.set(None if compression else large)
    try:
        tree, n = wrapped(tree), len(large)
        file = asdf.AsdfFile({_ROOT: {**head, **tree}}, extensions=list(extensions))
        for key in list(large)[n:]:  # of a first look at the tree
            del large[key]
        # asdf writes to a stream: to a path, it writes beside it first, and leaves that there.
        with replacing(path, overwrite) as temporary, open(temporary, "rb+") as stream:
            file.write_to(stream, all_array_compression=compression)
            if large:
                _write_large(stream, large.values())
            write_checksum(stream)
            stream.seek(0)
            return hashlib.file_digest(stream, "sha256").hexdigest()
    finally:
        _LARGE.reset(token)


def wrapped(tree):
    """A tree whose large arrays `write_tree` writes by itself, a part at a time; within it only.

    Parameters
    ----------
    tree : dict, list or other
        A node of a tree, such as a converter makes.
    """
    large = _LARGE.get()
    if large is None:
        return tree
    if isinstance(tree, dict):
        return {key: wrapped(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [wrapped(value) for value in tree]
    if type(tree) not in (np.ndarray, np.memmap) or tree.nbytes < LEAST:
        return tree
    if tree.dtype.kind not in "biuf" or not tree.flags.c_contiguous or not tree.dtype.isnative:
        return tree
    key = tree.ctypes.data, tree.dtype, tree.shape
    number, _ = large.setdefault(key, (len(large), tree))
    datatype, byteorder = numpy_dtype_to_asdf_datatype(tree.dtype)
    node = {"source": _LATER + number, "datatype": datatype, "byteorder": byteorder}
    return tag_object("tag:stsci.edu:asdf/core/ndarray-1.1.0", {**node, "shape": list(tree.shape)})


def _write_large(stream, large):
    """Add the blocks of large arrays to what asdf has written of all others."""
    head = read_head(stream)
    blocks = read_blocks(stream)
    end = blocks[-1].start + blocks[-1].used if blocks else len(head)  # without their index
    stream.seek(len(head))
    rest = stream.read(end - len(head))
    number = rb"(?<=source: )%d\d{4}\b" % (_LATER // 10_000)
    stream.seek(0)
    stream.write(re.sub(number, lambda m: b"%d" % (int(m[0]) - _LATER + len(blocks)), head))
    stream.write(rest)
    stream.truncate()
    for _, array in large:
        append_block(stream, array)


def read_tree(path, kind, extensions=(), *, label=None) -> dict:
    """The tree of `read_file`, for who needs no more."""
    return read_file(path, kind, extensions, label=label)[0]


def map_tree(path, kind, extensions=()) -> dict:
    """Read an ASDF file that `write_tree` wrote, and leave its arrays in it, memory-mapped.

    Extents and checksums are verified before, in one pass through the file that takes no memory; a
    file that is overwritten in place afterwards is not seen. Who replaces a file changes nothing.

    Parameters
    ----------
    path, kind, extensions
        As for `read_file`.

    Returns
    -------
    tree : dict
        What was written; extensions get arrays of asdf, of which `plain` makes others.

    Raises
    ------
    InputError
        As for `read_file`.
    """
    with _refusing(path, kind), _opened(path, path) as stream:
        _check_magic(stream.read(5), path)
        return _load(stream, kind, extensions, mapped=True)


def plain(tree):
    """The same tree with plain arrays: those of asdf load themselves from a file that is open.

    Large ones of a file that is memory-mapped stay there (`~astro_ddprism.io.mapped.kept`).
    """
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [plain(value) for value in tree]
    return kept(tree) if isinstance(tree, NDArrayType) else tree


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
    label = label or path
    with _refusing(label, kind):
        with _opened(path, label) as stream:
            content = stream.read()  # all at once: whoever replaces the file now, changes nothing
        _check_magic(content[:5], label)
        tree = _load(io.BytesIO(content), kind, extensions, mapped=False)
        return tree, hashlib.sha256(content).hexdigest()


def _opened(path, label):
    try:
        return open_input(Path(path))
    except OSError as error:
        raise _UnreadableError(f"{label}: cannot be read: {error.strerror}") from error
    except InputError as error:
        raise _UnreadableError(str(error)) from error


@contextlib.contextmanager
def _refusing(label, kind):
    """What is raised within the block as the one line of a file."""
    try:
        yield
    except _UnreadableError:
        raise
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


class _UnreadableError(InputError):
    """A file that cannot be read, or is none of ASDF; the message names it."""


class _UnsuitableError(InputError):
    """A whole file that holds something else."""


def _load(stream, kind, extensions, *, mapped):
    head = read_head(stream)
    blocks = read_blocks(stream)
    # The plain YAML comes first: the objects of a newer version may have no converter here.
    tree = check_arrays(head, blocks).get(_ROOT, {})
    _check_head(tree, kind)
    check_head(head)
    if mapped:
        check_blocks(stream, blocks)
    stream.seek(0)
    options = {"lazy_load": mapped, "memmap": mapped, "validate_checksums": not mapped}
    with warnings.catch_warnings():
        # asdf goes on, with a warning, where bytes between blocks or nodes make no sense.
        warnings.filterwarnings("error", message="Read invalid bytes", category=AsdfWarning)
        warnings.simplefilter("error", AsdfConversionWarning)
        # Whether this software can read the file, its format version tells.
        warnings.simplefilter("ignore", AsdfPackageVersionWarning)
        with asdf.open(stream, extensions=list(extensions), **options) as file:
            tree = dict(file[_ROOT])
            return plain(tree) if mapped else tree


def _check_magic(magic, label):
    if magic != b"#ASDF":
        found = {b"": "an empty file", b"SIMPL": "a FITS file"}.get(magic, "something else")
        raise _UnreadableError(f"{label}: found {found}, expected an ASDF file")


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
