"""What a fit is said to do, against what it does."""

import logging
import re

import numpy as np
import pytest

from astro_ddprism import DiffusionSourceSeparator, InputError, MultiViewDataset
from astro_ddprism.separator import plan
from astro_ddprism.separator.plan import FitBar, Step, duration_text
from astro_ddprism.separator.presets import PRESETS, preset, preset_for


@pytest.fixture
def tracked(monkeypatch):
    """The plan of a fit, and the loops that it went through."""
    found = {"plan": None, "loops": []}
    original, call = plan.plan_fit, FitBar.__call__

    def planned(*args):
        found["plan"] = original(*args)
        return found["plan"]

    def followed(self, iterable, description, *, total=None):
        items = list(call(self, iterable, description, total=total))
        found["loops"].append((description, len(items)))
        found["at"] = self.at / self.total
        return items

    monkeypatch.setattr("astro_ddprism.separator.diffusion.plan_fit", planned)
    monkeypatch.setattr(FitBar, "__call__", followed)
    return found


@pytest.mark.parametrize(
    ("parameters", "dataset"), [("amortizing", "whole_images"), ("imaging", "images")]
)
def test_a_fit_does_what_it_says(parameters, dataset, tracked, request, caplog):
    parameters = request.getfixturevalue(parameters) | {"n_em_iterations": {"los": 1, "galaxy": 0}}
    caplog.set_level(logging.INFO, "astro_ddprism")
    DiffusionSourceSeparator(**parameters).fit(request.getfixturevalue(dataset))
    planned = {step.title: step.iterations for step in tracked["plan"]}
    done = {}
    for title, n in tracked["loops"]:  # the first loop of a title; others draw again
        done.setdefault(title, n)
    assert list(done) == list(planned)
    # A chain of two parts is two loops: those that a method serves, and the others.
    for title, n in done.items():
        assert n <= planned[title]
        if "M-step" in title:
            assert n == planned[title]
    assert all(step.seconds > 0 for step in tracked["plan"])
    assert tracked["at"] == pytest.approx(1)
    # How long, depends on who else computes here.
    assert re.search(
        rf"the fit takes .* on this machine \(cpu\), in {len(planned)} steps", caplog.text
    )


def test_one_bar_for_all_steps(capfd, monkeypatch):
    monkeypatch.setattr("astro_ddprism.separator.plan.is_watched", lambda: True)
    steps = [Step("first", 1.0, 4), Step("second", 3.0, 2)]
    with FitBar(steps) as bar:
        bar.bar.mininterval = 0
        assert list(bar(range(4), "first")) == [0, 1, 2, 3]
        assert bar.at == bar.bar.n == pytest.approx(1)
        list(bar(iter("ab"), "second", total=2))
        assert bar.bar.n == pytest.approx(4)
        list(bar(range(7), "second"))  # drawn again
        list(bar(range(2), "unforeseen"))
        assert bar.bar.n == pytest.approx(4)
    err = capfd.readouterr().err
    assert "step 1 of 2: first:   0%" in err
    assert "step 2 of 2: second:  62%" in err
    assert "step 3 of 3: unforeseen: 100%" in err


def test_durations():
    assert duration_text(125.0) == "about 2 minutes"
    assert duration_text(61.0) == "about 1 minute"


def test_presets(images, whole_images, pairs):
    assert preset_for(images) == preset_for(whole_images) == "galaxies"
    view, _ = pairs(sources=("los", "galaxy"))
    assert preset_for(MultiViewDataset({"galaxy": view})) == "none"
    array = {"data": np.ones((3, 2)), "variance": 1.0, "mixing": {"los": np.eye(2)}}
    assert preset_for(MultiViewDataset.from_arrays({"a": array})) == "none"
    for name in PRESETS:
        separator = DiffusionSourceSeparator(**preset(name))
        assert (type(separator.posterior).__name__ == "Amortized") is (name == "galaxies")
    with pytest.raises(InputError, match="preset: found 'stars', expected one of galaxies, none"):
        preset("stars")
