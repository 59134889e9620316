"""Diffusion priors that are learned from views, fits that start from a model, posterior methods."""

import copy

import numpy as np
import pytest
import torch
from astropy import units as u

from astro_ddprism import DiffusionSourceSeparator, InputError, MultiViewDataset, View
from astro_ddprism.diffusion.learning.em import ExpectationMaximization
from astro_ddprism.diffusion.learning.training import Trainer
from astro_ddprism.diffusion.learning.warmstart import WarmStart
from astro_ddprism.diffusion.posteriors.amortized import Amortized
from astro_ddprism.diffusion.posteriors.moment_matching import MomentMatching
from astro_ddprism.io.asdf import read_tree
from astro_ddprism.mixing import CorrelatedNoise, DenseMatrix
from astro_ddprism.separator.checks import check_conditions
from astro_ddprism.separator.state import FittedState, contents, digest
from astro_ddprism.simulate.population import simulate_field
from astro_ddprism.survey.conditions import SurveyConditions

UNIT = u.uJy
SHAPE = (1, 8, 8)


@pytest.mark.parametrize(
    "held",
    [
        {"first": "a", "second": "ab", "third": "abc"},
        {"first": "ab", "second": "ab"},
        {"first": "a"},
    ],
    ids=lambda held: "-".join(held.values()),
)
def test_contrastive_and_mixed_views(held, flat, flat_views):
    dataset = flat_views(**held)
    separator = DiffusionSourceSeparator(**flat)
    assert separator.fit(dataset) is separator
    assert separator.sources_ == dataset.sources
    assert separator.unit_ == UNIT
    assert separator.noise_scale_ == pytest.approx(0.5)
    for name, view in dataset.items():
        samples = separator.sample(view, n_samples=3)
        assert tuple(samples.samples) == view.sources == tuple(held[name])
        for x in samples.samples.values():
            assert x.shape == (3, 24, 2)
            assert x.unit == UNIT
        assert np.median(samples.chi2) < 2
    prior = separator.sample(n_samples=5)
    assert set(prior) == set(dataset.sources)
    for x in prior.values():
        assert x.shape == (5, 2)
        assert x.unit == UNIT
        assert np.isfinite(x).all()


def test_sources_are_learned(flat, flat_views):
    """Medians and spreads of two sources, against those that made the data.

    Quantiles, since a small network's draws have tails. x_b is y_2 - y_1 on average, with a
    standard error of 0.1; the priors of a short fit of a small network are good to half a unit.
    """
    dataset = flat_views(n=256, first="a", second="ab")
    options = {
        "network": {"name": "mlp", "width": 64, "depth": 2, "embedding": 32},
        "training": {"n_first_images": 40_000, "n_images": 20_000, "batch_size": 128},
        "chains": {"n_steps": 16},
        "execution": {"batch_size": 256},
        "warm_start": {"name": "gaussian", "iterations": 16},
    }
    separator = DiffusionSourceSeparator(**flat | options).fit(dataset)
    prior = separator.sample(n_samples=1000, seed=3)
    posterior = separator.sample(dataset["second"], 16).samples
    for source, expected in {"a": 2.0, "b": -3.0}.items():
        for x in (prior[source].value, posterior[source].value.reshape(-1, 2)):
            low, median, high = np.quantile(x, [0.16, 0.5, 0.84], axis=0)
            np.testing.assert_allclose(median, expected, atol=0.5)
            np.testing.assert_allclose((high - low) / 2, 1.0, atol=0.5)
    x = np.stack([np.full(2, value) for value in (-3.0, 2.0)])
    assert np.diff(separator.log_prob(x, "b")) < -3  # a is no b


def circle_views(n, radius=20.0, noise=0.5):
    """A circle in three dimensions, two of which are seen, other two in each observation."""
    rng = np.random.default_rng(3)
    phase = rng.uniform(0, 2 * np.pi, n)
    x = radius * noise * np.stack([np.cos(phase), np.sin(phase), 0 * phase], axis=1)
    A = rng.normal(size=(n, 2, 3))
    A /= np.linalg.norm(A, axis=2, keepdims=True)
    y = (A @ x[..., None])[..., 0] + rng.normal(0, noise, (n, 2))
    view = {"data": y * UNIT, "variance": noise**2 * UNIT**2, "mixing": {"a": A}}
    return MultiViewDataset.from_arrays({"view": view}), x


def mixtures_of(separator, folder):
    """The mixtures that a separator begins with, as its file has them."""
    separator.write(folder / "mixtures.asdf")
    return read_tree(folder / "mixtures.asdf", "model")["state"]["mixtures"]


