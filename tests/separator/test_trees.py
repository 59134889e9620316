"""Priors and draws as trees, and back."""

import numpy as np
import pytest
import torch

from astro_ddprism.diffusion.learning.em import EMState
from astro_ddprism.diffusion.networks import MLP
from astro_ddprism.diffusion.parallel import Execution
from astro_ddprism.diffusion.posteriors.base import Priors
from astro_ddprism.diffusion.posteriors.moment_matching import MomentMatching
from astro_ddprism.diffusion.priors.build import build_denoiser
from astro_ddprism.diffusion.priors.gaussian import GaussianPrior
from astro_ddprism.diffusion.priors.mixture import GaussianMixture
from astro_ddprism.diffusion.priors.schedule import NoiseSchedule
from astro_ddprism.diffusion.random import seeded
from astro_ddprism.diffusion.sampling.chains import Draws
from astro_ddprism.io.asdf import read_tree, write_tree
from astro_ddprism.separator.state import in_half_precision
from astro_ddprism.separator.trees import (
    draws_from_tree,
    draws_tree,
    priors_from_tree,
    priors_tree,
)

CPU = torch.device("cpu")
SHAPES = {"a": (2,), "b": (2,)}
NOISE = NoiseSchedule(0.1, 10.0)


def make_mixture():
    """Thin components far from zero, whose double precision counts."""
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    means = 1e3 * torch.randn(4, 2, dtype=torch.float64)
    return GaussianMixture(torch.full((4,), 0.25, dtype=torch.float64), means, x @ x.mT)


@pytest.fixture
def priors():
    network = MLP(width=8, depth=1, embedding=4)
    with seeded(1, device=CPU):
        mixture = make_mixture()
        priors = Priors(
            NOISE,
            networks={"a": network, "b": network},
            gaussians={"a": GaussianPrior(torch.randn(2), torch.randn(2, 2), torch.randn(2))},
            mixtures={"b": mixture},
            sigma_max={"a": 12.5, "b": 80.0},
        )
        for source, scale, own in (("a", 1.7, None), ("b", 2.3, mixture)):
            priors.denoisers[source] = build_denoiser(
                network, (2,), priors.schedule(source), scale, own
            )
    return priors


@pytest.fixture
def state(priors):
    with seeded(2, device=CPU):
        draws = Draws(torch.randn(3, 2), torch.rand(3), torch.tensor([True, False, True]), 4)
        return EMState(
            priors,
            draws={"view": draws},
            samples={"a": torch.randn(5, 2)},
            seeing={"a": torch.rand(5)},
            held_out={"a": torch.rand(5) < 0.5},
        )


def again(tree):
    return priors_from_tree(tree, SHAPES, NOISE, MomentMatching(), Execution("cpu"))


def flat(tree, name=""):
    """The leaves of a tree by their paths."""
    if isinstance(tree, dict):
        return {k: v for key in tree for k, v in flat(tree[key], f"{name}/{key}").items()}
    return {name: tree}


def assert_same(tree, other):
    tree, other = flat(tree), flat(other)
    assert set(tree) == set(other)
    for name, value in tree.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, other[name], strict=True)
        else:
            assert value == other[name], name


def test_round_trip_through_a_file(priors, tmp_path):
    tree = priors_tree(priors)
    write_tree(tmp_path / "state.asdf", {"kind": "model", "state": tree})
    found = again(read_tree(tmp_path / "state.asdf", "model")["state"])
    assert_same(priors_tree(found), tree)
    assert found.networks == priors.networks
    x, t = torch.randn(5, 2), torch.tensor(0.3)
    for source, denoiser in priors.denoisers.items():
        expected, mean = denoiser(x, t).mean, found.denoisers[source](x, t).mean
        assert torch.equal(mean, expected)
        assert not mean.requires_grad
        assert found.denoisers[source].schedule.sigma_max == priors.sigma_max[source]
    for name in ("weights", "means", "covariances"):  # to the last bit of double precision
        assert torch.equal(getattr(found.mixtures["b"], name), getattr(priors.mixtures["b"], name))


def test_draws_round_trip(state):
    found = draws_from_tree(draws_tree(state, empty=False))
    draws, expected = found["draws"]["view"], state.draws["view"]
    assert draws.n_redrawn == 4
    for name in ("x", "chi2", "good"):
        assert torch.equal(getattr(draws, name), getattr(expected, name))
    assert torch.equal(found["samples"]["a"], state.samples["a"])
    assert torch.equal(found["seeing"]["a"], state.seeing["a"])
    assert torch.equal(found["held_out"]["a"], state.held_out["a"])
    nothing = {"draws": {}, "samples": {}, "seeing": {}, "held_out": {}}
    assert draws_from_tree(draws_tree(state, empty=True)) == nothing


def test_models_from_before_there_were_mixtures(priors):
    tree = priors_tree(priors)
    del tree["mixtures"], tree["denoisers"]["b"]
    found = again(tree)
    assert found.mixtures == {}
    assert list(found.denoisers) == ["a"]


def test_trees_hold_nothing_but_plain_values(state):
    tree = priors_tree(state.priors) | draws_tree(state, empty=False)
    for name, value in flat(tree).items():
        assert isinstance(value, (np.ndarray, int, float, str, list)), name
        if isinstance(value, np.ndarray):
            assert value.dtype in ([np.float64] if "mixtures" in name else [np.float32, bool]), name


def test_nothing_learned_yet():
    found = again(priors_tree(Priors(NOISE)))
    assert found == Priors(NOISE)


def test_half_precision_is_of_weights_alone(priors):
    """Weights are rounded to 11 bits, all else stays, and the tree reads as before."""
    tree = priors_tree(priors)
    half = in_half_precision(tree)
    found, expected = flat(half), flat(tree)
    assert list(found) == list(expected)
    rounded = 0
    for name, value in expected.items():
        if name.startswith("/denoisers/") and value.dtype == np.float32 and value.ndim:
            assert found[name].dtype == np.float16
            np.testing.assert_allclose(found[name], value, rtol=2**-11, atol=1e-7)
            rounded += 1
        else:
            np.testing.assert_array_equal(found[name], value)
            assert np.asarray(found[name]).dtype == np.asarray(value).dtype
    assert rounded > 10
    priors_again = again(half)
    for denoiser in priors_again.denoisers.values():
        assert all(p.dtype == torch.float32 for p in denoiser.parameters())
    assert priors_again.denoisers["a"].data_scale == priors.denoisers["a"].data_scale
