"""Contrastive components against the maximum of their likelihood, and draws against algebra."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from astro_ddprism import InputError, MultiViewDataset, PCPCASourceSeparator
from astro_ddprism.cli import main
from astro_ddprism.separator import SourceSeparator

SIZE, GAMMA = 4, 0.4
OPTIONS = {"device": "cpu", "progress": False, "gamma": GAMMA, "rank": 2}


def make_views(complete, n=300, amplitude=0.5):
    """A background of one strong direction, and a signal of another, half as bright as it is."""
    rng = np.random.default_rng(3)
    strengths = {"b": [6, 1, 1, 0.5], "s": [0, 5, 3, 0]}
    views, truth = {}, {}
    for name, held in (("first", "b"), ("second", "bs")):
        A = np.broadcast_to(np.eye(SIZE), (n, SIZE, SIZE)).copy()
        if not complete:
            A = rng.normal(size=(n, 3, SIZE))
        truth[name] = {s: rng.normal(size=(n, SIZE)) * strengths[s] + (s == "s") for s in held}
        mixing = {s: A * (amplitude if s == "s" else 1.0) for s in held}
        y = sum(np.einsum("nij,nj->ni", mixing[s], truth[name][s]) for s in held)
        y = y + rng.normal(0, 1, y.shape)
        views[name] = {"data": y, "variance": 1.0, "mixing": mixing}
    return MultiViewDataset.from_arrays(views), views


def contrast_of(W, mean, views, background, gamma=GAMMA):
    """The contrast of the likelihoods, in numpy; ``background`` is the first source's mean."""
    total = 0.0
    for name, weight in (("second", 1.0), ("first", -gamma)):
        own = views[name]["mixing"].get("s", 0.5 * views[name]["mixing"]["b"])
        other = views[name]["mixing"]["b"]
        level = mean if name == "second" else np.zeros(SIZE)
        r = views[name]["data"] - other @ background - own @ level
        C = own @ W @ W.T @ own.swapaxes(1, 2) + np.eye(r.shape[1])
        chi2 = np.einsum("ni,ni->n", r, np.linalg.solve(C, r[..., None])[..., 0])
        total += weight * np.mean(-0.5 * (chi2 + np.linalg.slogdet(C)[1]))
    return total


def best(views, background, W, mean):
    """The maximum by SciPy, from a place nearby."""
    begin = np.concatenate([W.ravel(), mean])
    begin = begin + 0.1 * np.random.default_rng(0).normal(size=begin.shape)

    def loss(p):
        return -contrast_of(p[: W.size].reshape(W.shape), p[W.size :], views, background)

    found = minimize(loss, begin, method="BFGS")
    return found.x[: W.size].reshape(W.shape), found.x[W.size :], -found.fun


@pytest.fixture(scope="module", params=[True, False], ids=["complete", "incomplete"])
def fitted(request):
    dataset, views = make_views(request.param)
    training = {"n_first_images": 30_000, "batch_size": 200, "learning_rate": 0.05}
    separator = PCPCASourceSeparator(**OPTIONS, training=training).fit(dataset)
    return separator, dataset, views, request.param


def test_the_maximum_of_the_likelihood(fitted):
    """In closed form to rounding; by ascent within 0.02 nats an observation of the maximum."""
    separator, _, views, complete = fitted
    scale = separator.noise_scale_
    b, s = (separator.priors_[k] for k in "bs")
    W, mean, background = (scale * x.numpy() for x in (s.factor, s.mean, b.mean))
    expected, best_mean, value = best(views, background, W, mean)
    found = contrast_of(W, mean, views, background)
    assert found > value - (1e-6 if complete else 0.02)
    tolerance = (1e-3 if complete else 0.05) * (W @ W.T).max()
    np.testing.assert_allclose(W @ W.T, expected @ expected.T, rtol=0, atol=tolerance)
    np.testing.assert_allclose(mean, best_mean, atol=1e-3 if complete else 0.4)


def test_the_background_counts_for_less():
    """The more it weighs, the smaller its own direction's part of the source."""
    dataset, shares = make_views(complete=True)[0], []
    for gamma in (0.0, 0.5, 0.8):
        prior = PCPCASourceSeparator(**OPTIONS | {"gamma": gamma}).fit(dataset).priors_["s"]
        power = (prior.factor**2).sum(dim=1)
        shares.append(float(power[0] / power.sum()))
    assert shares[0] > 1.1 * shares[1] > 1.1**2 * shares[2]


