r"""Several processes that share the work of one: ranks.

``torchrun --nproc-per-node N`` starts ``N`` processes of one program, its *ranks*. All of them go
through the same fit with the same random numbers; the observations of an E-step and the images of
an M-step are shared out between them, and what each has found goes to all. As the random numbers of
a draw are its observation's own, and those of a training step are drawn by all, ``N`` ranks learn
what one does, up to the order of sums. The first rank alone writes files and talks.

Without several ranks everything here returns what it is given.
"""

__all__ = ["agree", "gathered", "is_first", "joined", "n_ranks", "own_rows", "rank", "sum_"]

import logging
import math
import os
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
from torch import Tensor, distributed

# The longest that one rank may wait for another: between two meetings lie a batch of chains of the
# slowest, or the catalog that the first writes alone.
PATIENCE = timedelta(hours=2)
# Bytes that a rank sends at a time.
AT_A_TIME = 1 << 24


def n_ranks() -> int:
    """Number of processes that share the work."""
    there = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if there else 1


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if n_ranks() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes files, and shows what is being done."""
    return rank() == 0


def own_rows(n: int, of: int | None = None) -> slice:
    """Which of ``n`` rows are a rank's even share, by default this one's."""
    k = rank() if of is None else of
    return slice(n * k // n_ranks(), n * (k + 1) // n_ranks())


def gathered(own: Tensor, n: int, empty=torch.empty) -> Tensor:
    """All ``n`` rows, of whose shares (`own_rows`) every rank holds its own.

    They are in a tensor that ``empty`` makes from its shape.
    """
    if n_ranks() == 1:
        return own
    out = empty(n, *own.shape[1:], dtype=own.dtype)
    shares = [own_rows(n, k) for k in range(n_ranks())]
    most = -(-n // n_ranks())
    each = own.itemsize * math.prod(own.shape[1:])  # alike on all ranks, also those without any
    step = max(AT_A_TIME // max(each, 1), 1)
    for i in range(0, most, step):
        padded = own.new_zeros(min(step, most - i), *own.shape[1:])
        some = own[i : i + step]
        padded[: len(some)] = some
        parts = [torch.empty_like(padded) for _ in range(n_ranks())]
        _meet(distributed.all_gather, parts, padded)
        for part, share in zip(parts, shares, strict=True):
            rows = out[share][i : i + step]
            rows.copy_(part[: len(rows)])
    return out


@torch.no_grad()
def sum_(tensor: Tensor):
    """Add up a tensor over all ranks, in place."""
    if n_ranks() > 1:
        _meet(distributed.all_reduce, tensor)


@torch.no_grad()
def agree(tensors):
    """Take over the first rank's values of tensors, in place: rounding may differ between them."""
    if n_ranks() > 1:
        for tensor in tensors:
            value = tensor.contiguous()
            _meet(distributed.broadcast, value, 0)
            tensor.copy_(value)


@contextmanager
def joined():
    """Join the ranks that ``torchrun`` started, for the duration of a block.

    All leave it together, so that what the first has written is there for all. Of whatever ends the
    block on several ranks, one tells; the others leave with status 2 and without a word.

    Raises
    ------
    ConnectionError
        If another rank has ended before.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or n_ranks() > 1:
        yield
        if n_ranks() > 1:
            _meet(distributed.barrier)
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    store, number, size = next(distributed.rendezvous("env://"))
    group = distributed.PrefixStore("astro_ddprism", store)
    distributed.init_process_group(store=group, rank=number, world_size=size, timeout=PATIENCE)
    if number:
        logging.getLogger("astro_ddprism").setLevel(logging.ERROR)
    try:
        yield
        _meet(distributed.barrier)
    except BaseException:
        if not _is_first_to_fail(store):
            raise SystemExit(2) from None
        raise
    distributed.destroy_process_group()


def _is_first_to_fail(store) -> bool:
    with suppress(RuntimeError):  # the process that kept the store may be the one that has ended
        return store.add("astro_ddprism_failed", 1) == 1
    return True


def _meet(function, *arguments):
    """Do something that all ranks do together."""
    try:
        function(*arguments)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ConnectionError(
            f"process {rank()} of {n_ranks()}: found that another has ended, expected all to go on"
        ) from error
