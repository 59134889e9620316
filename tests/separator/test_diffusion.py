"""The separator on problems of a few numbers, and all that can be wrong with its input."""

import copy
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from astropy import units as u

from astro_ddprism import DiffusionSourceSeparator, InputError, MultiViewDataset, View
from astro_ddprism.diffusion.learning import em as em_module
from astro_ddprism.diffusion.random import Rows
from astro_ddprism.diffusion.sampling.chains import JointSampler
from astro_ddprism.io.asdf import read_tree, write_tree
from astro_ddprism.mixing import (
    Amplitude,
    Composition,
    Convolution,
    CorrelatedNoise,
    DenseMatrix,
    Identity,
    Mask,
)
from astro_ddprism.separator import diffusion as module
from astro_ddprism.separator.options import check_options
from astro_ddprism.simulate.population import simulate_field
from astro_ddprism.survey.conditions import SurveyConditions

FLAT = {
    "device": "cpu",
    "progress": False,
    "network_options": {"width": 16, "depth": 1, "embedding": 8},
    "n_em_iterations": 1,
    "n_first_images": 640,
    "n_images": 320,
    "n_steps": 4,
    "batch_size": 16,
    "warm_start_iterations": 2,
}
IMAGES = FLAT | {
    "network_options": {"channels": [4, 8], "blocks": [1, 1], "embedding": 8},
    "n_first_images": 640,
    "n_images": 160,
}
UNIT = u.uJy
SHAPE = (1, 8, 8)


def flat_views(n=24, size=2, **held):
    """Views of sources with means of their own, in microjansky, of noise 0.5."""
    rng = np.random.default_rng(1)
    means = {"a": 2.0, "b": -3.0, "c": 5.0}
    data = {
        name: sum(rng.normal(means[s], 1, (n, size)) for s in sources)
        + rng.normal(0, 0.5, (n, size))
        for name, sources in held.items()
    }
    return MultiViewDataset.from_arrays(
        {
            name: {
                "data": data[name] * UNIT,
                "variance": 0.25 * UNIT**2,
                "mixing": {s: np.eye(size) for s in sources},
            }
            for name, sources in held.items()
        }
    )


def kernel():
    y, x = np.mgrid[-2:3, -2:3]
    kernel = np.exp(-(x**2 + y**2) / 2)
    return kernel / kernel.sum()