def test_curves_are_learned(flat, tmp_path):
    """Draws lie on a circle of 10 microjansky, those of the source's Gaussian anywhere inside.

    Draws of an observation are near its truth: half of them by less than twice the noise in each of
    three dimensions.
    """
    dataset, truth = circle_views(600)
    options = flat | {
        "n_em_iterations": 0,
        "chains": {"n_steps": 16},
        "execution": {"batch_size": 300},
    }
    separator = DiffusionSourceSeparator(**options).fit(dataset)
    mixture = mixtures_of(separator, tmp_path)["a"]
    assert len(mixture["weights"]) > 4
    posterior = separator.sample(dataset["view"], 1)
    x = posterior.samples["a"].value[0]
    weights, means = mixture["weights"], mixture["means"]
    mean = weights @ means
    spread = (means - mean).T * weights @ (means - mean)
    spread += np.einsum("k,kij->ij", weights, mixture["covariances"])
    gaussian = np.random.default_rng(1).multivariate_normal(mean, spread, 300)
    gaussian *= separator.noise_scale_
    for draws, near in ((x, True), (separator.sample(n_samples=300)["a"].value, True),
                        (gaussian, False)):  # fmt: skip
        off = np.hypot(np.hypot(draws[:, 0], draws[:, 1]) - 10, draws[:, 2])
        assert (np.median(off) < 1) == near
        assert (np.quantile(off, 0.9) < 5) == near
    assert np.median(np.linalg.norm(x - truth, axis=1)) < 2 * 0.5 * np.sqrt(3)
    assert posterior.chi2.mean() == pytest.approx(1, abs=0.3)


def test_vectors_start_from_mixtures_and_images_from_gaussians(fitted, fitted_images, tmp_path):
    for separator, mixtures in ((fitted, {"a", "b"}), (fitted_images, set())):
        separator.write(tmp_path / "model.asdf", overwrite=True)
        state = read_tree(tmp_path / "model.asdf", "model")["state"]
        assert set(state["mixtures"]) == mixtures
        assert set(state["gaussians"]) == set(separator.sources_)
        for arrays in state["mixtures"].values():  # to the last bit of double precision
            assert {array.dtype for array in arrays.values()} == {np.dtype(np.float64)}


@pytest.mark.parametrize("n", [1, 2, 11])
def test_a_handful_of_observations(n, flat, flat_views):
    dataset = flat_views(n=n, first="a", second="ab")
    separator = DiffusionSourceSeparator(**flat).fit(dataset)
    assert separator.sample(dataset["second"], 2).samples["b"].shape == (2, n, 2)


def test_candidates_are_drawn_when_asked_for(fitted, views, monkeypatch):
    """All observations are drawn as often as there are candidates, of which each keeps one."""
    again = copy.copy(fitted).set_params(chains__n_candidates=3, chains__max_chi2=1e9)
    again.set_params(execution__batch_size=64)  # all in one
    draws = []
    run = MomentMatching.run
    monkeypatch.setattr(
        MomentMatching, "run", lambda *args, **how: draws.append(1) or run(*args, **how)
    )
    chi2 = again.sample(views["second"]).chi2
    assert len(draws) == 3
    assert np.median(chi2) < 2


def test_history(fitted, fitted_images, views):
    history = fitted.history_
    assert list(history.columns) == [
        "stage", "iteration", "source", "loss", "chi2", "chi2_mean", "power", "n_chains",
        "n_redrawn", "n_left_out", "e_step_time", "m_step_time",
    ]  # fmt: skip
    assert list(history["source"]) == ["a", "a", "b", "b"]
    assert list(history["iteration"]) == [0, 1, 0, 1]
    assert history["power"].unit == UNIT**2
    assert history["e_step_time"].unit == u.s
    # Draws of one source are the data but for the noise: about 2^2 + 1 in microjansky squared. The
    # draws of 48 numbers with an error of 0.45 each leave 2 x 2 x 0.45 / sqrt(48) = 0.26.
    expected = np.mean(views["first"].data ** 2) - 0.25
    assert history["power"][0].value == pytest.approx(expected, abs=4 * 0.26)
    assert (history["n_chains"] == 24).all()
    assert (history["chi2"] < 2).all()
    assert list(fitted_images.history_["source"]) == ["los", "los", "galaxy", "galaxy"]


def test_images(fitted_images, images):
    samples = fitted_images.sample(images["galaxy"], n_samples=2)
    assert samples.samples["galaxy"].shape == (2, 12, *SHAPE)
    prior = fitted_images.sample(n_samples=3)
    assert prior["los"].shape == (3, *SHAPE)
    log_prob, error = fitted_images.log_prob(prior["los"], "los", n_probes=2, return_error=True)
    assert log_prob.shape == error.shape == (3,)
    assert np.isfinite(log_prob).all()
    assert (error > 0).all()


