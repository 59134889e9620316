"""Times of steps: those within others count for themselves alone."""

import inspect
import time

import pytest

from astro_ddprism.steps import step, timed


@step("inner")
def inner(seconds):
    """Wait."""
    time.sleep(seconds)
    return seconds


def test_a_step_within_another_counts_for_itself():
    with timed() as clock, step("outer"):
        time.sleep(0.02)
        assert inner(0.1) == 0.1
        inner(0.05)
    assert 0.15 <= clock.seconds["inner"] < 1.0
    assert 0.02 <= clock.seconds["outer"] < clock.seconds["inner"]
    # Waiting takes no processor.
    assert clock.processor_seconds["inner"] < clock.seconds["inner"] / 2
    assert set(clock.seconds) == {"inner", "outer"}


def test_a_step_that_fails_ends(monkeypatch):
    with timed() as clock:
        with pytest.raises(TypeError), step("failing"):
            inner("x")
        before = dict(clock.seconds)
        time.sleep(0.02)  # of no step
        inner(0)
    assert clock.seconds["failing"] == before["failing"]


def test_without_a_clock_nothing_is_kept_and_functions_stay_what_they_are():
    inner(0)
    with timed() as clock:
        pass
    assert clock.seconds == {}
    assert list(inspect.signature(inner).parameters) == ["seconds"]
    assert inner.__doc__ == "Wait."
