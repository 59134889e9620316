"""Gaussian priors alone: what they learn, draw and know, against dense algebra."""

import copy

import numpy as np
import pytest
import torch
from astropy import units as u
from scipy.stats import multivariate_normal, norm

from astro_ddprism import (
    DiffusionSourceSeparator,
    GaussianSourceSeparator,
    InputError,
    MultiViewDataset,
)
from astro_ddprism.diffusion.posteriors import latent
from astro_ddprism.io.asdf import read_tree
from astro_ddprism.separator.parts import WarmStart

UNIT = u.uJy
OPTIONS = {"device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def small(views):
    return GaussianSourceSeparator(**OPTIONS).fit(views)


@pytest.fixture(scope="module")
def of_images(images):
    return GaussianSourceSeparator(**OPTIONS).fit(images)


def make_long_views(n=120, size=40):
    """Vectors too long for mixtures: a smooth source, and a second one of two modes beside it."""
    rng = np.random.default_rng(4)
    t = np.arange(size)
    smooth = np.linalg.cholesky(
        9 * np.exp(-(((t[:, None] - t) / 5) ** 2) / 2) + 1e-6 * np.eye(size)
    )
    modes = np.stack([np.exp(-(((t - c) / 2) ** 2)) for c in (10, 30)])
    x = {
        "a": lambda: rng.normal(size=(n, size)) @ smooth.T,
        "b": lambda: 6 + rng.normal(0, 8, (n, 2)) @ modes,
    }
    mixing = {source: np.eye(size) for source in x}
    return MultiViewDataset.from_arrays(
        {
            name: {
                "data": (sum(x[s]() for s in held) + rng.normal(0, 0.5, (n, size))) * UNIT,
                "variance": 0.25 * UNIT**2,
                "mixing": {s: mixing[s] for s in held},
            }
            for name, held in {"first": "a", "second": "ab"}.items()
        }
    )


def state_of(separator, folder):
    separator.write(folder / "state.asdf")
    return read_tree(folder / "state.asdf", "model")["state"]


def test_sources_are_learned(flat_views):
    """Means and spreads of two sources, against those that made the data.

    Those of b are of differences of 256 draws of deviations 1.1 and 1.5: good to 0.12.
    """
    dataset = flat_views(n=256, first="a", second="ab")
    separator = GaussianSourceSeparator(**OPTIONS).fit(dataset)
    assert separator.fit(dataset) is separator
    prior = separator.sample(n_samples=4000, seed=3)
    posterior = separator.sample(dataset["second"], 16)
    for source, expected in {"a": 2.0, "b": -3.0}.items():
        assert prior[source].unit == UNIT
        for x in (prior[source].value, posterior.samples[source].value.reshape(-1, 2)):
            np.testing.assert_allclose(x.mean(axis=0), expected, atol=0.4)
            np.testing.assert_allclose(x.std(axis=0), 1.0, atol=0.4)
    assert np.median(posterior.chi2) < 1.5
    assert set(separator.priors_) == {"a", "b"}
    assert not hasattr(separator, "history_")


def test_the_posterior_is_that_of_the_priors(tmp_path):
    """Mean and covariance of draws, against the Gaussian posterior by dense algebra.

    Of 2000 draws of 80 numbers in each of three observations, of those that the priors explain:
    within 5 standard errors.
    """
    views, n = make_long_views(), 2000
    separator = GaussianSourceSeparator(
        **OPTIONS, warm_start={"name": "gaussian", "rank": 40, "rank_new": 2}
    ).fit(views)
    state, view, size = state_of(separator, tmp_path), views["second"], 40
    assert state["mixtures"] == {}
    mean, prior = np.zeros(2 * size), np.zeros((2 * size, 2 * size))
    for k, source in enumerate("ab"):
        arrays = state["gaussians"][source]
        assert (arrays["log_scale"] == 0).all()  # a plain Gaussian
        part = slice(k * size, (k + 1) * size)
        mean[part] = arrays["mean"]
        prior[part, part] = arrays["factor"].astype(float) @ arrays["factor"].T
    A = np.hstack([np.eye(size)] * 2)
    gain = prior @ A.T @ np.linalg.inv(A @ prior @ A.T + np.eye(size))
    y = view.data / separator.noise_scale_
    expected, covariance = mean + (y - A @ mean) @ gain.T, prior - gain @ A @ prior
    # What an unlikely residual leaves unexplained goes to the first source: not in these.
    best = np.argsort(((y - expected @ A.T) ** 2).sum(axis=1))[[0, 20, 40]]
    view, expected = view[best], expected[best]
    drawn = separator.sample(view, n, seed=5).samples
    x = np.concatenate([drawn[s].value for s in "ab"], axis=-1) / separator.noise_scale_
    std = np.sqrt(np.diagonal(covariance))
    assert np.abs((x.mean(axis=0) - expected) / std * np.sqrt(n)).max() < 5
    for i in range(3):
        found = np.cov(x[:, i].T) / np.outer(std, std)
        # A correlation has a standard error of 1 / sqrt(n), a variance one of sqrt(2 / n).
        np.testing.assert_allclose(found, covariance / np.outer(std, std), atol=5 * np.sqrt(2 / n))


def test_log_prob_of_mixtures(small, tmp_path):
    """Against SciPy's densities of the components, in the unit of the fluxes."""
    mixture = state_of(small, tmp_path)["mixtures"]["b"]
    x = np.random.default_rng(0).normal(-3, 2, (50, 2))
    density = sum(
        w * multivariate_normal(m, c).pdf(x / small.noise_scale_)
        for w, m, c in zip(*(mixture[k] for k in ("weights", "means", "covariances")), strict=True)
    )
    expected = np.log(density) - 2 * np.log(small.noise_scale_)
    found, error = small.log_prob(x * UNIT, "b", return_error=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert (error == 0).all()


def test_log_prob_of_scale_mixtures(of_images, tmp_path):
    """Against an integral over scales, on a grid of its own, of densities by SciPy."""
    prior = state_of(of_images, tmp_path)["gaussians"]["galaxy"]
    mean, factor = (prior[name].astype(float) for name in ("mean", "factor"))
    location, spread = prior["log_scale"].astype(float)
    assert spread > 0.05
    x = of_images.sample(n_samples=5, seed=1)["galaxy"]
    x = x + 0.1 * of_images.noise_scale_ * np.random.default_rng(2).normal(size=x.shape) * x.unit
    inside = x.value.reshape(5, -1) / of_images.noise_scale_
    log_s = location + spread * np.linspace(-8, 8, 4001)
    weight = norm(location, spread).pdf(log_s) * (log_s[1] - log_s[0])
    log_density = np.stack(
        [
            multivariate_normal(mean, np.exp(2 * s) * factor @ factor.T + 0.01 * np.eye(64)).logpdf(
                inside
            )
            for s in log_s[::8]
        ]
    )
    expected = np.logaddexp.reduce(log_density + np.log(8 * weight[::8])[:, None], axis=0)
    expected -= 64 * np.log(of_images.noise_scale_)
    np.testing.assert_allclose(of_images.log_prob(x, "galaxy"), expected, rtol=1e-4, atol=1e-2)


def test_images(of_images, images):
    samples = of_images.sample(images["galaxy"], 2)
    assert samples.samples["galaxy"].shape == (2, 12, 1, 8, 8)
    assert np.median(samples.chi2) < 1.5
    total = {s: x.value.sum(axis=(-2, -1)).mean() for s, x in samples.samples.items()}
    assert total["galaxy"] > total["los"]  # what the random view never holds


@pytest.mark.parametrize("name", ["small", "of_images"])
def test_read_what_was_written(name, request, views, images, tmp_path, draws_of, assert_same):
    separator = request.getfixturevalue(name)
    view = {"small": views["second"], "of_images": images["galaxy"]}[name]
    separator.write(tmp_path / "model.asdf")
    again = GaussianSourceSeparator.read(tmp_path / "model.asdf", "cpu", progress=False)
    assert again.config == separator.config
    assert_same(draws_of(again, view), draws_of(separator, view))
    prior = separator.sample(n_samples=4)
    assert_same(again.sample(n_samples=4), prior)
    for source, x in prior.items():
        np.testing.assert_array_equal(again.log_prob(x, source), separator.log_prob(x, source))
    assert again.sample(view).provenance["model"] == "model.asdf"


def test_a_seed_repeats_a_fit(small, views, draws_of, assert_same):
    torch.manual_seed(99)  # of no matter
    again = GaussianSourceSeparator(**OPTIONS).fit(views)
    assert_same(draws_of(again, views["second"]), draws_of(small, views["second"]))
    other = draws_of(small, views["second"], seed=1)
    assert (other["a"] != draws_of(small, views["second"])["a"]).all()


def test_fits_do_not_start_from_models(small, fitted, flat, views):
    with pytest.raises(InputError, match="initial: gaussian does not start from models"):
        GaussianSourceSeparator(**OPTIONS).fit(views, initial=small)
    with pytest.raises(InputError, match="found a GaussianSourceSeparator, expected diffusion"):
        DiffusionSourceSeparator(**flat).fit(views, initial=small)


def test_fits_of_seconds_have_no_checkpoints(small, views, tmp_path):
    """One is asked for as of any fit, but none is left, and there is none to go on from."""
    separator, checkpoint = copy.copy(small), tmp_path / "fit.checkpoint"
    for options, message in (
        ({"resume": True}, "^resume: no checkpoint"),
        ({"resume": True, "checkpoint": checkpoint}, r"fit\.checkpoint: cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            separator.fit(views, **options)
    separator.fit(views, checkpoint=checkpoint)
    assert not checkpoint.exists()
    assert not hasattr(GaussianSourceSeparator(), "priors_")


def test_an_interrupted_fit_leaves_what_was_learned(
    small, views, images, monkeypatch, draws_of, assert_same
):
    """In the second of two stages, of other sources than those that are known."""
    separator = copy.copy(small)
    fit = WarmStart.fit

    def interrupted(warm_start, loaders, shapes, *args, **options):
        if "galaxy" in shapes:
            raise KeyboardInterrupt
        return fit(warm_start, loaders, shapes, *args, **options)

    monkeypatch.setattr(WarmStart, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        separator.fit(images)
    assert separator.source_shapes_ == {"a": (2,), "b": (2,)}
    assert_same(draws_of(separator, views["second"]), draws_of(small, views["second"]))


@pytest.mark.parametrize("name", ["gaussian", "moments"])
def test_observations_that_share_a_factorization(name, whole_images, monkeypatch, draws_of):
    """Its double precision stays inside: fits and draws are those of one for each observation.

    EM of a dozen observations carries on what single precision rounds away, some of them far.
    """
    most, tolerance = {"gaussian": (0.8, 0.25), "moments": (1.0, 0.02)}[name]
    table, found = {"name": name, "rank": 12, "rank_new": 4}, []
    for large in (1 << 30, 0):
        monkeypatch.setattr(latent, "_LARGE", large)
        separator = GaussianSourceSeparator(**OPTIONS, warm_start=table).fit(whole_images)
        assert separator.priors_["galaxy"].mean.dtype == torch.float32
        found.append(draws_of(separator, whole_images["galaxy"]))
    for source, x in found[0].items():
        assert np.quantile(np.abs(found[1][source] - x), most) < tolerance * x.std()