def with_correlated_noise(view, strength=0.4):
    patch = [[strength, 1.0, strength]]
    noise = CorrelatedNoise(view.variance, patch, view.mask)
    return View(view.data, noise=noise, mixing=view.mixing, unit=view.unit, name=view.name)


def test_correlated_noise(images, imaging):
    """From the warm start to the samples; fits know one noise from another."""
    views = MultiViewDataset({name: with_correlated_noise(v) for name, v in images.items()})
    separator = DiffusionSourceSeparator(**imaging).fit(views)
    samples = separator.sample(views["galaxy"], n_samples=2)
    assert np.isfinite(samples.chi2).all()
    assert np.median(samples.chi2) < 3
    weaker = {name: with_correlated_noise(v, 0.3) for name, v in images.items()}
    prints = {digest(contents(v)) for v in (views, images, MultiViewDataset(weaker))}
    assert len(prints) == 3


def test_bfloat16_networks(views, flat):
    separator = DiffusionSourceSeparator(**flat | {"execution": {"precision": "bfloat16"}}).fit(
        views
    )
    assert separator.sample(n_samples=2)["a"].value.dtype == np.float32
    assert np.isfinite(separator.history_["loss"]).all()


@pytest.mark.parametrize("solver", ["dense", "cg"])
def test_every_solver_by_its_name(views, images, solver, flat, imaging):
    dataset, options = (views, flat) if solver == "dense" else (images, imaging)
    posterior = {"name": "moment-matching", "solver": solver}
    options = options | {"n_em_iterations": 0, "posterior": posterior}
    chi2 = (
        DiffusionSourceSeparator(**options).fit(dataset).sample(dataset[list(dataset)[-1]], 2).chi2
    )
    assert np.isfinite(chi2).all()
    assert np.median(chi2) < 2


def clusters(n=256, **gains):
    """Sources at four corners, of which the observation ``ab`` holds as much as its noise."""
    rng = np.random.default_rng(5)
    x = {s: rng.choice([-8.0, 8.0], (n, 2)) + rng.normal(0, 0.5, (n, 2)) for s in gains}
    noise = {"variance": 0.25 * UNIT**2}
    mixing = {s: gain * np.eye(2) for s, gain in gains.items()}
    views = {"first": "a", "second": "ab"} if len(gains) > 1 else {"first": "a"}
    return MultiViewDataset.from_arrays(
        {
            name: {
                "data": (sum(x[s] for s in held) + rng.normal(0, 0.5, (n, 2))) * UNIT,
                "mixing": {s: mixing[s] for s in held},
            }
            | noise
            for name, held in views.items()
        }
    )


def share_at_corners(x):
    """Of draws, in units of the corners' scale: by less than four standard deviations."""
    return (np.abs(np.abs(x) - 8) < 2).all(axis=-1).mean()


@pytest.mark.parametrize("gain", [1.0, 1e-3])
def test_noise_scales_are_those_of_the_source(gain, flat):
    """Where a source is a thousand times as strong as its observation, so is what hides it."""
    options = flat | {"n_em_iterations": 0, "execution": {"batch_size": 256}}
    separator = DiffusionSourceSeparator(**options).fit(clusters(a=gain))
    assert separator.priors_["a"].schedule.sigma_max == pytest.approx(10 * 16 / gain, rel=0.02)
    assert share_at_corners(gain * separator.sample(n_samples=400)["a"].value) > 0.98


def test_sources_of_different_noise_scales_are_separated(tmp_path, flat, draws_of, assert_same):
    """Beyond its own noise scales, a source of a joint chain is a Gaussian."""
    dataset = clusters(a=1.0, b=1e-3)
    options = flat | {
        "n_em_iterations": 0,
        "execution": {"batch_size": 256},
        "chains": {"n_steps": 32, "start": 1.0},
    }
    separator = DiffusionSourceSeparator(**options).fit(dataset)
    tops = {s: prior.schedule.sigma_max for s, prior in separator.priors_.items()}
    assert tops["b"] > 500 * tops["a"]
    separator.write(tmp_path / "model.asdf")
    again = DiffusionSourceSeparator.read(tmp_path / "model.asdf", device="cpu", progress=False)
    assert {s: p.schedule.sigma_max for s, p in again.priors_.items()} == tops
    draws = draws_of(again, dataset["second"])
    assert_same(draws, draws_of(separator, dataset["second"]))
    for source, gain in {"a": 1.0, "b": 1e-3}.items():
        assert share_at_corners(gain * draws[source]) > 0.9
    assert np.median(again.sample(dataset["second"], 2).chi2) < 2


