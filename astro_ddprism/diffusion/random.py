"""Random numbers that depend on nothing but a seed and a purpose."""

__all__ = ["seeded"]

from contextlib import contextmanager

import numpy as np
import torch


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