def image_views(psf=False, n=12):
    """Noise at random positions; a blob in the centre of galaxies; one masked pixel."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:8, :8] - 3.5
    blob = 5 * np.exp(-(x**2 + y**2) / 4)
    operator = Convolution(kernel(), SHAPE) if psf else Identity(SHAPE)
    mask = np.zeros((n, *SHAPE), dtype=bool)
    mask[:, 0, 1, 2] = True
    views = {"random": ("los",), "galaxy": ("los", "galaxy")}
    return MultiViewDataset.from_arrays(
        {
            name: {
                "data": rng.normal(len(sources) * blob - blob, 1.2, (n, *SHAPE)) * UNIT,
                "variance": 1.0 * UNIT**2,
                "mask": mask,
                "mixing": dict.fromkeys(sources, operator),
            }
            for name, sources in views.items()
        }
    )


def in_unit(view, unit):
    factor = UNIT.to(unit)
    return View(
        view.data * factor,
        variance=view.variance * factor**2,
        mask=view.mask,
        mixing=view.mixing,
        unit=unit,
        name=view.name,
    )


@pytest.fixture(scope="module")
def views():
    return flat_views(first="a", second="ab")


@pytest.fixture(scope="module")
def fitted(views):
    return DiffusionSourceSeparator(**FLAT).fit(views)


@pytest.fixture(scope="module")
def images():
    return image_views()


@pytest.fixture(scope="module")
def fitted_images(images):
    return DiffusionSourceSeparator(sources=("los", "galaxy"), **IMAGES).fit(images)


@pytest.fixture
def model(fitted, tmp_path):
    path = tmp_path / "model.asdf"
    fitted.write(path)
    return path


def draws_of(separator, view, **options):
    samples = separator.sample(view, 2, **options).samples
    return {source: x.value for source, x in samples.items()}


def assert_same(draws, others):
    assert list(draws) == list(others)
    for source, x in draws.items():
        np.testing.assert_array_equal(x, others[source])


# --- fit, sample, log_prob ----------------------------------------


@pytest.mark.parametrize(
    "held",
    [
        {"first": "a", "second": "ab", "third": "abc"},
        {"first": "ab", "second": "ab"},
        {"first": "a"},
    ],
    ids=lambda held: "-".join(held.values()),
)
def test_contrastive_and_mixed_views(held):
    dataset = flat_views(**held)
    separator = DiffusionSourceSeparator(**FLAT)
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


def test_sources_are_learned():
    """Medians and spreads of two sources, against those that made the data.

    Quantiles, since a small network's draws have tails. x_b is y_2 - y_1 on average, with a
    standard error of 0.1; the priors of a short fit of a small network are good to half a unit.
    """
    dataset = flat_views(n=256, first="a", second="ab")
    options = {
        "network_options": {"width": 64, "depth": 2, "embedding": 32},
        "n_first_images": 40_000,
        "n_images": 20_000,
        "train_batch_size": 128,
        "n_steps": 16,
        "batch_size": 256,
        "warm_start_iterations": 16,
    }
    separator = DiffusionSourceSeparator(**FLAT | options).fit(dataset)
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


def test_curves_are_learned():
    """Draws lie on a circle of 10 microjansky, those of the source's Gaussian anywhere inside.

    Draws of an observation are near its truth: half of them by less than twice the noise in each of
    three dimensions.
    """
    dataset, truth = circle_views(600)
    options = FLAT | {"n_em_iterations": 0, "n_steps": 16, "batch_size": 300}
    separator = DiffusionSourceSeparator(**options).fit(dataset)
    assert len(separator._state.mixtures["a"]) > 4
    posterior = separator.sample(dataset["view"], 1)
    x = posterior.samples["a"].value[0]
    rows = Rows.of(1, ids=range(300), device=torch.device("cpu"))
    gaussian = separator._state.gaussians["a"].sample(rows).numpy() * separator.noise_scale_
    for draws, near in ((x, True), (separator.sample(n_samples=300)["a"].value, True),
                        (gaussian, False)):  # fmt: skip
        off = np.hypot(np.hypot(draws[:, 0], draws[:, 1]) - 10, draws[:, 2])
        assert (np.median(off) < 1) == near
        assert (np.quantile(off, 0.9) < 5) == near
    assert np.median(np.linalg.norm(x - truth, axis=1)) < 2 * 0.5 * np.sqrt(3)
    assert posterior.chi2.mean() == pytest.approx(1, abs=0.3)


def test_vectors_start_from_mixtures_and_images_from_gaussians(fitted, fitted_images, model):
    assert set(fitted._state.mixtures) == set(fitted._state.gaussians) == {"a", "b"}
    assert fitted_images._state.mixtures == {}
    assert set(fitted_images._state.gaussians) == {"los", "galaxy"}
    read = DiffusionSourceSeparator.read(model)._state
    for source, mixture in fitted._state.mixtures.items():
        for name in ("weights", "means", "covariances"):
            assert torch.equal(getattr(read.mixtures[source], name), getattr(mixture, name))


@pytest.mark.parametrize("n", [1, 2, 11])
def test_a_handful_of_observations(n):
    dataset = flat_views(n=n, first="a", second="ab")
    separator = DiffusionSourceSeparator(**FLAT).fit(dataset)
    assert separator.sample(dataset["second"], 2).samples["b"].shape == (2, n, 2)


def test_candidates_are_drawn_when_asked_for(fitted, views, monkeypatch):
    """All observations are drawn as often as there are candidates, of which each keeps one."""
    again = DiffusionSourceSeparator(**FLAT, n_candidates=3)
    vars(again).update({k: v for k, v in vars(fitted).items() if k.endswith("_") or k[0] == "_"})
    draws = []
    draw = JointSampler._draw
    monkeypatch.setattr(JointSampler, "_draw", lambda *args: draws.append(1) or draw(*args))
    again.max_chi2 = 1e9
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


def test_correlated_noise(images):
    """From the warm start to the samples; fits know one noise from another."""
    views = MultiViewDataset({name: with_correlated_noise(v) for name, v in images.items()})
    separator = DiffusionSourceSeparator(**IMAGES).fit(views)
    samples = separator.sample(views["galaxy"], n_samples=2)
    assert np.isfinite(samples.chi2).all()
    assert np.median(samples.chi2) < 3
    weaker = {name: with_correlated_noise(v, 0.3) for name, v in images.items()}
    prints = {separator._fingerprint(v) for v in (views, images, MultiViewDataset(weaker))}
    assert len(prints) == 3


def test_bfloat16_networks(views):
    separator = DiffusionSourceSeparator(**FLAT, precision="bfloat16").fit(views)
    assert separator.sample(n_samples=2)["a"].value.dtype == np.float32
    assert np.isfinite(separator.history_["loss"]).all()


@pytest.mark.parametrize("solver", ["dense", "cg"])
def test_every_solver_by_its_name(views, images, solver):
    dataset, options = (views, FLAT) if solver == "dense" else (images, IMAGES)
    options = options | {"n_em_iterations": 0, "solver": solver}
    chi2 = (
        DiffusionSourceSeparator(**options).fit(dataset).sample(dataset[list(dataset)[-1]], 2).chi2
    )
    assert np.isfinite(chi2).all()
    assert np.median(chi2) < 2


def test_a_seed_repeats_a_run(fitted, views):
    torch.manual_seed(99)  # of no matter
    again = DiffusionSourceSeparator(**FLAT).fit(views)
    other = DiffusionSourceSeparator(**FLAT, seed=1).fit(views)
    for source, x in fitted.sample(n_samples=4).items():
        np.testing.assert_array_equal(x, again.sample(n_samples=4)[source])
        assert (x != other.sample(n_samples=4, seed=0)[source]).all()
    assert_same(draws_of(fitted, views["second"]), draws_of(again, views["second"]))
    first, second = (draws_of(fitted, views["second"], seed=seed) for seed in (1, 2))
    assert (first["a"] != second["a"]).all()


def test_samples_do_not_depend_on_what_was_drawn_before(fitted, views):
    before = draws_of(fitted, views["second"])
    fitted.sample(n_samples=3)
    assert_same(draws_of(fitted, views["second"]), before)


@pytest.mark.parametrize("posterior", ["fitted_images", "amortized"])
@pytest.mark.parametrize("candidates", [{}, {"n_candidates": 2, "n_redraws": 2, "max_chi2": 1.0}])
def test_draws_depend_on_seed_observation_and_sample_alone(posterior, candidates, images, request):
    """Alone, in batches of any size, in any order and number, on two threads: to 1e-4 of the noise.

    Its ``ids`` say which observation one is.
    """
    separator, view = copy.copy(request.getfixturevalue(posterior)), images["galaxy"][:5]
    vars(separator).update(candidates)
    expected = draws_of(separator, view)

    def assert_close(found, where=slice(None)):
        for source, x in expected.items():
            tolerance = 1e-4 * separator.noise_scale_
            np.testing.assert_allclose(found[source], x[:, where], rtol=0, atol=tolerance)

    for i in range(len(view)):
        assert_close(draws_of(separator, view[[i]]), [i])
    more = separator.sample(view[[3, 0, 4]], 3).samples
    assert_close({source: x.value[:2] for source, x in more.items()}, [3, 0, 4])
    for batch_size, threads in ((1, 1), (7, 2), (64, 2)):
        separator.batch_size = batch_size
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            assert_close(draws_of(separator, view))
        finally:
            torch.set_num_threads(before)


def test_more_prior_samples_begin_with_the_fewer(fitted_images):
    separator = copy.copy(fitted_images)
    few, separator.batch_size = separator.sample(n_samples=3), 5
    for source, x in separator.sample(n_samples=12).items():
        tolerance = 1e-4 * separator.noise_scale_
        np.testing.assert_allclose(x[:3].value, few[source].value, rtol=0, atol=tolerance)


def test_other_units(fitted, views):
    """The same observations in another unit give the same fluxes."""
    view = in_unit(views["second"], u.nJy)
    expected = fitted.sample(views["second"], 2)
    found = fitted.sample(view, 2)
    for source, x in found.samples.items():
        assert x.unit == u.nJy
        np.testing.assert_allclose(x.to_value(UNIT), expected.samples[source].value, rtol=1e-3,
                                   atol=1e-3)  # fmt: skip
    x = expected.samples["a"][0]
    same = fitted.log_prob(x.to(u.nJy), "a"), fitted.log_prob(x.value, "a")
    np.testing.assert_allclose(*same, rtol=1e-4)


def test_log_prob_is_a_density_in_the_unit(fitted):
    """Integrated over the plane of fluxes it is one."""
    grid = np.linspace(-6, 10, 17)
    x = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    density = np.exp(fitted.log_prob(x * UNIT, "a"))
    assert density.sum() * (grid[1] - grid[0]) ** 2 == pytest.approx(1, abs=0.1)


def test_posterior_samples_know_their_origin(fitted, model, views):
    assert set(fitted.sample(views["first"]).provenance) >= {"version", "seed"}
    provenance = DiffusionSourceSeparator.read(model).sample(views["first"], seed=7).provenance
    assert provenance["model"] == "model.asdf"
    assert len(provenance["sha256"]) == 64
    assert provenance["seed"] == 7


# --- files ----------------------------------------


def test_read_what_was_written(fitted, model, views):
    again = DiffusionSourceSeparator.read(model, device="cpu", progress=False)
    assert again.config == fitted.config
    # Whoever wrote it did without a progress bar; that is no part of a model.
    assert DiffusionSourceSeparator.read(model).progress
    assert again.sources_ == fitted.sources_
    assert again.source_shapes_ == fitted.source_shapes_
    assert (again.unit_, again.noise_scale_) == (fitted.unit_, fitted.noise_scale_)
    assert list(again.history_.columns) == list(fitted.history_.columns)
    assert (again.history_ == fitted.history_).all()
    assert_same(draws_of(again, views["second"]), draws_of(fitted, views["second"]))
    x = fitted.sample(n_samples=4)
    np.testing.assert_array_equal(again.sample(n_samples=4)["b"], x["b"])
    np.testing.assert_array_equal(again.log_prob(x["b"], "b"), fitted.log_prob(x["b"], "b"))


def test_read_images(fitted_images, images, tmp_path):
    fitted_images.write(tmp_path / "model.asdf")
    again = DiffusionSourceSeparator.read(tmp_path / "model.asdf")
    assert again.sources == ("los", "galaxy")
    assert_same(draws_of(again, images["galaxy"]), draws_of(fitted_images, images["galaxy"]))


def test_a_file_is_replaced_only_when_asked_for(fitted, model):
    with pytest.raises(InputError, match=r"model\.asdf"):
        fitted.write(model)
    fitted.write(model, overwrite=True)


def test_config_makes_a_separator_of_the_same_parameters():
    config = {**FLAT, "sources": ["a", "b"], "symmetries": {"a": ["flips"]}, "max_chi2": 3}
    separator = DiffusionSourceSeparator.from_config(config)
    assert DiffusionSourceSeparator.from_config(separator.config).config == separator.config
    assert separator.config["max_chi2"] == 3


# --- resuming ----------------------------------------


class Killed(Exception):  # noqa: N818
    """In place of a signal."""


def killing(monkeypatch, n, before=False):
    """Make the n-th write of a checkpoint the last, done or not."""
    count = 0

    def write(*args, **options):
        nonlocal count
        count += 1
        if count == n and before:
            raise Killed
        write_tree(*args, **options)
        if count == n:
            raise Killed

    monkeypatch.setattr(module, "write_tree", write)


@pytest.mark.parametrize("iteration", [1, 2, 3, 4])
@pytest.mark.parametrize("before", [False, True], ids=["written", "not written"])
def test_resumed_fit_ends_as_an_unbroken_one(
    fitted, views, tmp_path, monkeypatch, iteration, before
):
    checkpoint = tmp_path / "fit.checkpoint"
    killing(monkeypatch, iteration, before)
    with pytest.raises(Killed):
        DiffusionSourceSeparator(**FLAT).fit(views, checkpoint=checkpoint)
    kept = iteration - before
    assert checkpoint.exists() == (kept > 0)
    if not kept:
        return
    assert len(dict(read_tree(checkpoint, "model")["em"]["history"])["loss"]) == kept
    killing(monkeypatch, 0)
    again = DiffusionSourceSeparator(**FLAT)
    again.fit(views, checkpoint=checkpoint, resume=True)
    for name in ("stage", "source", "loss", "chi2", "power", "n_redrawn"):
        assert list(again.history_[name]) == list(fitted.history_[name])
    assert again.sources_ == fitted.sources_
    for source, mixture in fitted._state.mixtures.items():
        assert torch.equal(again._state.mixtures[source].covariances, mixture.covariances)
    for source, denoiser in fitted._state.denoisers.items():
        found = again._state.denoisers[source].state_dict()
        for name, weights in denoiser.state_dict().items():
            assert torch.equal(found[name], weights)
    assert_same(draws_of(again, views["second"]), draws_of(fitted, views["second"]))
    assert_same(again.sample(n_samples=3), fitted.sample(n_samples=3))


def test_resumed_fit_of_images(fitted_images, images, tmp_path, monkeypatch):
    checkpoint = tmp_path / "fit.checkpoint"
    options = {**IMAGES, "sources": ("los", "galaxy")}
    for _ in range(4):  # killed after each EM iteration
        killing(monkeypatch, 1)
        with pytest.raises(Killed):
            DiffusionSourceSeparator(**options).fit(
                images, checkpoint=checkpoint, resume=checkpoint.exists()
            )
    again = DiffusionSourceSeparator(**options).fit(images, checkpoint=checkpoint, resume=True)
    assert_same(draws_of(again, images["galaxy"]), draws_of(fitted_images, images["galaxy"]))
    assert DiffusionSourceSeparator.read(checkpoint).sources_ == ("los", "galaxy")  # it has ended


def test_checkpoints_that_cannot_be_used(fitted, views, tmp_path, monkeypatch):
    checkpoint = tmp_path / "fit.checkpoint"
    with pytest.raises(InputError, match="resume: no checkpoint"):
        DiffusionSourceSeparator(**FLAT).fit(views, resume=True)
    with pytest.raises(InputError, match=r"fit\.checkpoint: cannot be read"):
        DiffusionSourceSeparator(**FLAT).fit(views, checkpoint=checkpoint, resume=True)
    checkpoint.write_text("nothing")
    with pytest.raises(InputError, match=r"fit\.checkpoint: .*expected an ASDF file"):
        DiffusionSourceSeparator(**FLAT).fit(views, checkpoint=checkpoint, resume=True)
    killing(monkeypatch, 1)
    with pytest.raises(Killed):
        DiffusionSourceSeparator(**FLAT).fit(views, checkpoint=checkpoint)
    masked = View(
        views["second"].data,
        variance=views["second"].variance,
        mixing=views["second"].mixing,
        mask=np.arange(48).reshape(24, 2) == 7,
        unit=UNIT,
    )
    stretched = {s: Amplitude(2.0, (2,)) for s in "ab"}
    mixed = View(views["second"].data, variance=0.25, mixing=stretched, unit=UNIT)
    for dataset, options in (
        (flat_views(n=23, first="a", second="ab"), {}),
        (MultiViewDataset({"first": views["first"], "second": masked}), {}),
        (MultiViewDataset({"first": views["first"], "second": mixed}), {}),
        (views, {"n_steps": 5}),
        (views, {"seed": 1}),
    ):
        separator = DiffusionSourceSeparator(**FLAT | options)
        with pytest.raises(InputError, match=r"fit\.checkpoint: .* other data or with another"):
            separator.fit(dataset, checkpoint=checkpoint, resume=True)


@pytest.mark.parametrize("iteration", [1, 2, 3])
def test_an_unfinished_fit_is_no_model(views, tmp_path, monkeypatch, iteration):
    checkpoint = tmp_path / "fit.checkpoint"
    killing(monkeypatch, iteration)
    with pytest.raises(Killed):
        DiffusionSourceSeparator(**FLAT).fit(views, checkpoint=checkpoint)
    with pytest.raises(InputError, match=r"fit\.checkpoint: an unfinished fit, still learning .*b"):
        DiffusionSourceSeparator.read(checkpoint)


# --- fits that do not end ----------------------------------------


def known(separator):
    """Another separator that has learned the same, for a test to spoil."""
    return copy.copy(separator)


def brighter(dataset):
    """The same in another unit, 100 times as bright."""
    return MultiViewDataset(
        {
            name: View(100 * v.data, variance=1e4 * v.variance, mixing=v.mixing, unit=UNIT)
            for name, v in dataset.items()
        }
    )


@pytest.mark.parametrize("reason", ["initial", "checkpoint", "network", "dataset"])
def test_a_refused_fit_leaves_what_was_learned(fitted, views, tmp_path, monkeypatch, reason):
    monkeypatch.setattr(module.ExpectationMaximization, "run", None)  # no work is begun
    separator, dataset, options = known(fitted), brighter(views), {}
    if reason == "initial":
        options = {"initial": DiffusionSourceSeparator(**FLAT)}
    elif reason == "checkpoint":
        options = {"checkpoint": tmp_path / "absent", "resume": True}
    elif reason == "network":
        separator.network_options = {"hight": 3}
    else:
        separator.sources = ("a", "c")
    with pytest.raises(InputError):
        separator.fit(dataset, **options)
    assert separator.noise_scale_ == fitted.noise_scale_
    assert separator.training_ == fitted.training_
    assert_same(separator.sample(n_samples=3), fitted.sample(n_samples=3))
    assert_same(draws_of(separator, views["second"]), draws_of(fitted, views["second"]))


@pytest.mark.parametrize("iteration", [1, 3])
def test_an_interrupted_fit_leaves_what_was_learned(
    fitted, views, tmp_path, monkeypatch, iteration
):
    killing(monkeypatch, iteration)
    separator, new = known(fitted), DiffusionSourceSeparator(**FLAT)
    with pytest.raises(Killed):
        separator.fit(brighter(views), checkpoint=tmp_path / "fit.checkpoint")
    assert len(separator.history_) == len(fitted.history_)
    assert_same(separator.sample(n_samples=3), fitted.sample(n_samples=3))
    killing(monkeypatch, iteration)
    with pytest.raises(Killed):
        new.fit(views, checkpoint=tmp_path / "fit.checkpoint")
    with pytest.raises(InputError, match="learned nothing yet"):
        new.sample(n_samples=3)
    assert not hasattr(new, "sources_")


def test_a_new_fit_forgets_the_file(model, views):
    """Draws name the file whose model they are from."""
    separator = DiffusionSourceSeparator.read(model, device="cpu", progress=False)
    assert "model" in separator.sample(views["first"]).provenance
    assert "model" not in separator.fit(views).sample(views["first"]).provenance


def test_a_training_that_fails_leaves_what_was_learned(fitted, views, tmp_path, monkeypatch):
    """And the checkpoint of the last EM iteration that went well."""
    train = em_module.train

    def spoiled(denoiser, draw, **options):
        if "'b'" in options["label"] and "iteration 1" in options["label"]:
            return train(denoiser, lambda n: (draw(n)[0] * np.nan,), **options)
        return train(denoiser, draw, **options)

    monkeypatch.setattr(em_module, "train", spoiled)
    separator, checkpoint = known(fitted), tmp_path / "fit.checkpoint"
    with pytest.raises(InputError, match="the source 'b', EM iteration 1: found a loss of nan"):
        separator.fit(brighter(views), checkpoint=checkpoint)
    assert_same(separator.sample(n_samples=3), fitted.sample(n_samples=3))
    weights = read_tree(checkpoint, "model")["em"]["denoisers"]["b"]
    assert all(np.isfinite(value).all() for value in weights.values())


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
def test_noise_scales_are_those_of_the_source(gain):
    """Where a source is a thousand times as strong as its observation, so is what hides it."""
    options = FLAT | {"n_em_iterations": 0, "batch_size": 256}
    separator = DiffusionSourceSeparator(**options).fit(clusters(a=gain))
    assert separator._state.sigma_max["a"] == pytest.approx(10 * 16 / gain, rel=0.02)
    assert share_at_corners(gain * separator.sample(n_samples=400)["a"].value) > 0.98


def test_sources_of_different_noise_scales_are_separated(tmp_path):
    """Beyond its own noise scales, a source of a joint chain is a Gaussian."""
    dataset = clusters(a=1.0, b=1e-3)
    options = FLAT | {"n_em_iterations": 0, "batch_size": 256, "chain_start": 1.0, "n_steps": 32}
    separator = DiffusionSourceSeparator(**options).fit(dataset)
    tops = separator._state.sigma_max
    assert tops["b"] > 500 * tops["a"]
    separator.write(tmp_path / "model.asdf")
    again = DiffusionSourceSeparator.read(tmp_path / "model.asdf", device="cpu", progress=False)
    assert again._state.sigma_max == tops
    draws = draws_of(again, dataset["second"])
    assert_same(draws, draws_of(separator, dataset["second"]))
    for source, gain in {"a": 1.0, "b": 1e-3}.items():
        assert share_at_corners(gain * draws[source]) > 0.9
    assert np.median(again.sample(dataset["second"], 2).chi2) < 2


def test_files_with_one_noise_scale_for_all_sources(fitted, views, tmp_path):
    tree = fitted._tree(fitted._learned)
    (top,) = set(tree["em"].pop("sigma_max").values())
    write_tree(tmp_path / "old.asdf", tree | {"sigma_max": top})
    again = DiffusionSourceSeparator.read(tmp_path / "old.asdf", device="cpu", progress=False)
    assert again._state.sigma_max == {"a": top, "b": top}
    assert_same(draws_of(again, views["second"]), draws_of(fitted, views["second"]))
    assert_same(again.sample(n_samples=3), fitted.sample(n_samples=3))


# --- what a model was trained on, and models to start from ----------------------------------------


CONDITIONS = SurveyConditions(
    0.34 * u.arcsec, [1.0] * UNIT, [0.8] * u.arcsec, bands=("r",), images=("r.fits",)
)


def with_conditions(dataset, **changes):
    views = {name: copy.copy(view) for name, view in dataset.items()}
    for view in views.values():
        view.conditions = replace(CONDITIONS, **changes)
    return MultiViewDataset(views)


def test_a_model_knows_what_it_was_trained_on(images, tmp_path, caplog):
    options = IMAGES | {"n_em_iterations": 0, "n_first_images": 20}
    separator = DiffusionSourceSeparator(**options).fit(with_conditions(images))
    separator.write(tmp_path / "model.asdf")
    for known in (separator, DiffusionSourceSeparator.read(tmp_path / "model.asdf")):
        assert known.training_.n_observations == {"random": 12, "galaxy": 12}
        assert known.training_.conditions[""].state() == CONDITIONS.state()
        known.sample(with_conditions(images)["galaxy"])
        assert caplog.records == []
        other = with_conditions(images, pixel_scale=0.2 * u.arcsec)["galaxy"]
        with pytest.raises(InputError, match=r"'galaxy': found pixels of 0\.200 arcsec, expected"):
            known.sample(other)
        with pytest.raises(InputError, match=r"found a PSF of FWHM 1\.20 arcsec, expected 0\.80"):
            known.sample(with_conditions(images, psf_fwhm=[1.2] * u.arcsec)["galaxy"])
        known.sample(images["galaxy"])
        assert "not known" in caplog.text
        caplog.clear()


def test_the_psf_of_light_before_it_may_be_any(tmp_path):
    options = IMAGES | {"n_em_iterations": 0, "n_first_images": 20}
    dataset = image_views(psf=True)
    separator = DiffusionSourceSeparator(**options).fit(with_conditions(dataset))
    separator.sample(with_conditions(dataset, psf_fwhm=[1.2] * u.arcsec)["galaxy"])
    with pytest.raises(InputError, match="found pixels"):
        separator.sample(with_conditions(dataset, pixel_scale=1 * u.arcsec)["galaxy"])


def test_models_that_do_not_tell_what_they_were_trained_on(fitted, views, tmp_path):
    """Files of older versions have no such entry, and fit any view."""
    tree = fitted._tree(fitted._learned)
    del tree["training"]
    write_tree(tmp_path / "old.asdf", tree)
    again = DiffusionSourceSeparator.read(tmp_path / "old.asdf")
    assert again.training_.conditions == {}
    assert_same(draws_of(again, views["second"]), draws_of(fitted, views["second"]))


def test_maggies_are_those_of_the_ab_system(fitted, views):
    """A nanomaggie is 3.6308 microjansky."""
    view = views["second"]
    data, variance = view.data / 3.630781, view.variance / 3.630781**2
    view = View(data, variance=variance, mixing=view.mixing, unit="nmgy", name="second")
    found, expected = (fitted.sample(v, 2).samples["a"] for v in (view, views["second"]))
    assert found.unit == u.nmgy
    np.testing.assert_allclose(3.630781 * found.value, expected.value, rtol=1e-3, atol=1e-3)
    same = fitted.log_prob(found[0], "a"), fitted.log_prob(3.630781 * found[0].value, "a")
    np.testing.assert_allclose(*same, rtol=1e-4)


def test_half_precision(fitted_images, images, tmp_path):
    """Rounded weights give nearly the same denoiser, in a file that is about half as long."""
    sizes = {}
    for weights in ("float32", "float16"):
        path = tmp_path / f"{weights}.asdf"
        fitted_images.write(path, weights=weights)
        tree = read_tree(path, "model")
        assert tree["em"]["draws"] == tree["em"]["samples"] == {}
        arrays = tree["em"]["denoisers"]["galaxy"]
        sizes[weights] = sum(a.nbytes for a in arrays.values())
        assert {str(a.dtype) for a in arrays.values() if a.ndim} == {weights}
    assert sizes["float16"] < 0.51 * sizes["float32"]
    half = DiffusionSourceSeparator.read(tmp_path / "float16.asdf", device="cpu")
    x = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for t in (0.1, 0.5, 0.9):
            first, second = (
                s._state.denoisers["galaxy"](x, torch.tensor(t)).mean for s in (fitted_images, half)
            )
            assert (first - second).abs().max() < 0.01 * first.abs().max()
    with pytest.raises(InputError, match="weights: found 'int8', expected float32 or float16"):
        fitted_images.write(tmp_path / "small.asdf", weights="int8")


def test_fine_tuning_starts_from_the_models_networks(fitted, model, views, monkeypatch):
    """No warm start, no first training: only later ones, of the model's own weights."""
    trained = []
    train = em_module.train

    def remember(denoiser, samples, **options):
        weights = {name: value.clone() for name, value in denoiser.state_dict().items()}
        trained.append((weights, options["n_images"]))
        return train(denoiser, samples, **options)

    monkeypatch.setattr(em_module, "train", remember)
    monkeypatch.setattr(em_module.ExpectationMaximization, "_warm_start", None)
    other = flat_views(n=20, first="a", second="ab")
    tuned = DiffusionSourceSeparator(**FLAT).fit(other, initial=model)
    assert [n for _, n in trained] == [FLAT["n_images"]] * 2
    for (weights, _), source in zip(trained, "ab", strict=True):
        for name, value in fitted._state.denoisers[source].state_dict().items():
            assert torch.equal(weights[name], value)
    assert list(tuned.history_["source"]) == ["a", "b"]
    assert tuned.noise_scale_ == fitted.noise_scale_
    assert tuned.training_.initial == "model.asdf"
    assert tuned.training_.n_observations == {"first": 20, "second": 20}
    assert np.median(tuned.sample(other["second"], 2).chi2) < 2
    # The model itself is as it was, and may be given as it is.
    again = DiffusionSourceSeparator(**FLAT).fit(other, initial=fitted)
    assert_same(draws_of(again, other["second"]), draws_of(tuned, other["second"]))
    assert fitted.history_["iteration"].max() == 1