def test_fine_tuning_starts_from_the_models_networks(
    fitted, model, views, monkeypatch, flat, flat_views, draws_of, assert_same
):
    """No warm start, no first training: only later ones, of the model's own weights."""
    trained = []
    train = Trainer.train

    def remember(trainer, denoiser, draw, n_images, held_out):
        weights = {name: value.clone() for name, value in denoiser.state_dict().items()}
        trained.append((weights, n_images))
        return train(trainer, denoiser, draw, n_images, held_out)

    monkeypatch.setattr(Trainer, "train", remember)
    monkeypatch.setattr(WarmStart, "fit", None)
    other = flat_views(n=20, first="a", second="ab")
    tuned = DiffusionSourceSeparator(**flat).fit(other, initial=model)
    assert [n for _, n in trained] == [flat["training"]["n_images"]] * 2
    for (weights, _), source in zip(trained, "ab", strict=True):
        for name, value in fitted.priors_[source].state_dict().items():
            assert torch.equal(weights[name], value)
    assert list(tuned.history_["source"]) == ["a", "b"]
    assert tuned.noise_scale_ == fitted.noise_scale_
    assert tuned.training_.initial == "model.asdf"
    assert tuned.training_.n_observations == {"first": 20, "second": 20}
    assert np.median(tuned.sample(other["second"], 2).chi2) < 2
    # The model itself is as it was, and may be given as it is.
    again = DiffusionSourceSeparator(**flat).fit(other, initial=fitted)
    assert_same(draws_of(again, other["second"]), draws_of(tuned, other["second"]))
    assert fitted.history_["iteration"].max() == 1


def test_fine_tuning_on_images(fitted_images, imaging, image_views):
    dataset = image_views(n=9)
    tuned = DiffusionSourceSeparator(**imaging).fit(dataset, initial=fitted_images)
    assert list(tuned.history_["iteration"]) == [1, 1]
    assert np.median(tuned.sample(dataset["galaxy"], 2).chi2) < 2


def test_fine_tuning_in_another_unit(fitted, views, flat, in_unit):
    """The flux that is 1 inside stays the model's; where units do not compare, the noise does."""
    in_nanojansky = MultiViewDataset({name: in_unit(v, u.nJy) for name, v in views.items()})
    tuned = DiffusionSourceSeparator(**flat).fit(in_nanojansky, initial=fitted)
    assert tuned.unit_ == u.nJy
    assert tuned.noise_scale_ == pytest.approx(1000 * fitted.noise_scale_)
    counts = {
        name: View(10 * v.data, variance=100 * v.variance, mixing=v.mixing, unit="adu")
        for name, v in views.items()
    }
    tuned = DiffusionSourceSeparator(**flat).fit(MultiViewDataset(counts), initial=fitted)
    assert tuned.noise_scale_ == pytest.approx(10 * fitted.noise_scale_)


def test_models_that_a_fit_cannot_start_from(fitted, views, monkeypatch, flat, flat_views):
    monkeypatch.setattr(ExpectationMaximization, "run", None)  # no work is begun
    for dataset, options, message in (
        (flat_views(first="a"), {}, "found sources .*'b'.*, expected .*'a'"),
        (flat_views(size=3, first="a", second="ab"), {}, r"found shapes .*\(2,\).*, expected"),
        (views, {"network": {**flat["network"], "width": 8}}, "found network .*16.*, expected .*8"),
        (views, {"n_em_iterations": 0}, "n_em_iterations: found 0 with a model to start from"),
    ):
        with pytest.raises(InputError, match=message):
            DiffusionSourceSeparator(**flat | options).fit(dataset, initial=fitted)
    with pytest.raises(InputError, match="learned nothing yet"):
        DiffusionSourceSeparator(**flat).fit(views, initial=DiffusionSourceSeparator(**flat))


def test_resumed_fine_tuning(fitted, views, tmp_path, flat, draws_of, assert_same, killed):
    """Killed after the first stage, when all networks are there, it is no model yet."""
    checkpoint = tmp_path / "fit.checkpoint"
    whole = DiffusionSourceSeparator(**flat).fit(views, initial=fitted)
    with killed(1):
        DiffusionSourceSeparator(**flat).fit(views, initial=fitted, checkpoint=checkpoint)
    with pytest.raises(InputError, match=r"fit\.checkpoint: an unfinished fit, still learning b"):
        DiffusionSourceSeparator.read(checkpoint)
    with pytest.raises(InputError, match="other data or with another"):
        DiffusionSourceSeparator(**flat).fit(views, checkpoint=checkpoint, resume=True)
    again = DiffusionSourceSeparator(**flat)
    again.fit(views, initial=fitted, checkpoint=checkpoint, resume=True)
    assert_same(draws_of(again, views["second"]), draws_of(whole, views["second"]))


