"""What networks do not see: which observations it is, and that it tells of an overfit."""

import math

import numpy as np
import pytest
import torch
from azula.noise import VESchedule

from astro_ddprism.diffusion.learning.data import images
from astro_ddprism.diffusion.learning.held_out import held_out_rows
from astro_ddprism.diffusion.learning.training import Trainer, Training
from astro_ddprism.diffusion.networks.mlp import MLP
from astro_ddprism.diffusion.parallel import Execution
from astro_ddprism.diffusion.priors.denoiser import SourceDenoiser
from astro_ddprism.diffusion.random import seeded

CPU = torch.device("cpu")


class Observations:
    """Loaders, as far as it counts."""

    def __init__(self, declinations, n=None):
        self.declinations = declinations
        self._n = len(declinations) if n is None else n

    def __len__(self):
        return self._n


def test_views_hold_out_one_region():
    rng = np.random.default_rng(1)
    places = {"random": rng.uniform(-2, 3, 400), "target": rng.uniform(-2, 3, 100)}
    rows = held_out_rows({n: Observations(p) for n, p in places.items()}, 0.1, 1)
    edges = [place[rows[name]].min() for name, place in places.items()]
    assert sum(held.sum() for held in rows.values()) == 50
    for name, place in places.items():
        assert (place[~rows[name]] < min(edges)).all()


def test_a_view_elsewhere_holds_out_a_region_of_its_own():
    rng = np.random.default_rng(2)
    south, north = rng.uniform(-40, -39, 200), rng.uniform(1, 2, 50)
    rows = held_out_rows({"a": Observations(south), "b": Observations(north)}, 0.1, 1)
    for place, held in ((south, rows["a"]), (north, rows["b"])):
        assert held.sum() == len(place) // 10
        assert place[held].min() > place[~held].max()


def test_chance_decides_where_nothing_is_known():
    loaders = {"a": Observations(None, 200), "b": Observations(None, 200)}
    first, again, other = (held_out_rows(loaders, 0.1, seed) for seed in (1, 1, 2))
    assert [held.sum() for held in first.values()] == [20, 20]
    assert (first["a"] == again["a"]).all()
    assert (first["a"] != other["a"]).any()
    assert (first["a"] != first["b"]).any()
    assert np.diff(np.flatnonzero(first["a"])).max() > 1


def test_nothing_is_held_out_unless_asked():
    loaders = {"a": Observations(np.arange(9.0)), "b": Observations(None, 9)}
    assert not any(held.any() for held in held_out_rows(loaders, 0.0, 1).values())


def trained(x, others, n_images, watched):
    trainer = Trainer(Training(batch_size=64), Execution("cpu"), lambda steps, _: steps)
    with seeded(3, device=CPU):
        denoiser = SourceDenoiser(MLP(width=64, depth=2, embedding=16).build((2,), 2),
                                  VESchedule(0.05, 20.0), 1.5)  # fmt: skip
        unseen = images(others, (), CPU) if watched else None
        return denoiser, trainer.train(denoiser, images(x, (), CPU), n_images, unseen)


def error(denoiser, x, sigma):
    """Mean square error at a noise scale, in units of its variance."""
    with seeded(4, device=CPU), torch.no_grad():
        z = torch.randn_like(x)
        t = torch.tensor(math.log(sigma / 0.05) / math.log(400))
        return float((denoiser(x + sigma * z, t).mean - x).square().mean() / sigma**2)


@pytest.fixture(scope="module")
def few():
    """A dozen points of a plane to learn from, and many others."""
    with seeded(2, device=CPU):
        return torch.randn(12, 2), torch.randn(500, 2), torch.randn(4000, 2)


def test_what_is_known_by_heart_is_told(few, caplog):
    """The losses part, the training ends, and others are denoised better than without."""
    x, others, fresh = few
    watched, losses = trained(x, others, 60_000, True)
    unwatched, mean = trained(x, others, 60_000, False)
    assert mean.seen is None
    assert mean.held_out is None
    assert losses.held_out > 1.1 * losses.seen
    assert "knows these by heart" in caplog.text
    errors = {name: [error(d, fresh, sigma) for sigma in (0.2, 0.5)]
              for name, d in (("watched", watched), ("unwatched", unwatched))}  # fmt: skip
    assert np.mean(errors["watched"]) < 0.9 * np.mean(errors["unwatched"]), errors


def test_losses_agree_where_there_is_enough_to_learn_from(few, caplog):
    _, _, fresh = few
    denoiser, losses = trained(fresh[:3500], fresh[3500:], 60_000, True)
    # Each is the mean of a thousand images, of errors of order one.
    assert losses.seen == pytest.approx(losses.held_out, rel=0.1)
    assert losses.mean == pytest.approx(losses.seen, rel=0.15)
    assert "by heart" not in caplog.text
    exact = 1 / (1 + 0.5**2)  # of a normal distribution of variance 1
    assert error(denoiser, fresh, 0.5) == pytest.approx(exact, rel=0.05)
