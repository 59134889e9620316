"""Draws that are as large as the data: in memory where they are small, else in temporary files.

A table of draws that would take more than `MOST_IN_MEMORY` lies in a temporary file that is mapped
into memory; it is used like any other, and goes when it is. What has been read of it counts as
memory of the process until it is given back (`release`), as who works through it does part by part.
"""

__all__ = [
    "MOST_IN_MEMORY",
    "Drawn",
    "empty_rows",
    "mappings",
    "release",
    "row_parts",
    "some_rows",
]

import math
import mmap
import os
import tempfile
import weakref

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

# Bytes of a table that is in memory; of a part of one that is worked on at a time; and those that
# the system reads, and counts as memory, about a row that is read alone.
MOST_IN_MEMORY, PART, AROUND = 1 << 26, 1 << 22, 1 << 16

_MAPPINGS = weakref.WeakSet()


def empty_rows(n: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A table of ``n`` rows to be filled in, on the host.

    Raises
    ------
    InputError
        If the folder of temporary files (``TMPDIR``) has no room for it.
    """
    size = n * math.prod(shape) * dtype.itemsize
    if size <= MOST_IN_MEMORY:
        return torch.empty(n, *shape, dtype=dtype)
    folder = tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk ends the process
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            mapping = mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot hold draws of {size / 2**20:.0f} MiB ({error.strerror}), expected "
            "room for them, there or in another folder (TMPDIR)"
        ) from error
    _MAPPINGS.add(mapping)
    return torch.from_numpy(np.frombuffer(mapping, np.uint8)).view(dtype).view(n, *shape)


def mappings() -> list[mmap.mmap]:
    """Those of all tables in files."""
    return [*_MAPPINGS]


def release():
    """Give back the memory of what has been read and written of tables in files."""
    for mapping in mappings():
        if hasattr(mapping, "madvise"):  # not on Windows
            mapping.madvise(mmap.MADV_DONTNEED)


def row_parts(n: int, row_bytes: int):
    """Slices of ``n`` rows, each of a part of a table, whose memory is given back after each."""
    step = max(PART // max(row_bytes, 1), 1)
    for i in range(0, n, step):
        yield slice(i, min(i + step, n))
        release()


class Drawn:
    """Rows that are made of draws when they are asked for, on the host, like those of a tensor.

    Parameters
    ----------
    sources : sequence of tuple
        Of each set of draws the number of its rows, and a function that makes some of them,
        ``(n, *shape)``, from their numbers, a tensor.
    shape : tuple of int
        Shape of a row.
    """

    def __init__(self, sources, shape):
        self._sources = list(sources)
        self.shape = (sum(n for n, _ in self._sources), *shape)
        self._ends = torch.tensor([n for n, _ in self._sources]).cumsum(0)

    def __len__(self):
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, index) -> Tensor:
        """Some rows: of a slice, or of a tensor of numbers."""
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)))
        index = index.cpu()
        which = torch.searchsorted(self._ends, index, right=True)
        out = torch.empty(len(index), *self.shape[1:])
        for k, (n, make) in enumerate(self._sources):
            here = torch.nonzero(which == k)[:, 0]
            for some in row_parts(len(here), max(4 * math.prod(self.shape[1:]), AROUND)):
                out[here[some]] = make(index[here[some]] - (self._ends[k] - n))
        return out

    @classmethod
    def of(cls, sources, shape) -> "Tensor | Drawn":
        """All rows as a tensor, where it is small; else these."""
        drawn = cls(sources, shape)
        if math.prod(drawn.shape) * 4 > MOST_IN_MEMORY:
            return drawn
        return drawn[:]


def some_rows(table, some: Tensor) -> "Tensor | Drawn":
    """Those rows of a tensor, or of `Drawn`, for which ``some``, of bool, is true."""
    rows = torch.nonzero(some)[:, 0]
    return Drawn.of([(len(rows), lambda index: table[rows[index]])], table.shape[1:])