def test_fine_tuning_on_images(fitted_images):
    dataset = image_views(n=9)
    tuned = DiffusionSourceSeparator(**IMAGES).fit(dataset, initial=fitted_images)
    assert list(tuned.history_["iteration"]) == [1, 1]
    assert np.median(tuned.sample(dataset["galaxy"], 2).chi2) < 2


def test_fine_tuning_in_another_unit(fitted, views):
    """The flux that is 1 inside stays the model's; where units do not compare, the noise does."""
    in_nanojansky = MultiViewDataset({name: in_unit(v, u.nJy) for name, v in views.items()})
    tuned = DiffusionSourceSeparator(**FLAT).fit(in_nanojansky, initial=fitted)
    assert tuned.unit_ == u.nJy
    assert tuned.noise_scale_ == pytest.approx(1000 * fitted.noise_scale_)
    counts = {
        name: View(10 * v.data, variance=100 * v.variance, mixing=v.mixing, unit="adu")
        for name, v in views.items()
    }
    tuned = DiffusionSourceSeparator(**FLAT).fit(MultiViewDataset(counts), initial=fitted)
    assert tuned.noise_scale_ == pytest.approx(10 * fitted.noise_scale_)


def test_models_that_a_fit_cannot_start_from(fitted, views, monkeypatch):
    monkeypatch.setattr(module.ExpectationMaximization, "run", None)  # no work is begun
    for dataset, options, message in (
        (flat_views(first="a"), {}, "found sources .*'b'.*, expected .*'a'"),
        (flat_views(size=3, first="a", second="ab"), {}, r"found shapes .*\(2,\).*, expected"),
        (views, {"network_options": {"width": 8}}, "found network .*16.*, expected .*8"),
        (views, {"n_em_iterations": 0}, "n_em_iterations: found 0 with a model to start from"),
    ):
        with pytest.raises(InputError, match=message):
            DiffusionSourceSeparator(**FLAT | options).fit(dataset, initial=fitted)
    with pytest.raises(InputError, match="learned nothing yet"):
        DiffusionSourceSeparator(**FLAT).fit(views, initial=DiffusionSourceSeparator(**FLAT))