def test_draws(fitted):
    """Means and covariances of both sources together, against dense algebra; and of the priors."""
    separator, dataset, views, _ = fitted
    n, some = 3000, dataset["second"][:2]
    drawn = separator.sample(some, n_samples=n).samples
    x = np.concatenate([drawn[s].value for s in "bs"], axis=-1)
    scale, priors = separator.noise_scale_, [separator.priors_[s] for s in "bs"]
    mean = scale * np.concatenate([p.mean.numpy() for p in priors])
    prior = np.zeros((2 * SIZE, 2 * SIZE))
    for k, p in enumerate(priors):
        part = slice(k * SIZE, (k + 1) * SIZE)
        prior[part, part] = scale**2 * (p.factor @ p.factor.T).numpy()
    for i in range(2):
        A = np.hstack([views["second"]["mixing"][s][i] for s in "bs"])
        gain = prior @ A.T @ np.linalg.inv(A @ prior @ A.T + np.eye(len(A)))
        expected = mean + gain @ (views["second"]["data"][i] - A @ mean)
        covariance = prior - gain @ A @ prior
        std = np.sqrt(np.diagonal(covariance).clip(1e-6))
        assert np.abs((x[:, i].mean(axis=0) - expected) / std).max() < 5 / np.sqrt(n)
        found = np.cov(x[:, i].T) / np.outer(std, std)
        np.testing.assert_allclose(found, covariance / np.outer(std, std), atol=5 * np.sqrt(2 / n))
    drawn = separator.sample(n_samples=n)["s"].value
    np.testing.assert_allclose(np.cov(drawn.T), prior[SIZE:, SIZE:], atol=0.1 * prior.max())


def test_log_prob(fitted):
    separator = fitted[0]
    prior, scale = separator.priors_["s"], separator.noise_scale_
    x = separator.sample(n_samples=5)["s"].value + 0.05
    covariance = (prior.factor @ prior.factor.T).numpy() + 0.01 * np.eye(SIZE)
    expected = multivariate_normal(scale * prior.mean.numpy(), scale**2 * covariance).logpdf(x)
    np.testing.assert_allclose(separator.log_prob(x, "s"), expected, rtol=1e-4)


def test_read_what_was_written(fitted, tmp_path):
    """By the command line, too."""
    separator, dataset, _, complete = fitted
    separator.write(tmp_path / "model.asdf")
    again = SourceSeparator.read(tmp_path / "model.asdf", "cpu", progress=False)
    assert type(again) is PCPCASourceSeparator
    assert again.config == separator.config
    view = dataset["second"][:4]
    for source, x in separator.sample(view, 2).samples.items():
        np.testing.assert_array_equal(again.sample(view, 2).samples[source], x)
    if complete:
        dataset.write(tmp_path / "views.asdf")
        arguments = ["--method", "pcpca", "--device", "cpu", "-q", "-o", str(tmp_path / "m.asdf")]
        assert main(["fit", str(tmp_path / "views.asdf"), *arguments]) == 0
        assert SourceSeparator.read(tmp_path / "m.asdf", "cpu").gamma == 0.3


def test_views_that_are_not_contrastive():
    y, eye = np.random.default_rng(0).normal(size=(9, 2)), np.eye(2)
    mixed = {"data": y, "variance": 1.0, "mixing": {"a": eye, "b": 0.1 * eye}}
    with pytest.raises(InputError, match="views that bring a, b together, expected one"):
        PCPCASourceSeparator(**OPTIONS).fit(MultiViewDataset.from_arrays({"one": mixed}))
    other = {"data": y, "variance": 1.0, "mixing": {"a": eye, "b": np.ones((2, 3))}}
    alone = {"data": y, "variance": 1.0, "mixing": {"a": eye}}
    with pytest.raises(InputError, match=r"source 'b' of shape \(3,\), expected \(2,\)"):
        PCPCASourceSeparator(**OPTIONS).fit(MultiViewDataset.from_arrays({"1": alone, "2": other}))
