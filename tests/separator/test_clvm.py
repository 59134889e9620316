"""Latent variable models: the linear one against exact posteriors and maxima."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from astro_ddprism import (
    InputError,
    LinearCLVMSourceSeparator,
    MultiViewDataset,
    VariationalCLVMSourceSeparator,
)
from astro_ddprism.separator import SourceSeparator
from astro_ddprism.separator.clvm_vae import _Autoencoder
from astro_ddprism.separator.loader import ViewLoader

COMMON = {"device": "cpu", "progress": False}
TRAINING = {"n_first_images": 40_000, "batch_size": 128, "learning_rate": 0.05}


def make_views(n=400):
    """Sources of one and two latent dimensions, in three numbers, through matrices of their own."""
    rng = np.random.default_rng(5)
    W = {"a": rng.normal(0, 3, (3, 1)), "b": rng.normal(0, 3, (3, 1))}
    mean, views = {"a": np.array([1.0, -2, 3]), "b": np.array([0.0, 4, -1])}, {}
    for name, held in {"first": "a", "second": "ab"}.items():
        mixing = {s: rng.normal(size=(n, 3, 3)) for s in held}
        x = {s: mean[s] + rng.normal(size=(n, 1)) @ W[s].T for s in held}
        y = sum(np.einsum("nij,nj->ni", mixing[s], x[s]) for s in held)
        y = y + rng.normal(size=y.shape)
        views[name] = {"data": y, "variance": 1.0, "mixing": mixing}
    return MultiViewDataset.from_arrays(views), views, W, mean


def log_likelihood(views, W, mean):
    """Of all observations, in numpy."""
    total = 0.0
    for view in views.values():
        A = np.concatenate(list(view["mixing"].values()), axis=2)
        held = list(view["mixing"])
        r = view["data"] - A @ np.concatenate([mean[s] for s in held])
        parts = [view["mixing"][s] @ W[s] for s in held]
        C = sum(part @ part.swapaxes(1, 2) for part in parts) + np.eye(r.shape[1])
        chi2 = np.einsum("ni,ni->n", r, np.linalg.solve(C, r[..., None])[..., 0])
        total += -0.5 * np.sum(chi2 + np.linalg.slogdet(C)[1])
    return total


@pytest.fixture(scope="module")
def linear():
    dataset, views, *truth = make_views()
    separator = LinearCLVMSourceSeparator(**COMMON, rank=1, training=TRAINING).fit(dataset)
    return separator, dataset, views, truth


@pytest.fixture(scope="module")
def variational():
    dataset, *_ = make_views(200)
    options = {"rank": {"a": 1, "b": 2}, "width": 32, "depth": 2}
    training = {"n_first_images": 30_000, "batch_size": 64}
    return VariationalCLVMSourceSeparator(**COMMON, **options, training=training).fit(
        dataset
    ), dataset


def test_the_most_likely_factors(linear):
    """More likely than those that made the data, whose covariances they find."""
    separator, _, views, (W, mean) = linear
    scale, priors = separator.noise_scale_, separator.priors_
    found = {s: scale * priors[s].factor.numpy() for s in "ab"}
    means = {s: scale * priors[s].mean.numpy() for s in "ab"}
    # Seven numbers are fitted: twice the gain is chi-squared of so many degrees, and a half or so
    # is what stochastic steps may leave.
    assert -2 < log_likelihood(views, found, means) - log_likelihood(views, W, mean) < 20
    for s in "ab":
        covariance, expected = found[s] @ found[s].T, W[s] @ W[s].T
        np.testing.assert_allclose(covariance, expected, atol=0.2 * expected.max())
        np.testing.assert_allclose(means[s], mean[s], atol=0.6)


def test_the_posterior_is_exact(linear):
    """Mean and covariance of draws of all sources, against dense algebra."""
    separator, dataset, views, _ = linear
    n, scale = 3000, separator.noise_scale_
    drawn = separator.sample(dataset["second"][:2], n_samples=n).samples
    x = np.concatenate([drawn[s].value for s in "ab"], axis=-1)
    priors = [separator.priors_[s] for s in "ab"]
    mean = scale * np.concatenate([p.mean.numpy() for p in priors])
    factor = scale * torch.block_diag(*(p.factor for p in priors)).numpy()
    prior = factor @ factor.T
    for i in range(2):
        A = np.hstack([views["second"]["mixing"][s][i] for s in "ab"])
        gain = prior @ A.T @ np.linalg.inv(A @ prior @ A.T + np.eye(3))
        expected = mean + gain @ (views["second"]["data"][i] - A @ mean)
        covariance = prior - gain @ A @ prior
        std = np.sqrt(np.diagonal(covariance))
        assert np.abs((x[:, i].mean(axis=0) - expected) / std).max() < 5 / np.sqrt(n)
        found = np.cov(x[:, i].T) / np.outer(std, std)
        np.testing.assert_allclose(found, covariance / np.outer(std, std), atol=5 * np.sqrt(2 / n))


def test_the_lower_bound():
    """The loss of observations, from their codes, by torch's divergence and numpy's matrices."""
    dataset, views, *_ = make_views(6)
    loader = ViewLoader(dataset["second"], 1.0, torch.device("cpu"))
    shapes = {"a": (3,), "b": (3,)}
    model = _Autoencoder(shapes, [("a", "b")], {"a": 3.0, "b": 5.0}, {"a": 1, "b": 2}, 8, 1)
    observation = loader.observe(np.arange(6))
    with torch.no_grad():
        torch.manual_seed(1)
        loss = model.loss(observation.y, None, None, observation)
        torch.manual_seed(1)
        mean, log_variance = model.encode(observation)
        q = Normal(mean, (log_variance / 2).exp())
        x = model.decode(("a", "b"), mean + q.scale * torch.randn_like(mean)).numpy()
    assert mean.shape == (6, 3)
    A = np.concatenate([views["second"]["mixing"][s] for s in "ab"], axis=2)
    misfit = ((views["second"]["data"] - np.einsum("nij,nj->ni", A, x)) ** 2).sum(axis=1)
    divergence = kl_divergence(q, Normal(0.0, 1.0)).sum(dim=1).numpy()
    np.testing.assert_allclose(loss, (misfit / 2 + divergence) / 3, rtol=1e-4)


def test_codes_know_the_operators(variational):
    """Draws of the trained model explain observations far better than draws of its priors do."""
    separator, dataset = variational
    view = dataset["second"]
    drawn = separator.sample(view, n_samples=2)
    prior = separator.sample(n_samples=len(view))
    light = sum(
        np.einsum("nij,nj->ni", view.mixing[s].matrix.numpy(), prior[s].value) for s in "ab"
    )
    by_chance = np.median(((view.data - light) ** 2).mean(axis=1))
    assert np.median(drawn.chi2) < 0.3 * by_chance
    assert np.median(drawn.chi2) < 20


@pytest.mark.parametrize("name", ["linear", "variational"])
def test_read_what_was_written(name, request, tmp_path):
    separator, dataset = request.getfixturevalue(name)[:2]
    separator.write(tmp_path / "model.asdf")
    again = SourceSeparator.read(tmp_path / "model.asdf", "cpu", progress=False)
    assert type(again) is type(separator)
    assert again.config == separator.config
    view = dataset["second"][:4]
    for source, x in separator.sample(view, 2).samples.items():
        np.testing.assert_array_equal(again.sample(view, 2).samples[source], x)
    for source, x in separator.sample(n_samples=3).items():
        np.testing.assert_array_equal(again.sample(n_samples=3)[source], x)


def test_what_is_refused(variational):
    separator, dataset = variational
    with pytest.raises(InputError, match="rank: found a, expected one for each of a, b"):
        LinearCLVMSourceSeparator(**COMMON, rank={"a": 2}).fit(dataset)
    lone = {"data": np.zeros((2, 3)), "variance": 1.0, "mixing": {"b": np.eye(3)}}
    view = MultiViewDataset.from_arrays({"lone": lone})["lone"]
    with pytest.raises(
        InputError, match=r"found a view of b, expected the sources of one.*: a; a, b"
    ):
        separator.sample(view)
    with pytest.raises(InputError, match="clvm-vae: found a method without densities"):
        separator.log_prob(np.zeros((1, 3)), "a")