def test_resumed_fine_tuning(fitted, views, tmp_path, monkeypatch):
    """Killed after the first stage, when all networks are there, it is no model yet."""
    checkpoint = tmp_path / "fit.checkpoint"
    whole = DiffusionSourceSeparator(**FLAT).fit(views, initial=fitted)
    killing(monkeypatch, 1)
    with pytest.raises(Killed):
        DiffusionSourceSeparator(**FLAT).fit(views, initial=fitted, checkpoint=checkpoint)
    killing(monkeypatch, 0)
    with pytest.raises(InputError, match=r"fit\.checkpoint: an unfinished fit, still learning b"):
        DiffusionSourceSeparator.read(checkpoint)
    with pytest.raises(InputError, match="other data or with another"):
        DiffusionSourceSeparator(**FLAT).fit(views, checkpoint=checkpoint, resume=True)
    again = DiffusionSourceSeparator(**FLAT)
    again.fit(views, initial=fitted, checkpoint=checkpoint, resume=True)
    assert_same(draws_of(again, views["second"]), draws_of(whole, views["second"]))


# --- amortized posterior ----------------------------------------

AMORTIZED = IMAGES | {
    "posterior": "amortized",
    "posterior_options": {"channels": [4], "blocks": [1], "embedding": 8},
    "n_posterior_images": 960,
    "flux_factors": {"galaxy": [0.5, 2]},
    "max_chi2": 5.0,
}


