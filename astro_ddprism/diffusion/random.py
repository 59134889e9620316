r"""Random numbers that depend on nothing but a seed and a purpose.

What is drawn in one piece, as in training, comes from torch's generator, seeded for the purpose
(`seeded`). What is drawn *for an observation* must not depend on which others are drawn beside it,
in what order, on how many devices: it comes from a stream of its own (`Rows`). Number ``j`` of draw
``i`` of a stream is a function of the stream's key and of ``(i, j)``, without any state: a
counter-based generator. It is Threefry-2x64 with 20 rounds [1]_, which takes nothing but sums,
rotations and exclusive ors, so that 64-bit integers of torch can do it, for all rows at once, on
any device and without a word to the host.

References
----------
.. [1] Salmon, Moraes, Dror & Shaw 2011, SC '11, "Parallel random numbers: as easy as 1, 2, 3"
"""

__all__ = ["Rows", "seeded", "threefry"]

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

#: Rotations of the eight rounds that repeat, and the constant of the key's third word.
_ROTATIONS, _PARITY = (16, 42, 12, 31, 16, 32, 24, 21), 0x1BD11BDAA9FC1A22
_ROUNDS = 20
#: Normals that are drawn at a time: they take more than a hundred operations, whose start is what
#: a GPU waits for where they are few.
_AT_ONCE = 1 << 21


@contextmanager
def seeded(*entropy: int, device: torch.device):
    """Seed torch from integers for the duration of a block, and leave the caller's state as it was.

    Parameters
    ----------
    *entropy : int
        Non-negative integers: the seed of a run, then what the numbers are for. A run that goes on
        from its fourth iteration draws the numbers of an unbroken one, because they do not depend
        on what was drawn before.
    device : torch.device
        The device on which numbers are drawn.
    """
    state = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(state)
        yield


class Rows:
    """Streams of random numbers, one for each row of a batch.

    All streams of a batch are drawn from together: draw ``i`` of a row is the same in any batch in
    which as much was drawn before.

    Parameters
    ----------
    keys : torch.Tensor
        Keys of the streams, 64-bit integers of shape ``(B, 2)``: who, and which sample of it.

    Examples
    --------
    >>> import torch
    >>> rows = Rows.of(1, "noise", ids=["x", "y"], device=torch.device("cpu"))
    >>> first, second = rows.normal(3), rows.normal(2, 2)
    >>> again = Rows.of(1, "noise", ids=["y"], device=torch.device("cpu"))
    >>> torch.equal(again.normal(3)[0], first[1]), torch.equal(again.normal(2, 2)[0], second[1])
    (True, True)
    """

    def __init__(self, keys: Tensor):
        self._keys = keys
        self._next = 0

    @classmethod
    def of(cls, *entropy: int | str, ids, samples=None, device: torch.device) -> "Rows":
        """Streams of samples of some observations.

        Parameters
        ----------
        *entropy : int or str
            The seed of a run, then what the numbers are for.
        ids : sequence of str
            Names of the observations, of length ``B``; repeats are allowed.
        samples : sequence of int, optional
            Which sample of its observation each row is, below 2**32; the first if not given.
        device : torch.device
            The device on which numbers are drawn.
        """
        ids, inverse = np.unique(np.asarray(ids, dtype=str), return_inverse=True)
        who = np.empty(len(ids), np.int64)
        for i, name in enumerate(ids):
            key = repr((*entropy, str(name))).encode()
            who[i] = int.from_bytes(
                hashlib.blake2b(key, digest_size=8).digest(), "little", signed=True
            )
        who = who[inverse]
        which = np.zeros(len(who), np.int64) if samples is None else np.asarray(samples, np.int64)
        return cls(torch.as_tensor(np.stack([who, which], axis=1)).to(device))

    def __len__(self):
        return len(self._keys)

    @property
    def device(self) -> torch.device:
        """Where numbers are drawn."""
        return self._keys.device

    def __getitem__(self, index) -> "Rows":
        """The streams of some rows, from their beginning."""
        return Rows(self._keys[index])

    def fork(self, number: int) -> "Rows":
        """Streams of the same rows for another attempt, ``number`` from 1 on."""
        who, which = self._keys.unbind(1)
        return Rows(torch.stack([who, which + (number << 32)], dim=1))

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers, of shape ``(B, *shape)``, good to 24 bits in any precision."""
        return next(self.normals(1, *shape)).to(dtype)

    def normals(self, n: int, *shape: int) -> Iterator[Tensor]:
        """What ``n`` calls of `normal` return, drawn as many at a time as is fastest."""
        first, self._next = self._next, self._next + n
        return self._normals(range(first, first + n), shape)

    def _normals(self, draws: range, shape) -> Iterator[Tensor]:
        size = math.prod(shape)
        step = max(_AT_ONCE // max(len(self) * size, 1), 1)
        for i in range(0, len(draws), step):
            # The method of Box and Muller, of the halves of each word.
            words = self._words(draws[i : i + step], -(-size // 4))
            radius = (words & 0xFFFFFFFF).add_(1).float().mul_(2.0**-32).log_().mul_(-2).sqrt_()
            angle = words.bitwise_right_shift_(32).float().mul_(math.pi * 2.0**-31)
            z = torch.cat([radius * angle.cos(), radius.mul_(angle.sin_())], dim=-1)
            yield from z[..., :size].unflatten(-1, shape)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1) in double precision, of shape ``(B, *shape)``."""
        size, self._next = math.prod(shape), self._next + 1
        (words,) = self._words(range(self._next - 1, self._next), -(-size // 2))
        bits = words[..., :size].bitwise_right_shift(11).bitwise_and_((1 << 53) - 1)
        return (bits.double() * 2.0**-53).unflatten(-1, shape)

    def _words(self, draws: range, n_blocks: int) -> Tensor:
        """Random 64-bit integers of some draws, of shape ``(len(draws), B, 2 * n_blocks)``."""
        device = self._keys.device
        draw = torch.arange(draws.start, draws.stop, device=device)[:, None, None]
        block = torch.arange(n_blocks, device=device)
        return torch.cat(threefry(draw, block, *self._keys[:, :, None].unbind(1)), dim=-1)


def threefry(counter0: Tensor, counter1: Tensor, key0: Tensor, key1: Tensor):
    """Threefry-2x64-20: two random words for every counter and key, all 64-bit integers.

    Parameters
    ----------
    counter0, counter1, key0, key1 : torch.Tensor
        The words of the counters and of the keys, of shapes that go together.

    Returns
    -------
    tuple of torch.Tensor
        The two words.
    """
    keys = key0, key1, _PARITY ^ key0 ^ key1
    counters = torch.broadcast_tensors(counter0, counter1, key0)[:2]
    x, y = (counter + key for counter, key in zip(counters, keys[:2], strict=True))
    for i in range(_ROUNDS):
        x += y
        bits = _ROTATIONS[i % 8]
        # A shift to the right repeats the sign.
        low = (y >> (64 - bits)).bitwise_and_((1 << bits) - 1)
        y = y.bitwise_left_shift_(bits).bitwise_or_(low).bitwise_xor_(x)
        if i % 4 == 3:
            j = i // 4 + 1
            x += keys[j % 3]
            y += keys[(j + 1) % 3] + j
    return x, y
