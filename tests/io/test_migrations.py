"""Trees of earlier layouts, written by hand, in today's."""

import copy

import numpy as np
import pytest

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset
from astro_ddprism.io.asdf import read_tree, write_tree
from astro_ddprism.io.migrations import migrate
from astro_ddprism.models import find_model
from astro_ddprism.separator.parts import (
    GMRES,
    MLP,
    AdamsBashforth,
    Amortized,
    Chains,
    Execution,
    MomentMatching,
    Training,
    UNet,
    WarmStart,
)

# All options of the first version that had no posterior but moment matching.
CONFIG = {
    "sources": ["sky", "galaxy"],
    "network": None,
    "network_options": {},
    "solver": "gmres",
    "solver_iterations": 3,
    "sampler": "ancestral",
    "n_em_iterations": 5,
    "n_first_images": 101,
    "n_images": 102,
    "train_batch_size": 103,
    "learning_rate": 0.004,
    "n_steps": 12,
    "chain_start": 0.6,
    "max_chi2": 3.5,
    "n_candidates": 2,
    "n_redraws": 4,
    "sigma_min": 0.2,
    "sigma_max": 50.0,
    "warm_start_rank": 7,
    "warm_start_rank_new": 8,
    "warm_start_iterations": 9,
    "warm_start_components": 10,
    "symmetries": {"sky": ["flips"]},
    "device": "cpu",
    "precision": "bfloat16",
    "batch_size": 13,
    "seed": 14,
    "progress": False,
}
AMORTIZED = CONFIG | {
    "posterior": "amortized",
    "posterior_options": {},
    "n_posterior_images": 1000,
    "flux_factors": {"galaxy": [0.5, 2.0]},
    "templates": ["galaxy"],
}
MATCHING = {"name": "moment-matching", "solver": {"name": "gmres", "iterations": 3}}


def tree_1(config, shapes, **em):
    """A model of version 1, with one noise scale for all sources."""
    return {
        "kind": "model",
        "format_version": 1,
        "sources": list(shapes),
        "source_shapes": {source: list(shape) for source, shape in shapes.items()},
        "unit": "nJy",
        "noise_scale": 2.0,
        "psf": {source: [False] for source in shapes},
        "sigma_max": 80.0,
        "config": config,
        "em": {"stage": 2, "denoisers": {"galaxy": {"w": np.arange(3)}}, "history": [], **em},
    }


IMAGES = {"sky": (1, 8, 8), "galaxy": (1, 8, 8)}


def test_version_1_in_todays_layout():
    tree = tree_1(CONFIG, IMAGES, gaussians={"sky": {}})
    before = copy.deepcopy(tree)
    found = migrate(tree)
    np.testing.assert_equal(tree, before)  # what was read stays as it was
    assert found == {
        "kind": "model",
        "format_version": 4,
        "sources": ["sky", "galaxy"],
        "source_shapes": {"sky": [1, 8, 8], "galaxy": [1, 8, 8]},
        "unit": "nJy",
        "noise_scale": 2.0,
        "before_psf": {"sky": [False], "galaxy": [False]},
        "training": {"n_observations": {}, "conditions": {}, "initial": ""},
        "config": {
            "method": "diffusion",
            "sources": ["sky", "galaxy"],
            "seed": 14,
            "network": None,
            "posterior": MATCHING,
            "schedule": {"sigma_min": 0.2, "sigma_max": 50.0},
            "warm_start": {
                "name": "gaussian", "rank": 7, "rank_new": 8, "iterations": 9, "components": 10,
            },
            "training": {
                "n_first_images": 101, "n_images": 102, "batch_size": 103, "learning_rate": 0.004,
            },
            "chains": {
                "sampler": {"name": "ancestral"}, "n_steps": 12, "start": 0.6, "max_chi2": 3.5,
                "n_candidates": 2, "n_redraws": 4,
            },
            "n_em_iterations": 5,
            "symmetries": {"sky": ["flips"]},
            "execution": {"precision": "bfloat16", "batch_size": 13},
        },
        "state": {
            "stage": 2,
            "denoisers": {"galaxy": {"w": tree["em"]["denoisers"]["galaxy"]["w"]}},
            "history": [],
            "gaussians": {"sky": {}},
            "sigma_max": {"sky": 80.0, "galaxy": 80.0},
            "learned": [],
            "networks": {"sky": {"name": "unet"}, "galaxy": {"name": "unet"}},
        },
    }  # fmt: skip
    assert migrate(found) == found


