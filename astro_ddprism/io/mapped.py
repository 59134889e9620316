"""Arrays that lie in files: used like others, without being in memory.

What is large is *memory-mapped*: the system reads what is asked for and forgets it where memory is
scarce. Until then those pages count as the process's own; who goes through an array part by part
gives them back (`release_pages`), so that memory stays what the parts need.
"""

import math
import mmap
import os
import tempfile
import weakref

import numpy as np

from ..errors import InputError

__all__ = [
    "LEAST",
    "PART",
    "is_mapped",
    "joined_rows",
    "kept",
    "mapped_file",
    "register",
    "release_pages",
    "row_slices",
]

LEAST = 1 << 20  # bytes, below which an array is in memory
PART = 1 << 22  # bytes that are worked on at a time
MOST_IN_MEMORY = 1 << 26  # bytes, from which on arrays that are joined lie in a file

# Where in memory the files are that are in use.
_PLACES = weakref.WeakKeyDictionary()


def is_mapped(array) -> bool:
    """Whether an array, or a tensor behind it, is a part of a file that `kept` has let through."""
    place = array.ctypes.data
    return any(first <= place < last for first, last in [*_PLACES.values()])


def kept(array) -> np.ndarray:
    """The array itself where it is mapped, large and as a processor reads it; else a copy."""
    base = array = np.asarray(array)
    while base is not None and not isinstance(base, mmap.mmap):
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    plain = array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative
    if base is None or not plain or array.nbytes < LEAST:
        return np.array(array)
    register(base)
    return array


def register(mapping):
    """Count a mapping of a file, by whoever, among those whose memory `release_pages` gives back.

    Parameters
    ----------
    mapping : mmap.mmap
    """
    first = np.frombuffer(mapping, np.uint8).ctypes.data
    _PLACES[mapping] = first, first + len(mapping)


def release_pages():
    """Give back the memory of all that was read of mapped files; it is read again if need be."""
    for mapping in [*_PLACES]:
        if hasattr(mapping, "madvise"):  # not on Windows
            mapping.madvise(mmap.MADV_DONTNEED)


def row_slices(n: int, row_bytes: int, part: int = PART):
    """Slices of ``n`` rows, of as many rows as make up a part, one or more.

    Parameters
    ----------
    n : int
        Number of rows.
    row_bytes : int
        Bytes of one.
    part : int
        Bytes of a part.

    Yields
    ------
    slice
    """
    step = max(part // max(row_bytes, 1), 1)
    for i in range(0, n, step):
        yield slice(i, min(i + step, n))


def mapped_file(shape, dtype) -> np.memmap:
    """An array in a temporary file, which goes when the array does.

    Parameters
    ----------
    shape : tuple of int
        Its shape.
    dtype : dtype
        Its type.

    Raises
    ------
    InputError
        If the folder of temporary files (``TMPDIR``) has no room for it.
    """
    size = max(math.prod(shape) * np.dtype(dtype).itemsize, 1)
    folder = tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk ends the process
                os.posix_fallocate(file.fileno(), 0, size)
            array = np.memmap(file, dtype, "r+", shape=tuple(shape))
    except OSError as error:
        raise InputError(
            f"{folder}: cannot hold a temporary file of {size / 2**20:.0f} MiB ({error.strerror}), "
            "expected room for it, there or in another folder (TMPDIR)"
        ) from error
    register(array.base)
    return array


def joined_rows(arrays) -> np.ndarray:
    """Rows of several arrays, one after the other; in a temporary file if any lies in one.

    Parameters
    ----------
    arrays : sequence of ndarray
        Alike but for the number of rows.
    """
    arrays = list(arrays)
    n, shape = sum(map(len, arrays)), arrays[0].shape[1:]
    dtype = np.result_type(*arrays)
    large = n * math.prod(shape) * dtype.itemsize > MOST_IN_MEMORY
    if not (large and any(map(is_mapped, arrays))):
        return np.concatenate(arrays)
    joined, first = mapped_file((n, *shape), dtype), 0
    for array in arrays:
        for rows in row_slices(len(array), array[:1].nbytes):
            joined[first + rows.start : first + rows.stop] = array[rows]
            release_pages()
        first += len(array)
    return joined
