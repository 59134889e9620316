"""Where and how to compute: devices, precision, batches."""

__all__ = ["Execution", "in_pieces", "on_device", "room"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from ..errors import InputError
from ..registry import Part, option

# Observations at a time where the user does not tell; on a GPU the most, the part of its free
# memory that they may take, and the bytes that each of their numbers takes in a network.
BATCH_SIZE = 128
MOST_AT_A_TIME, PART_OF_FREE, BYTES_PER_NUMBER = 1 << 14, 0.4, 1 << 13
# Part of a GPU's free memory that images to train on may take; bytes of a buffer on their way.
PART_OF_IMAGES, BUFFER = 0.25, 1 << 25


@dataclass(frozen=True)
class Execution(Part):
    """Where and how to compute. Nothing of it changes what is learned, beyond rounding.

    Parameters
    ----------
    device : str
        ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
    precision : str
        ``"float32"``, or ``"bfloat16"`` for the arithmetic of networks that are trained, and of
        amortized posteriors; ``"auto"`` is bfloat16 on GPUs that compute in it, but for
        perceptrons, whose sources are often thinner than its rounding, and float32 elsewhere.
    batch_size : int, optional
        Observations that are worked on at a time; memory grows with it. By default 128, on a GPU as
        many as 0.4 of its free memory holds, 16384 at most, and fewer where those do not fit.
    """

    device: str = "auto"
    precision: str = option("auto", choices=("auto", "float32", "bfloat16"))
    batch_size: int | None = option(None, least=1)

    @cached_property
    def torch_device(self) -> torch.device:
        """The device.

        Raises
        ------
        InputError
            If this machine does not have it.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.zeros((), device=device).item()
        except (RuntimeError, AssertionError, ImportError) as error:
            raise InputError(
                f"device: found {self.device!r}, which this machine or torch does not have; "
                "expected auto, cpu, cuda, ..."
            ) from error
        return device

    def dtype_of(self, network) -> torch.dtype:
        """The precision of a network's arithmetic.

        Parameters
        ----------
        network : torch.nn.Module
            Where it has an attribute ``precise`` that is true, ``"auto"`` is float32.
        """
        if self.precision != "auto":
            return getattr(torch, self.precision)
        reduced = self.torch_device.type == "cuda" and torch.cuda.is_bf16_supported(False)
        exempt = getattr(network, "precise", False)
        return torch.bfloat16 if reduced and not exempt else torch.float32

    @property
    def n_at_a_time(self) -> int:
        """Observations that are worked on at a time, whatever their size."""
        return self.batch_size or BATCH_SIZE

    def n_for(self, size: int) -> int:
        """Observations that are worked on at a time, of so many numbers of their sources."""
        if self.batch_size is not None or self.torch_device.type != "cuda":
            return self.n_at_a_time
        free = PART_OF_FREE * torch.cuda.mem_get_info(self.torch_device)[0]
        n = max(int(free / (BYTES_PER_NUMBER * size)), 1)
        return min(1 << (n.bit_length() - 1), MOST_AT_A_TIME)


def in_pieces(work: Callable, n: int) -> list:
    """Do work on some rows at once, or on half of them at a time where a GPU's memory is too small.

    Parameters
    ----------
    work : callable
        Called with a slice of the rows.
    n : int
        Number of rows.

    Returns
    -------
    list
        What it returned for each piece, in order.
    """
    waiting, done = [slice(0, n)], []
    while waiting:
        rows = waiting.pop()
        try:
            done.append(work(rows))
            continue
        except torch.OutOfMemoryError:
            if rows.stop - rows.start == 1:
                raise
        torch.cuda.empty_cache()
        middle = (rows.start + rows.stop) // 2
        waiting += [slice(middle, rows.stop), slice(rows.start, middle)]
    return done


def room(device: torch.device) -> float:
    """Bytes of images to train on that may be on a device: a quarter of a GPU's free memory.

    Those of a processor stay where they are.
    """
    if device.type != "cuda":
        return float("inf")
    return PART_OF_IMAGES * torch.cuda.mem_get_info(device)[0]


def on_device(rows, index: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Some rows of what is on the host, on a device.

    To a GPU they go through pinned memory, a part in each of two buffers: one is filled while the
    other is on its way.

    Parameters
    ----------
    rows : torch.Tensor or `~astro_ddprism.diffusion.scratch.Drawn`
        All rows.
    index : torch.Tensor
        Which, on the host.
    device : torch.device
        Where to.
    """
    shape = rows.shape[1:]
    out = torch.empty(len(index), *shape, device=device)
    n = max(BUFFER // max(4 * math.prod(shape), 1), 1)
    if device.type != "cuda":
        for i in range(0, len(index), n):
            out[i : i + n] = rows[index[i : i + n]]
        return out
    buffers = [torch.empty(n, *shape, pin_memory=True) for _ in range(2)]
    events = [torch.cuda.Event() for _ in buffers]
    for number, i in enumerate(range(0, len(index), n)):
        buffer, event = buffers[number % 2], events[number % 2]
        event.synchronize()  # what was in it is there
        part = buffer[: len(index) - i]
        part.copy_(rows[index[i : i + n]])
        out[i : i + n].copy_(part, non_blocking=True)
        event.record(torch.cuda.current_stream(device))
    for event in events:
        event.synchronize()
    return out
