"""States of fits as trees, and back."""

import numpy as np
import pytest
import torch
from azula.noise import VESchedule

from astro_ddprism.diffusion.learning.em import EMState
from astro_ddprism.diffusion.networks.mlp import MLP
from astro_ddprism.diffusion.priors.denoiser import SourceDenoiser
from astro_ddprism.diffusion.priors.gaussian import GaussianPrior
from astro_ddprism.diffusion.priors.mixture import GaussianMixture, MixtureResidualDenoiser
from astro_ddprism.diffusion.random import seeded
from astro_ddprism.diffusion.sampling.chains import Draws
from astro_ddprism.io.asdf import read_tree, write_tree
from astro_ddprism.separator.state import (
    digest,
    in_half_precision,
    state_from_tree,
    tree_from_state,
)

CPU = torch.device("cpu")


def make_denoiser(source, data_scale, mixture=None):
    backbone = MLP((2,), SourceDenoiser.n_features, width=8, depth=1, embedding=4)
    if source == "a":
        assert mixture is None
        return SourceDenoiser(backbone, VESchedule(0.1, 10.0), data_scale)
    assert source == "b"
    return MixtureResidualDenoiser(backbone, VESchedule(0.1, 10.0), data_scale, mixture)


def make_mixture():
    """Thin components far from zero, whose double precision counts."""
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    means = 1e3 * torch.randn(4, 2, dtype=torch.float64)
    return GaussianMixture(torch.full((4,), 0.25, dtype=torch.float64), means, x @ x.mT)


@pytest.fixture
def state():
    row = {"stage": 0, "iteration": 0, "source": "a", "loss": 0.5, "n_chains": 3}
    with seeded(1, device=CPU):
        mixture = make_mixture()
        return EMState(
            gaussians={"a": GaussianPrior(torch.randn(2), torch.randn(2, 2), torch.randn(2))},
            mixtures={"b": mixture},
            denoisers={"a": make_denoiser("a", 1.7), "b": make_denoiser("b", 2.3, mixture)},
            stage=0,
            iteration=2,
            draws={
                "view": Draws(
                    torch.randn(3, 2), torch.rand(3), torch.tensor([True, False, True]), 4
                )
            },
            history=[row, {**row, "iteration": 1, "loss": 0.25}],
        )


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


def test_round_trip_through_a_file(state, tmp_path):
    tree = tree_from_state(state)
    write_tree(tmp_path / "state.asdf", {"kind": "model", "em": tree})
    again = state_from_tree(
        read_tree(tmp_path / "state.asdf", "model")["em"], make_denoiser, None, CPU
    )
    assert_same(tree_from_state(again), tree)
    assert again.history == state.history
    assert list(again.history[0]) == list(state.history[0])  # the order of columns
    assert again.draws["view"].n_redrawn == 4
    x, t = torch.randn(5, 2), torch.tensor(0.3)
    for source, denoiser in state.denoisers.items():
        expected, found = denoiser(x, t).mean, again.denoisers[source](x, t).mean
        assert torch.equal(found, expected)
        assert not found.requires_grad
    for name in ("weights", "means", "covariances"):  # to the last bit of double precision
        assert torch.equal(getattr(again.mixtures["b"], name), getattr(state.mixtures["b"], name))


def test_models_from_before_there_were_mixtures(state):
    tree = tree_from_state(state)
    del tree["mixtures"], tree["denoisers"]["b"]
    again = state_from_tree(tree, make_denoiser, None, CPU)
    assert again.mixtures == {}
    assert list(again.denoisers) == ["a"]


def test_trees_hold_nothing_but_plain_values(state):
    for name, value in flat(tree_from_state(state)).items():
        assert isinstance(value, (np.ndarray, int, list)), name
        if isinstance(value, np.ndarray):
            assert value.dtype in ([np.float64] if "mixtures" in name else [np.float32, bool]), name


def test_nothing_learned_yet():
    again = state_from_tree(tree_from_state(EMState()), make_denoiser, None, CPU)
    assert again == EMState()


def test_digest_tells_trees_apart():
    def tree(**changes):
        return {"a": np.arange(6), "b": {"c": [1.0, "x"], "d": None}} | changes

    different = [
        tree(),
        tree(a=np.arange(6.0)),
        tree(a=np.arange(6).reshape(2, 3)),
        tree(a=[0, 1, 2, 3, 4, 5]),
        tree(b={"c": [1.0], "d": None}),
        tree(b={"c": [[1.0], "x"], "d": None}),
        tree(e=0),
    ]
    assert len({digest(t) for t in different}) == len(different)
    assert digest(tree()) == digest(tree(a=np.arange(12)[::2] // 2))


def test_half_precision_is_of_weights_alone(state):
    """Weights are rounded to 11 bits, all else stays, and the tree reads as before."""
    tree = tree_from_state(state)
    half = in_half_precision(tree)
    found, expected = flat(half), flat(tree)
    assert list(found) == list(expected)
    assert found.pop("/history") == expected.pop("/history")
    for name, value in expected.items():
        if name.startswith("/denoisers/") and value.dtype == np.float32 and value.ndim:
            assert found[name].dtype == np.float16
            np.testing.assert_allclose(found[name], value, rtol=2**-11, atol=1e-7)
        else:
            np.testing.assert_array_equal(found[name], value)
            assert np.asarray(found[name]).dtype == np.asarray(value).dtype
    again = state_from_tree(half, make_denoiser, None, CPU)
    for denoiser in again.denoisers.values():
        assert all(p.dtype == torch.float32 for p in denoiser.parameters())
    assert again.denoisers["a"].data_scale == state.denoisers["a"].data_scale