def test_an_amortized_posterior(amortized, whole_images, images, monkeypatch):
    """Its network draws; where only one source is seen, the prior does as ever."""
    assert list(amortized.posterior_) == [("los", "galaxy")]
    assert set(amortized.priors_) == {"los", "galaxy"}
    posterior = amortized.posterior_["los", "galaxy"]
    assert posterior.schedule.sigma_max == 10 * max(
        prior.schedule.sigma_max for prior in amortized.priors_.values()
    )
    assert list(amortized.history_["iteration"]) == [0, 1, 0, 1]
    chains = []
    for method in (MomentMatching, Amortized):
        run = method.run
        monkeypatch.setattr(
            method,
            "run",
            lambda self, *args, run=run, **how: (
                chains.append(type(self)) or run(self, *args, **how)
            ),
        )
    samples = amortized.sample(whole_images["galaxy"], n_samples=2)
    assert set(chains) == {Amortized}
    chains.clear()
    for view in (whole_images["random"], images["galaxy"]):  # no network for it; a masked target
        amortized.sample(view)
        assert set(chains) == {MomentMatching}
    for x in samples.samples.values():
        assert x.shape == (2, 12, *SHAPE)
        assert np.isfinite(x).all()
    assert np.median(samples.chi2) < 2
    # The blob is the galaxy's: what the random view never holds, and only the network decides.
    total = {s: x.value.sum(axis=(-2, -1)).mean() for s, x in samples.samples.items()}
    assert total["galaxy"] > total["los"]


def test_read_an_amortized_posterior(amortized, whole_images, tmp_path, draws_of, assert_same):
    amortized.write(tmp_path / "model.asdf")
    again = DiffusionSourceSeparator.read(tmp_path / "model.asdf", device="cpu", progress=False)
    assert again.config == amortized.config
    assert_same(
        draws_of(again, whole_images["galaxy"]), draws_of(amortized, whole_images["galaxy"])
    )
    assert_same(again.sample(n_samples=2), amortized.sample(n_samples=2))


def test_resumed_fit_of_an_amortized_posterior(
    amortized, whole_images, tmp_path, amortizing, draws_of, assert_same, killed
):
    """Killed between the two M-steps of the posterior's stage."""
    checkpoint = tmp_path / "fit.checkpoint"
    with killed(3):
        DiffusionSourceSeparator(**amortizing).fit(whole_images, checkpoint=checkpoint)
    with pytest.raises(InputError, match="unfinished fit, still learning galaxy"):
        DiffusionSourceSeparator.read(checkpoint)
    again = DiffusionSourceSeparator(**amortizing)
    again.fit(whole_images, checkpoint=checkpoint, resume=True)
    weights = amortized.posterior_["los", "galaxy"].state_dict()
    found = again.posterior_["los", "galaxy"].state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert_same(
        draws_of(again, whole_images["galaxy"]), draws_of(amortized, whole_images["galaxy"])
    )


def test_fine_tuning_with_and_without_an_amortized_posterior(
    amortized, fitted_images, whole_images, imaging, amortizing
):
    """A posterior goes on where both have one, is left aside, or begins."""
    for initial, options, trained in (
        (amortized, amortizing, True),
        (amortized, imaging, False),
        (fitted_images, amortizing, True),
    ):
        tuned = DiffusionSourceSeparator(**options).fit(whole_images, initial=initial)
        assert bool(tuned.posterior_) == trained
        assert list(tuned.history_["iteration"]) == [1, 1]
        assert np.isfinite(tuned.sample(whole_images["galaxy"]).chi2).all()
    other = amortizing | {
        "posterior": amortizing["posterior"]
        | {"network": {"name": "unet", "channels": [8], "blocks": [1]}}
    }
    with pytest.raises(InputError, match=r"initial: .* found network of the posterior .*channels"):
        DiffusionSourceSeparator(**other).fit(whole_images, initial=amortized)


def test_templates_of_a_simulated_field(amortizing):
    """From an image to samples: a model whose galaxies began as symmetric parts of the light."""
    field = simulate_field((200, 200), seed=6)
    views = MultiViewDataset.from_image(field.image, size=16, n_random=30, crowded_fraction=0.5)
    posterior = amortizing["posterior"] | {"templates": ["galaxy"]}
    options = amortizing | {"posterior": posterior, "n_em_iterations": 0}
    separator = DiffusionSourceSeparator(**options).fit(views)
    assert separator.posterior.templates == ("galaxy",)
    samples = separator.sample(views["galaxy"])
    assert np.isfinite(samples.chi2).all()
    assert np.median(samples.chi2) < 3