@pytest.fixture(scope="module")
def amortized(images):
    return DiffusionSourceSeparator(**AMORTIZED).fit(images)


def test_an_amortized_posterior(amortized, images, monkeypatch):
    """Its network draws; where only one source is seen, the prior does as ever."""
    assert list(amortized._state.posteriors) == [("los", "galaxy")]
    assert set(amortized._state.denoisers) == {"los", "galaxy"}
    posterior = amortized._state.posteriors["los", "galaxy"]
    assert posterior.schedule.sigma_max == 10 * max(amortized._state.sigma_max.values())
    assert list(amortized.history_["iteration"]) == [0, 1, 0, 1]
    chains = []
    for name in ("_run", "_run_amortized"):
        run = getattr(JointSampler, name)
        monkeypatch.setattr(
            JointSampler,
            name,
            lambda *args, run=run, name=name: chains.append(name) or run(*args),
        )
    samples = amortized.sample(images["galaxy"], n_samples=2)
    assert set(chains) == {"_run_amortized"}
    chains.clear()
    amortized.sample(images["random"])
    assert set(chains) == {"_run"}
    for x in samples.samples.values():
        assert x.shape == (2, 12, *SHAPE)
        assert np.isfinite(x).all()
    assert np.median(samples.chi2) < 2
    # The blob is the galaxy's: what the random view never holds, and only the network decides.
    total = {s: x.value.sum(axis=(-2, -1)).mean() for s, x in samples.samples.items()}
    assert total["galaxy"] > total["los"]