def test_a_later_version_knows_more():
    """Noise scales by source, what it was trained on, and a posterior that was learned."""
    learned = [{"sources": ["sky", "galaxy"], "weights": {}}]
    tops = {"sky": 80.0, "galaxy": 90.0}
    tree = tree_1(AMORTIZED, IMAGES, sigma_max=tops, posteriors=learned)
    training = {"n_observations": {"sky": 3}, "conditions": {}, "initial": "old.asdf"}
    tree = {**tree, "format_version": 3, "training": training}
    del tree["sigma_max"]
    found = migrate(tree)
    assert found["state"]["sigma_max"] == tops
    assert found["state"]["learned"] == learned
    assert found["training"] == training
    assert not {"em", "psf", "sigma_max"} & set(found)


@pytest.mark.parametrize(
    ("options", "shapes", "network", "networks"),
    [
        ({}, (1, 8, 8), None, "unet"),
        ({"network": "mlp"}, (1, 8, 8), {"name": "mlp"}, "mlp"),
        (
            {"network_options": {"channels": [4, 8]}},
            (1, 8, 8),
            {"name": "unet", "channels": [4, 8]},
            "unet",
        ),
        ({"network_options": {"width": 8}}, (5,), {"name": "mlp", "width": 8}, "mlp"),
        ({}, (5,), None, "mlp"),
    ],
)
def test_networks(options, shapes, network, networks):
    """A name that was not said followed the shape of the source."""
    found = migrate(tree_1(CONFIG | options, {"sky": shapes, "galaxy": shapes}))
    assert found["config"]["network"] == network
    for source in ("sky", "galaxy"):
        known = found["state"]["networks"][source]
        assert known == {"name": networks, **options.get("network_options", {})}


def test_networks_of_sources_of_several_shapes():
    found = migrate(tree_1(CONFIG, {"sky": (1, 8, 8), "galaxy": (5,)}))
    assert found["config"]["network"] is None
    assert found["state"]["networks"] == {"sky": {"name": "unet"}, "galaxy": {"name": "mlp"}}


@pytest.mark.parametrize(
    ("options", "network"),
    [
        ({}, {"name": "unet"}),
        ({"network_options": {"channels": [4, 8]}}, {"name": "unet", "channels": [4, 8]}),
        ({"posterior_options": {"channels": [6, 8]}}, {"name": "unet", "channels": [6, 8]}),
        (
            {"network_options": {"patch": 1}, "posterior_options": {"channels": [6, 8]}},
            {"name": "unet", "channels": [6, 8]},
        ),
    ],
)
def test_amortized_posteriors(options, network):
    """Their network had options of its own, or those of the priors' network."""
    assert migrate(tree_1(AMORTIZED | options, IMAGES))["config"]["posterior"] == {
        "name": "amortized",
        "network": network,
        "n_images": 1000,
        "flux_factors": {"galaxy": [0.5, 2.0]},
        "templates": ["galaxy"],
        "sampler": {"name": "adams-bashforth", "order": 2},
        "n_steps": 24,
        "n_starts": 3,
        "otherwise": MATCHING,
    }


def test_vectors_had_no_amortized_posterior_whatever_was_asked_for():
    """The options of their perceptrons were none of its network."""
    options = AMORTIZED | {"network_options": {"width": 8}}
    config = migrate(tree_1(options, {"sky": (5,), "galaxy": (2,)}))["config"]
    assert config["posterior"]["network"] == {"name": "unet"}
    assert DiffusionSourceSeparator.from_config(config).network == MLP(width=8)


def test_a_dense_solver_had_no_iterations():
    posterior = migrate(tree_1(CONFIG | {"solver": "dense"}, IMAGES))["config"]["posterior"]
    assert posterior == {"name": "moment-matching", "solver": {"name": "dense"}}


