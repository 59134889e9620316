"""The study of masked pixels, with a model that knows the truth."""

import numpy as np
import pytest
from astropy import units as u

from astro_ddprism.posterior.samples import PosteriorSamples

SETTING = {"n": 8, "n_samples": 40, "seed": 3}


@pytest.fixture
def study():
    return pytest.importorskip("benchmarks.masks.study")


class Oracle:
    """Draws about the truth, or a part of it, with an error of 3 % of the whole image."""

    def __init__(self, light, part=1.0):
        self.light, self.part, self.masks = light, part, []

    def sample(self, view, n_samples, seed):
        self.masks.append(view.mask[:, 0])
        rng = np.random.default_rng(seed)
        # The first is the truth itself, the others lie about it.
        scatter = 1 + 0.03 * rng.standard_normal((n_samples, len(view), 1, 1, 1))
        galaxy = self.part * scatter * self.light[:, np.newaxis]
        samples = {"los": 0 * galaxy * u.uJy, "galaxy": galaxy * u.uJy}
        return PosteriorSamples(samples, view)


def test_figures(study):
    setting = study.QUICK | SETTING
    light = study.galaxies(setting, np.random.default_rng(setting["seed"]))
    flux = light.sum(axis=(1, 2))
    assert ((flux > 0.999 * 1.0) & (flux < 20.001)).all()
    oracle = Oracle(light)
    figures, shown = study.run(oracle, setting)
    assert [row["pattern"] for row in figures] == list(shown)
    for row, mask in zip(figures, oracle.masks, strict=True):
        assert abs(row["bias"]) < 0.02
        assert row["coverage_95"] == 1
        near = mask & (np.hypot(*(np.mgrid[:32, :32] - 16)) <= setting["aperture"])
        assert row["flagged"] == near.any(axis=(1, 2)).mean()
        assert (row["hidden_light"] is None) == (not near.any())
    assert figures[0]["flagged"] == 0
    assert {row["hidden_light"] for row in figures[1:]} != {None}
    low, _ = study.run(Oracle(light, 0.8), setting)
    for row in low:
        assert row["bias"] == pytest.approx(-0.2, abs=0.02)
        assert row["coverage_95"] == 0
    assert low[1]["hidden_light"] == pytest.approx(0.8, abs=0.03)


def test_patterns(study):
    masks = study.patterns(50, np.random.default_rng(0))
    sizes = {name: mask[0].sum() for name, mask in masks.items()}
    assert sizes["all pixels seen"] == 0
    assert sizes["central pixel"] == 1
    assert sizes["cosmic ray of 5 pixels"] == 5
    assert sizes["column"] == 32
    assert sizes["hole of 5 x 5"] == 25
    assert masks["20 % at random"].mean() == pytest.approx(0.2, abs=0.01)
    assert all(mask.shape == (50, 32, 32) for mask in masks.values())