def test_read_an_amortized_posterior(amortized, images, tmp_path):
    amortized.write(tmp_path / "model.asdf")
    again = DiffusionSourceSeparator.read(tmp_path / "model.asdf", device="cpu", progress=False)
    assert again.config == amortized.config
    assert_same(draws_of(again, images["galaxy"]), draws_of(amortized, images["galaxy"]))
    assert_same(again.sample(n_samples=2), amortized.sample(n_samples=2))


def test_resumed_fit_of_an_amortized_posterior(amortized, images, tmp_path, monkeypatch):
    """Killed between the two M-steps of the posterior's stage."""
    checkpoint = tmp_path / "fit.checkpoint"
    killing(monkeypatch, 3)
    with pytest.raises(Killed):
        DiffusionSourceSeparator(**AMORTIZED).fit(images, checkpoint=checkpoint)
    with pytest.raises(InputError, match="unfinished fit, still learning galaxy"):
        DiffusionSourceSeparator.read(checkpoint)
    killing(monkeypatch, 0)
    again = DiffusionSourceSeparator(**AMORTIZED)
    again.fit(images, checkpoint=checkpoint, resume=True)
    weights = amortized._state.posteriors["los", "galaxy"].state_dict()
    found = again._state.posteriors["los", "galaxy"].state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert_same(draws_of(again, images["galaxy"]), draws_of(amortized, images["galaxy"]))


def test_fine_tuning_with_and_without_an_amortized_posterior(amortized, fitted_images, images):
    """A posterior goes on where both have one, is left aside, or begins."""
    for initial, options, trained in (
        (amortized, AMORTIZED, True),
        (amortized, IMAGES, False),
        (fitted_images, AMORTIZED | {"network_options": IMAGES["network_options"]}, True),
    ):
        tuned = DiffusionSourceSeparator(**options).fit(images, initial=initial)
        assert bool(tuned._state.posteriors) == trained
        assert list(tuned.history_["iteration"]) == [1, 1]
        assert np.isfinite(tuned.sample(images["galaxy"]).chi2).all()
    other = AMORTIZED | {"posterior_options": {"channels": [8], "blocks": [1]}}
    with pytest.raises(InputError, match=r"initial: .* found network of the posterior .*channels"):
        DiffusionSourceSeparator(**other).fit(images, initial=amortized)


