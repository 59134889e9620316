"""How long the steps of some work take: reading, detection, sampling, ...

Functions say which step they are (`step`); who wants to know runs them within `timed`. What is done
within a step that is one of its own counts for that one alone.
"""

import time
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Clock", "step", "timed"]

_RUNNING: ContextVar["Clock | None"] = ContextVar("clock", default=None)


class Clock:
    """Adds up the time of steps.

    Attributes
    ----------
    seconds, processor_seconds : dict of str to float
        Of each step.
    """

    def __init__(self):
        self.seconds, self.processor_seconds = {}, {}
        self._open, self._last = [], None

    def begin(self, name):
        """A step begins, within the one before it."""
        self._tick()
        self._open.append(name)

    def end(self):
        """The last step ends."""
        self._tick()
        self._open.pop()

    def _tick(self):
        now = time.perf_counter(), time.process_time()
        if self._open:
            kinds = self.seconds, self.processor_seconds
            for kind, here, before in zip(kinds, now, self._last, strict=True):
                kind[self._open[-1]] = kind.get(self._open[-1], 0.0) + here - before
        self._last = now


@contextmanager
def step(name):
    """What is done within the block, or by a decorated function, is a step.

    Parameters
    ----------
    name : str
        What it is called.
    """
    clock = _RUNNING.get()
    if clock is None:
        yield
        return
    clock.begin(name)
    try:
        yield
    finally:
        clock.end()


@contextmanager
def timed():
    """Measure the steps that are taken within the block.

    Yields
    ------
    clock : Clock
    """
    clock = Clock()
    token = _RUNNING.set(clock)
    try:
        yield clock
    finally:
        _RUNNING.reset(token)
