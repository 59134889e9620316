"""Moments of views, against those that made the data."""

import numpy as np
import pytest
import torch

from astro_ddprism import GaussianSourceSeparator, MultiViewDataset
from astro_ddprism.diffusion.learning.moments import Moments
from astro_ddprism.diffusion.random import Rows
from astro_ddprism.mixing import Amplitude, Identity
from astro_ddprism.separator.loader import ViewLoader

SHAPE, SIZE = (1, 3, 3), 9
CPU = torch.device("cpu")


def make_views(n=3000, masked=0, seed=0, noise=0.5):
    """Images of correlated pixels; the second source at half its strength; some masked."""
    rng = np.random.default_rng(seed)
    factors = {s: rng.normal(size=(SIZE, SIZE)) * np.geomspace(6, 1, SIZE) for s in "ab"}
    means = {"a": np.linspace(-2, 2, SIZE), "b": np.full(SIZE, 4.0)}
    amplitude, views = {"a": 1.0, "b": 0.5}, {}
    mask = np.zeros((n, *SHAPE), dtype=bool)
    mask[:masked, 0, 1, 1] = True
    for name, held in {"first": "a", "second": "ab"}.items():
        x = {s: means[s] + rng.normal(size=(n, SIZE)) @ factors[s].T for s in held}
        y = sum(amplitude[s] * x[s] for s in held) + noise * rng.normal(size=(n, SIZE))
        mixing = {s: Amplitude(amplitude[s], SHAPE) if s == "b" else Identity(SHAPE) for s in held}
        views[name] = {
            "data": y.reshape(n, *SHAPE),
            "variance": np.broadcast_to(noise, (n, SIZE)).reshape(n, *SHAPE) ** 2,
            "mask": mask, "mixing": mixing
        }  # fmt: skip
    return MultiViewDataset.from_arrays(views), means, factors


# As of photons: more in some pixels, and more in some images.
UNEVEN = np.linspace(0.2, 2, SIZE) * np.linspace(0.5, 1, 3000)[:, None]


@pytest.mark.parametrize(("masked", "noise"), [(0, 0.5), (1000, 0.5), (0, UNEVEN)])
def test_sources_of_views(masked, noise):
    """Means and covariances within six standard errors, despite masks and uneven noise."""
    n = 3000
    views, means, factors = make_views(n, masked, noise=noise)
    none = {"a": [], "b": []}
    options = {"device": "cpu", "progress": False, "symmetries": none, "warm_start": "moments"}
    separator = GaussianSourceSeparator(**options).fit(views)
    scale, total = separator.noise_scale_, 0.0
    for source, amplitude in (("a", 1.0), ("b", 0.5)):
        prior, covariance = separator.priors_[source], factors[source] @ factors[source].T
        assert not prior.varies
        total = total + amplitude**2 * covariance.diagonal()
        # What is observed varies by all sources, and so does the error.
        variance = (np.broadcast_to(noise, (n, SIZE)) ** 2).mean(axis=0)
        std = np.sqrt((total + variance) / (n - masked)) / amplitude
        np.testing.assert_array_less(abs(scale * prior.mean.numpy() - means[source]) / std, 6)
        found = scale**2 * (prior.factor @ prior.factor.T).numpy()
        spread = np.sqrt(total + variance) / amplitude
        error = np.sqrt(2 / (n - masked)) * np.outer(spread, spread)
        np.testing.assert_array_less(abs(found - covariance) / error, 6)
    assert np.median(separator.sample(views["second"][-200:]).chi2) < 1.5


def test_symmetries_and_ranks():
    """Covariances that all symmetries leave as they are, in as many directions as asked for."""
    views, *_ = make_views(600)
    table = {"name": "moments", "rank": 5, "rank_new": 2}
    separator = GaussianSourceSeparator(device="cpu", progress=False, warm_start=table).fit(views)
    assert [separator.priors_[s].rank for s in "ab"] == [5, 2]
    full = GaussianSourceSeparator(device="cpu", progress=False, warm_start="moments").fit(views)
    prior = full.priors_["a"]
    covariance = (prior.factor @ prior.factor.T).view(3, 3, 3, 3)
    turned = covariance.rot90(1, (0, 1)).rot90(1, (2, 3))
    torch.testing.assert_close(turned, covariance, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(prior.mean.view(3, 3).flip(1), prior.mean.view(3, 3))


def test_which_data_are_complete():
    views, *_ = make_views(8, masked=3)
    loader = ViewLoader(views["first"], 1.0, CPU)
    for index, variance in ((range(8), None), (range(3, 8), 0.25)):
        moments, index = Moments(SIZE), np.array(index)
        rows = Rows.of(0, ids=index, device=CPU)
        observation = loader.observe(index)
        moments.add(observation, "a", observation.y, rows)
        assert moments.noise_variance == (variance and pytest.approx(variance))