def test_templates_of_a_simulated_field():
    """From an image to samples: a model whose galaxies began as symmetric parts of the light."""
    field = simulate_field((200, 200), seed=6)
    views = MultiViewDataset.from_image(field.image, size=16, n_random=30, crowded_fraction=0.5)
    options = AMORTIZED | {"templates": ["galaxy"], "n_em_iterations": 0}
    separator = DiffusionSourceSeparator(**options).fit(views)
    assert separator.templates == ("galaxy",)
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
def test_sources_of_several_shapes_are_matched_by_moments(second):
    """There is no amortized posterior of sources on different grids, or of vectors."""
    options = FLAT | {"network": "mlp", "posterior": "amortized", "n_em_iterations": 0}
    dataset = two_shapes(second)
    separator = DiffusionSourceSeparator(**options).fit(dataset)
    assert separator._state.posteriors == {}
    assert separator.sample(dataset["view"]).samples["b"].shape == (1, 12, *second)


def test_vectors_are_matched_by_moments(views):
    separator = DiffusionSourceSeparator(**FLAT | {"posterior": "amortized"}).fit(views)
    assert separator._state.posteriors == {}


def test_an_amortized_posterior_that_cannot_be_built(images, monkeypatch):
    monkeypatch.setattr(module.ExpectationMaximization, "run", None)  # no work is begun
    label = r"no unet for the posterior of los, galaxy of shape \(2, 8, 8\)"
    other = {"posterior_options": {}, "network": "mlp", "network_options": {"width": 8}}
    for options, message in (
        ({"posterior_options": {"hight": 3}}, f"posterior_options: {label} with .*hight"),
        (other, f"network_options: {label} with .*width"),
    ):
        with pytest.raises(InputError, match=message):
            DiffusionSourceSeparator(**AMORTIZED | options).fit(images)


# --- input that cannot be used ----------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "transformer"}, "network: found 'transformer', expected one of None, unet"),
        ({"sampler": "magic"}, "sampler: found 'magic', expected one of adams-bashforth"),
        ({"solver": "qr"}, "solver: found 'qr', expected one of "),
        ({"precision": "float16"}, "precision: found 'float16', expected one of float32"),
        ({"n_steps": 0}, "n_steps: found 0, expected a positive"),
        ({"n_steps": 2.5}, "n_steps: found 2.5, expected an integer"),
        ({"n_steps": True}, "n_steps: found True, expected an integer"),
        ({"n_candidates": 0}, "n_candidates: found 0, expected a positive"),
        ({"warm_start_components": 0}, "warm_start_components: found 0, expected a positive"),
        ({"batch_size": "many"}, "batch_size: found 'many', expected an integer"),
        ({"n_em_iterations": -1}, "n_em_iterations: found -1, expected zero or more"),
        ({"learning_rate": 0.0}, "learning_rate: found 0.0, expected a positive"),
        ({"learning_rate": "0.1"}, "learning_rate: found '0.1', expected a number"),
        ({"max_chi2": float("nan")}, "max_chi2: found nan, expected a positive"),
        ({"progress": 1}, "progress: found 1, expected true or false"),
        ({"device": 0}, "device: found 0, expected a text"),
        ({"network_options": 3}, "network_options: found 3, expected a table"),
        ({"chain_start": 1.5}, r"chain_start: found 1.5, expected a number in \(0, 1\]"),
        ({"sigma_min": 5, "sigma_max": 2.0}, r"sigma_min, sigma_max: found \(5, 2.0\)"),
        ({"symmetries": {"a": ["mirror"]}}, r"symmetries\['a'\]: found \['mirror'\], expected"),
        ({"symmetries": {"a": "flips"}}, r"symmetries\['a'\]: found 'flips', expected"),
        (
            {"posterior": "exact"},
            "posterior: found 'exact', expected one of moment-matching, amort",
        ),
        ({"posterior_options": [3]}, r"posterior_options: found \[3\], expected a table"),
        ({"n_posterior_images": 0}, "n_posterior_images: found 0, expected a positive"),
        ({"templates": "galaxy"}, "templates: found 'galaxy', expected a sequence of names"),
        ({"flux_factors": [1, 2]}, r"flux_factors: found \[1, 2\], expected a table"),
        ({"flux_factors": {"a": 2.0}}, r"flux_factors\['a'\]: found 2.0, expected two positive"),
        ({"flux_factors": {"a": [3, 2]}}, r"flux_factors\['a'\]: found \[3, 2\], expected two"),
        ({"flux_factors": {"a": [0, 2]}}, r"flux_factors\['a'\]: found \[0, 2\], expected two"),
        ({"flux_factors": {"a": [1, "x"]}}, r"flux_factors\['a'\]: found \[1, 'x'\], expected"),
        ({"n_setps": 3, "x": 0}, "configuration: unknown n_setps, x; expected names out of batch"),
    ],
)
def test_options(options, message):
    with pytest.raises(InputError, match=message):
        DiffusionSourceSeparator.from_config(options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": ("a", "c")}, "dataset: holds the sources a, b; expected a, c"),
        ({"symmetries": {"c": ["flips"]}}, "symmetries: unknown source c; expected a, b"),
        ({"templates": ["c", "a"]}, "templates: unknown source c; expected a, b"),
        ({"flux_factors": {"c": [1, 2]}}, "flux_factors: unknown source c; expected a, b"),
        ({"symmetries": {"a": ["flips"]}}, r"symmetries\['a'\]: .* expected a square image"),
        ({"device": "abacus"}, "device: found 'abacus'"),
        ({"device": "meta:x"}, "device: found 'meta:x'"),
        ({"network": "unet"}, "network_options: no unet for the source 'a' of shape"),
        ({"network_options": {"hight": 3}}, "network_options: no mlp for the source 'a' .*hight"),
    ],
)
def test_options_that_do_not_fit_the_dataset(views, options, message, monkeypatch):
    monkeypatch.setattr(module.ExpectationMaximization, "run", None)  # no work is begun
    with pytest.raises(InputError, match=message):
        DiffusionSourceSeparator(**FLAT | options).fit(views)


def test_separators_are_equal_to_themselves_alone(fitted):
    """The same parameters do not make the same model."""
    new = DiffusionSourceSeparator(**FLAT)
    assert new.config == fitted.config
    assert new != fitted
    assert len({new, fitted, fitted}) == 2


def test_options_are_checked_when_they_are_used(fitted, views):
    separator = known(fitted)
    separator.n_steps = -5
    for use in (
        lambda: separator.fit(views),
        lambda: separator.sample(views["first"]),
        separator.sample,
        lambda: separator.log_prob(np.zeros((1, 2)), "a"),
    ):
        with pytest.raises(InputError, match="n_steps: found -5, expected a positive number"):
            use()