def two_shapes(second):
    """Two sources of which one has another shape."""
    rng = np.random.default_rng(3)
    matrix = np.kron(np.eye(4), np.ones((1, int(np.prod(second)) // 4)))
    mixing = {"a": DenseMatrix(np.eye(4), (1, 2, 2), (1, 2, 2)),
              "b": DenseMatrix(matrix, second, (1, 2, 2))}  # fmt: skip
    view = {"data": rng.normal(0, 3, (12, 1, 2, 2)), "variance": 1.0, "mixing": mixing}
    return MultiViewDataset.from_arrays({"view": view})


@pytest.mark.parametrize("second", [(2, 2, 2), (1, 4, 2), (8,)], ids=str)
def test_sources_of_several_shapes_are_matched_by_moments(second, flat):
    """There is no amortized posterior of sources on different grids, or of vectors."""
    options = flat | {"posterior": "amortized", "n_em_iterations": 0}
    dataset = two_shapes(second)
    separator = DiffusionSourceSeparator(**options).fit(dataset)
    assert separator.posterior_ == {}
    assert separator.sample(dataset["view"]).samples["b"].shape == (1, 12, *second)


def test_vectors_are_matched_by_moments(views, flat):
    separator = DiffusionSourceSeparator(**flat | {"posterior": "amortized"}).fit(views)
    assert separator.posterior_ == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": ("a", "c")}, "dataset: holds the sources a, b; expected a, c"),
        ({"symmetries": {"c": ["flips"]}}, "symmetries: unknown source c; expected a, b"),
        (
            {"posterior": {"name": "amortized", "templates": ["c", "a"]}},
            "templates: unknown source c; expected a, b",
        ),
        (
            {"posterior": {"name": "amortized", "flux_factors": {"c": [1, 2]}}},
            "flux_factors: unknown source c; expected a, b",
        ),
        ({"symmetries": {"a": ["flips"]}}, r"symmetries\['a'\]: .* expected a square image"),
        ({"device": "abacus"}, "device: found 'abacus'"),
        ({"device": "meta:x"}, "device: found 'meta:x'"),
        ({"network": "unet"}, r"UNet: found a source of shape \(2,\), expected an image"),
        ({"n_em_iterations": {"a": 1}}, "n_em_iterations: found none of b, expected one for each"),
        ({"n_em_iterations": {"a": 1, "b": 1, "c": 2}}, "n_em_iterations: unknown source c; exp"),
    ],
)
def test_options_that_do_not_fit_the_dataset(views, options, message, monkeypatch, flat):
    monkeypatch.setattr(ExpectationMaximization, "run", None)  # no work is begun
    with pytest.raises(InputError, match=message):
        DiffusionSourceSeparator(**flat | options).fit(views)


# --- what draws ----------------------------------------


def test_iterations_of_each_source(views, flat):
    """A stage has as many as its source asks for, after the one that trains on the warm start."""
    options = flat | {
        "n_em_iterations": {"a": 0, "b": 2},
        "training": {"n_first_images": 20, "n_images": 20},
    }
    history = DiffusionSourceSeparator(**options).fit(views).history_
    assert list(history["source"]) == ["a", "b", "b", "b"]
    assert list(history["iteration"]) == [0, 0, 1, 2]


def test_moment_matching_takes_the_sampler_of_chains(fitted, views, draws_of, assert_same):
    """The ancestral sampler is DDIM with all of its noise, and no other."""
    separator, found = copy.copy(fitted), {}
    for sampler in ("ancestral", {"name": "ddim", "eta": 1.0}, "ddim", "heun"):
        separator.set_params(chains__sampler=sampler)
        found[str(sampler)] = draws_of(separator, views["second"])
    first, same, *others = found.values()
    assert_same(first, same)
    for number, other in enumerate(others):
        for before in (first, *others[:number]):
            assert (np.abs(other["a"] - before["a"]) > 1e-4).mean() > 0.9
    separator.set_params(chains__sampler="ancestral", chains__n_steps=5)
    assert (draws_of(separator, views["second"])["a"] != first["a"]).mean() > 0.9


def test_an_amortized_posterior_takes_a_sampler_of_its_own(
    amortized, whole_images, draws_of, assert_same
):
    separator, view = copy.copy(amortized), whole_images["galaxy"]
    separator.set_params(posterior__n_steps=4)
    expected = draws_of(separator, view)
    separator.set_params(chains__sampler="heun", chains__n_steps=9, chains__start=0.2)
    assert_same(draws_of(separator, view), expected)
    found = [expected]
    for options in (
        {"posterior__n_steps": 5},
        {"posterior__sampler__order": 1},
        {"posterior__sampler": "ancestral"},
    ):
        separator.set_params(posterior__n_steps=4, posterior__sampler="adams-bashforth")
        draws = draws_of(separator.set_params(**options), view)["galaxy"]
        for before in found:
            assert (np.abs(draws - before["galaxy"]) > 1e-6).mean() > 0.9
        found.append({"galaxy": draws})


def test_a_mixture_draws_the_exact_posterior(views, flat, tmp_path):
    """Mean and spread of draws, against those of all pairs of components by dense algebra.

    Of 1000 draws of 4 numbers in each of 4 observations: within 5 standard errors, of variances
    that have tails half as heavy again.
    """
    options = flat | {"posterior": "mixture", "n_em_iterations": 0}
    separator = DiffusionSourceSeparator(**options).fit(views)
    view, n = views["second"][:4], 1000
    drawn = separator.sample(view, n, seed=2)
    x = np.concatenate([drawn.samples[s].value for s in "ab"], axis=-1) / separator.noise_scale_
    a, b = mixtures_of(separator, tmp_path).values()
    y, A = view.data / separator.noise_scale_, np.hstack([np.eye(2), np.eye(2)])
    log_weights, means, covariances = [], [], []
    for k in range(len(a["weights"])):
        for m in range(len(b["weights"])):
            mean = np.concatenate([a["means"][k], b["means"][m]])
            prior = np.zeros((4, 4))
            prior[:2, :2], prior[2:, 2:] = a["covariances"][k], b["covariances"][m]
            S = A @ prior @ A.T + np.eye(2)
            gain = prior @ A.T @ np.linalg.inv(S)
            off = y - A @ mean
            chi2 = np.einsum("ni,ij,nj->n", off, np.linalg.inv(S), off)
            log_weights.append(
                np.log(a["weights"][k] * b["weights"][m]) - (chi2 + np.linalg.slogdet(S)[1]) / 2
            )
            means.append(mean + off @ gain.T)
            covariances.append(prior - gain @ A @ prior)
    weights = np.exp(np.array(log_weights) - np.max(log_weights, axis=0))
    weights /= weights.sum(axis=0)
    mean = np.einsum("kn,kni->ni", weights, means)
    variance = np.einsum("kn,kni->ni", weights, (means - mean) ** 2) + np.einsum(
        "kn,ki->ni", weights, np.diagonal(covariances, axis1=1, axis2=2)
    )
    error = np.sqrt(variance / n)
    assert np.abs((x.mean(axis=0) - mean) / error).max() < 5
    np.testing.assert_allclose(x.var(axis=0), variance, rtol=5 * np.sqrt(2 / n) * 1.5)


@pytest.mark.parametrize(
    "posterior",
    [
        {"name": "moment-matching"},
        {"name": "gibbs", "n_rounds": 3},
        {"name": "langevin", "n_repeats": 3},
    ],
    ids=lambda table: table["name"],
)
def test_given_priors_that_sources_share(
    posterior, fitted, model, views, tmp_path, draws_of, assert_same
):
    """Exchangeable sources, of a file's prior; each may be either, and their sum is observed."""
    given = {"one": (model, "b"), "two": (model, "b"), "a": (fitted, "a")}
    options = {"posterior": posterior, "chains": {"n_steps": 24}, "progress": False}
    separator = DiffusionSourceSeparator.from_priors(given, **options, device="cpu")
    assert separator.sources_ == ("one", "two", "a")
    assert separator.schedule == fitted.schedule
    total, eye = views["second"].data[:8] - 5, np.eye(2)
    mixing = {"one": eye, "two": eye}
    unit = fitted.unit_
    sums = {"data": total * unit, "variance": 0.25 * unit**2, "mixing": mixing}
    view = MultiViewDataset.from_arrays({"sums": sums})["sums"]
    samples = separator.sample(view, 16)
    assert np.median(samples.chi2) < 2
    one, two = (samples.samples[s].value for s in ("one", "two"))
    np.testing.assert_allclose(one.mean(), two.mean(), atol=1)
    # Where one is more the other is less.
    assert np.mean((one - one.mean(axis=0)) * (two - two.mean(axis=0))) < 0
    separator.write(tmp_path / "given.asdf")
    again = DiffusionSourceSeparator.read(tmp_path / "given.asdf", "cpu", progress=False)
    assert_same(draws_of(again, view), draws_of(separator, view))
    x = fitted.sample(n_samples=3)["b"]
    np.testing.assert_array_equal(separator.log_prob(x, "two"), fitted.log_prob(x, "b"))


def test_models_that_give_no_prior(fitted, fitted_images):
    for models, message in (
        ({"x": fitted}, r"models\['x'\]: found no source, expected which of a, b"),
        ({"x": (fitted, "c")}, r"models\['x'\]: found c, expected which of a, b"),
        ({"x": (fitted, "a"), "y": (fitted_images, "los")}, r"models\['y'\]: found noise_scale_"),
    ):
        with pytest.raises(InputError, match=message):
            DiffusionSourceSeparator.from_priors(models)


def under_conditions(dataset, widths, noise=1.0):
    """The same views, of images with a PSF of these widths, in pixels, and such noise."""
    for view, width in zip(dataset.values(), widths, strict=True):
        view.conditions = SurveyConditions(
            0.2 * u.arcsec, [noise] * view.unit, None if width is None else [0.2 * width] * u.arcsec
        )
    return dataset


def varied(amortizing, **variety):
    return amortizing | {"posterior": amortizing["posterior"] | {"variety": variety}}


def test_models_for_a_range_of_seeing(amortized, amortizing, image_views, tmp_path, draws_of):
    """They go on from those of one, tell their range, and refuse what is beyond it."""
    amortized.write(tmp_path / "narrow.asdf")
    known = under_conditions(image_views(masked=False), (2.5, 3.0))
    options = varied(amortizing, seeing=[2.0, 4.0], depth=[0.7, 1.4], masks=0.2, shapes=True)
    separator = DiffusionSourceSeparator(**options)
    begun = separator._begin_from(amortized, FittedState.before(known))
    old, new = (
        next(iter(state.priors.learned.values())) for state in (amortized._learned.state, begun)
    )
    features, sigma = torch.randn(3, 6, 2, 8, 8), torch.zeros(3)
    told = torch.cat([torch.full((3, 1, 2, 8, 8), 0.7), features], dim=1)
    # What it is told more makes no difference to begin with.
    torch.testing.assert_close(new.backbone(told, sigma), old.backbone(features, sigma))

    separator.fit(known, initial=tmp_path / "narrow.asdf")
    assert "for a PSF of FWHM 2 to 4 pixels" in separator.training_.lines()
    separator.write(tmp_path / "wide.asdf")
    again = DiffusionSourceSeparator.read(tmp_path / "wide.asdf", device="cpu", progress=False)
    assert again.training_.seeing == (2.0, 4.0)
    draws = {
        width: draws_of(again, under_conditions(image_views(masked=False), (2.5, width))["galaxy"])
        for width in (2.5, 3.9)
    }
    # The width is told, and makes a difference.
    assert np.abs(draws[2.5]["galaxy"] - draws[3.9]["galaxy"]).max() > 1e-3
    for width, message in ((1.9, "found a PSF of FWHM 1.90 pixels"), (None, "is not known")):
        with pytest.raises(InputError, match=f"view 'galaxy': .*{message}"):
            again.sample(under_conditions(image_views(masked=False), (2.5, width))["galaxy"])
    with pytest.raises(InputError, match="view 'galaxy': found no width of the PSF"):
        again.sample(image_views()["galaxy"])
    with pytest.raises(InputError, match="view 'galaxy': found no width of the PSF"):
        separator.fit(under_conditions(image_views(), (2.5, None)))


def test_the_ends_of_a_range_are_warned_of(caplog):
    conditions = SurveyConditions(0.2 * u.arcsec, [1.0] * UNIT, [0.402] * u.arcsec)
    for seeing, warns in (((2.0, 4.0), True), ((1.5, 4.0), False)):
        caplog.clear()
        check_conditions(conditions, conditions, label="mine", seeing=seeing)
        assert ("mine: a PSF of FWHM 2.01 pixels is near the end" in caplog.text) == warns


def test_fluxes_in_units_of_the_noise(imaging, image_views, tmp_path):
    """An image in counts of any zero point is separated as that in the model's own unit."""
    views = under_conditions(image_views(masked=False), (2.5, 2.5))
    options = imaging | {"in_units_of_noise": True}
    DiffusionSourceSeparator(**options).fit(views).write(tmp_path / "m.asdf")
    separator = DiffusionSourceSeparator.read(tmp_path / "m.asdf", device="cpu", progress=False)
    assert (separator.unit_, separator.noise_scale_) == (u.dimensionless_unscaled, 1.0)
    view = views["galaxy"]
    counts = View(
        view.data * 40,
        variance=view.variance * 1600,
        mixing=view.mixing,
        unit="adu",
        name="galaxy",
    )
    with pytest.raises(InputError, match="view 'galaxy': found no images of which the noise is"):
        separator.sample(counts)
    counts.conditions = SurveyConditions(0.2 * u.arcsec, [40] * u.adu, [0.5] * u.arcsec)
    draws = {v.unit: separator.sample(v, 2).samples["galaxy"] for v in (view, counts)}
    assert draws[u.adu].unit == u.adu
    np.testing.assert_allclose(draws[u.adu].value, 40 * draws[UNIT].value, rtol=1e-3, atol=0.02)
    # Parts of a view have its noise.
    assert separator._learned.scale(counts[:3]) == 40