@pytest.mark.parametrize("config", [CONFIG, AMORTIZED])
def test_a_separator_takes_the_configuration(config):
    """Nothing of it is unknown today, and every option arrived."""
    separator = DiffusionSourceSeparator.from_config(migrate(tree_1(config, IMAGES))["config"])
    matching = MomentMatching(GMRES(3))
    assert separator.posterior == (
        matching
        if config is CONFIG
        else Amortized(
            UNet(), 1000, {"galaxy": (0.5, 2.0)}, ("galaxy",), sampler=AdamsBashforth(2),
            n_steps=24, n_starts=3, otherwise=matching,
        )
    )  # fmt: skip
    assert separator.warm_start == WarmStart(7, 8, 9, 10)
    assert separator.training == Training(101, 102, 103, 0.004)
    assert separator.chains == Chains(
        n_steps=12, start=0.6, max_chi2=3.5, n_candidates=2, n_redraws=4
    )
    assert separator.execution == Execution("auto", "bfloat16", 13)
    assert (separator.schedule.sigma_min, separator.schedule.sigma_max) == (0.2, 50.0)


def test_views_are_as_they_were():
    tree = {"kind": "views", "format_version": 1, "x": 3}
    assert migrate(tree) == tree


def test_the_model_that_comes_with_the_package():
    """What it was learned with, and how it draws."""
    path = find_model("kids-r")
    separator = DiffusionSourceSeparator.read(path, device="cpu")
    assert separator.network == UNet((48, 96), (1, 1), 2, 64)
    assert separator.posterior == Amortized(
        network=UNet((48, 96), (1, 1), 2, 64),
        n_images=12_000_000,
        flux_factors={"galaxy": (0.2, 4.0)},
        templates=("galaxy",),
        sampler=AdamsBashforth(3),
        n_steps=12,
        n_starts=1,
        otherwise=MomentMatching(GMRES(3)),
    )
    assert separator.training == Training(512_000, 256_000, 64, 0.003)
    assert separator.chains == Chains(n_steps=32, start=0.7, max_chi2=2, n_redraws=1)
    assert separator.warm_start == WarmStart(64, 6, 4, 128)
    assert separator.execution == Execution("cpu", "auto", 128)  # whatever it was fitted in
    assert (separator.n_em_iterations, separator.seed) == (1, 0)
    assert separator.sources == separator.sources_ == ("los", "galaxy")
    assert list(separator.posterior_) == [("los", "galaxy")]


def test_a_model_of_today_as_version_1_would_have_it(tmp_path):
    """Written flat, it draws what it draws: only where its options stand has changed."""
    rng = np.random.default_rng(0)
    views = MultiViewDataset.from_arrays(
        {"first": {"data": rng.normal(0, 3, (12, 2)), "variance": 1.0, "mixing": {"a": np.eye(2)}}}
    )
    separator = DiffusionSourceSeparator(
        network={"name": "mlp", "width": 8, "depth": 1, "embedding": 4},
        device="cpu",
        progress=False,
        n_em_iterations=0,
        training={"n_first_images": 64},
        chains={"n_steps": 4},
    ).fit(views)
    separator.write(tmp_path / "new.asdf")
    tree = read_tree(tmp_path / "new.asdf", "model")
    state = tree["state"]
    (top,) = state.pop("sigma_max").values()
    config = CONFIG | {
        "sources": None,
        "network_options": {"width": 8, "depth": 1, "embedding": 4},
        "n_steps": 4,
        "chain_start": 0.7,
        "max_chi2": 2.0,
        "n_candidates": 1,
        "n_redraws": 1,
        "solver_iterations": 2,
        "sigma_min": 0.1,
        "sigma_max": 100.0,
        "precision": "float32",
        "batch_size": None,
        "symmetries": None,
        "seed": 0,
    }
    del state["networks"], state["learned"]
    old = {name: tree[name] for name in ("kind", "sources", "source_shapes", "unit", "noise_scale")}
    old |= {"psf": tree["before_psf"], "sigma_max": top, "config": config, "em": state}
    write_tree(tmp_path / "old.asdf", old, format_version=1)
    again = DiffusionSourceSeparator.read(tmp_path / "old.asdf", device="cpu", progress=False)
    assert again.training_.conditions == again.training_.n_observations == {}  # it did not tell
    assert again.priors_["a"].schedule.sigma_max == top
    for draw in (lambda s: s.sample(views["first"], 2).samples["a"], lambda s: s.sample()["a"]):
        np.testing.assert_array_equal(draw(again), draw(separator))