def test_options_of_types_that_are_written_as_text(monkeypatch):
    """As ``from __future__ import annotations`` writes all of them."""
    separator = DiffusionSourceSeparator()
    for option in fields(separator):
        monkeypatch.setattr(option, "type", getattr(option.type, "__name__", str(option.type)))
    separator.n_steps = -5
    with pytest.raises(InputError, match="n_steps: found -5, expected a positive number"):
        check_options(separator)


def test_nothing_learned_yet(views, tmp_path):
    separator = DiffusionSourceSeparator(**FLAT)
    for use in (
        lambda: separator.sample(views["first"]),
        lambda: separator.log_prob(np.zeros((1, 2)), "a"),
        lambda: separator.write(tmp_path / "model.asdf"),
        lambda: separator.history_,
    ):
        with pytest.raises(InputError, match="learned nothing yet"):
            use()
    assert list(tmp_path.iterdir()) == []


def test_views_that_do_not_fit_the_model(fitted, views):
    def view(data, mixing, unit=UNIT):
        return View(data, variance=1.0, mixing=mixing, unit=unit, name="mine")

    zeros = np.zeros((4, 2))
    for bad, message in (
        (
            view(zeros, {"dust": Identity((2,))}),
            "view 'mine': holds the source 'dust'; expected .*a, b",
        ),
        (view(np.zeros((4, 3)), {"a": Identity((3,))}), r"'mine': source 'a' has the shape \(3,\)"),
        (view(zeros, {"a": Identity((2,))}, u.s), "view 'mine': flux in s; expected .*uJy"),
        (view(zeros, {"a": Identity((2,))}, None), "view 'mine': flux in no unit; expected .*uJy"),
    ):
        with pytest.raises(InputError, match=message):
            fitted.sample(bad)
    with pytest.raises(InputError, match="n_samples: 0"):
        fitted.sample(views["first"], n_samples=0)


def test_candidates_that_do_not_fit_the_model(fitted):
    for x, source, message in (
        (np.zeros((1, 2)), "dust", "source: 'dust'; expected one of a, b"),
        (np.zeros((1, 3)), "a", r"x: shape \(1, 3\); expected \(N, 2\)"),
        (np.zeros(2), "a", r"x: shape \(2,\); expected \(N, 2\)"),
        (np.zeros((1, 2)) * u.s, "a", "x: unit s; expected uJy"),
    ):
        with pytest.raises(InputError, match=message):
            fitted.log_prob(x, source)


def test_files_that_are_no_models(fitted, model, views, tmp_path):
    def expect(message, path=model):
        with pytest.raises(InputError, match=message) as caught:
            DiffusionSourceSeparator.read(path)
        assert path.name in str(caught.value)

    content = model.read_bytes()
    views.write(tmp_path / "views.asdf")
    expect("found a dataset of views, expected a model", tmp_path / "views.asdf")
    expect("cannot be read", tmp_path / "absent.asdf")
    assert content.count(b"format_version: 1\n") == 1
    model.write_bytes(content.replace(b"format_version: 1\n", b"format_version: 9\n"))
    expect("found format version 9, .* which reads versions up to 3: update it")
    model.write_bytes(content[: len(content) // 2])
    expect("truncated or damaged")
    model.write_text("weights")
    expect("found something else, expected an ASDF file")
    for key, value in (("noise_scale", None), ("em", {}), ("unit", "smoots"), ("sources", ["c"])):
        tree = fitted._tree(fitted._learned)
        tree[key] = value
        write_tree(model, tree, overwrite=True)
        expect("no model of this version")
    tree = fitted._tree(fitted._learned)
    tree["config"]["network_options"] = {"width": 17}
    write_tree(model, tree, overwrite=True)
    expect("no model of this version")
    tree["config"]["n_wings"] = 2
    write_tree(model, tree, overwrite=True)
    expect("no model of this version: .*unknown n_wings")


@pytest.mark.parametrize("learned", [False, True], ids=["without", "with"])
def test_a_view_on_the_other_side_of_the_psf_is_refused(learned, fitted_images, tmp_path):
    separator = fitted_images
    if learned:
        options = IMAGES | {"n_em_iterations": 0, "n_first_images": 20}
        separator = DiffusionSourceSeparator(**options).fit(image_views(psf=True))
    sides = ["as seen through the PSF", "before the PSF"]
    message = (
        f"'galaxy': source 'los' is light {sides[not learned]}; expected light {sides[learned]}"
    )
    separator.write(tmp_path / "model.asdf")
    for known in (separator, DiffusionSourceSeparator.read(tmp_path / "model.asdf")):
        known.sample(image_views(psf=learned)["galaxy"])
        with pytest.raises(InputError, match=message):
            known.sample(image_views(psf=not learned)["galaxy"])
    view = image_views()["galaxy"]
    operator = Composition(Mask(np.zeros(SHAPE, dtype=bool)), Convolution(kernel(), SHAPE))
    hidden = View(view.data, variance=1.0, mixing=dict.fromkeys(view.sources, operator), unit=UNIT)
    if learned:
        separator.sample(hidden)
    else:
        with pytest.raises(InputError, match="before the PSF"):
            separator.sample(hidden)


def test_views_of_several_instruments(images):
    """Where some views have a PSF and others none, all of them are separated."""
    both = MultiViewDataset({"random": images["random"], "galaxy": image_views(psf=True)["galaxy"]})
    options = IMAGES | {"n_em_iterations": 0, "n_first_images": 20}
    separator = DiffusionSourceSeparator(**options).fit(both)
    for view in both.values():
        separator.sample(view)
    with pytest.raises(InputError, match="source 'galaxy' is light as seen through the PSF"):
        separator.sample(images["galaxy"])


def test_several_instruments(pairs):
    """From the warm start to the samples, of observations with one image or two."""
    view, truth = pairs(24)
    dataset = MultiViewDataset({"pairs": view})
    separator = DiffusionSourceSeparator(**IMAGES).fit(dataset)
    samples = separator.sample(dataset["pairs"], n_samples=3)
    assert samples.mean["galaxy"].shape == truth.shape
    assert samples.mean["galaxy"].wcs is dataset["pairs"].source_wcs
    assert np.median(samples.chi2) < 2
    found = samples.mean["galaxy"].value.mean(axis=1)[1::3], truth.mean(axis=1)[1::3]
    assert np.corrcoef(*(images.ravel() for images in found))[0, 1] > 0.8
    # What has one image only is as good a view of the model's sources, as light before the PSF.
    separator.sample(view.images["coarse"])
    changed = MultiViewDataset({"pairs": pairs(24, seed=1)[0]})
    assert separator._fingerprint(dataset) != separator._fingerprint(changed)
