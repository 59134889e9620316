"""The warm start recovers covariances that simulated views were drawn from."""

import numpy as np
import pytest
import torch

from astro_ddprism.diffusion.learning.warmstart import GaussianWarmStart
from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.diffusion.priors.gaussian import GaussianPrior
from astro_ddprism.diffusion.random import Rows, seeded
from astro_ddprism.mixing import Identity
from astro_ddprism.views.dataset import MultiViewDataset

CPU = torch.device("cpu")


def batches_of(views, shapes, size=250):
    """What `GaussianWarmStart.fit` asks for: the same observations in the same order each time."""

    def batches():
        for view in views:
            for i in range(0, len(view), size):
                batch = view.batch(slice(i, i + size))
                ids = view.ids[i : i + size]
                rows = Rows.of(1, view.name, ids=ids, device=CPU)
                yield JointObservation(batch, {s: shapes[s] for s in view.sources}), rows

    return batches


def fit(warm_start, batches, iterations):
    with seeded(1, device=CPU), torch.no_grad():
        assert list(warm_start.fit(batches, iterations)) == list(range(1, iterations + 1))
    return warm_start.priors


def vectors(seed, n, size):
    """A mean, a covariance with correlations, and draws."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(size, size)) * np.geomspace(3, 0.5, size)
    mean = rng.normal(size=size) * 2
    return mean, factor @ factor.T, mean + rng.normal(size=(n, size)) @ factor.T


def assert_recovered(prior, mean, covariance, n, tolerance=5):
    """To a few times the sampling error of ``n`` draws; noise and mixing cost some more."""
    std = np.sqrt(covariance.diagonal())
    error = tolerance * np.sqrt((np.outer(std, std) ** 2 + covariance**2) / n)
    assert (np.abs(prior.mean.numpy() - mean) < tolerance * std / np.sqrt(n)).all()
    assert (np.abs((prior.factor @ prior.factor.T).numpy() - covariance) < error).all()


@pytest.mark.parametrize("masked", [False, True])
def test_one_source(masked):
    """Vectors seen through random matrices with a third of all values masked."""
    n, size = 2000, 4
    mean, covariance, x = vectors(2, n, size)
    rng = np.random.default_rng(3)
    A = rng.normal(size=(n, 6, size))
    y = (A @ x[..., None])[..., 0] + 0.1 * rng.normal(size=(n, 6))
    mask = rng.random(y.shape) < (0.33 if masked else 0)
    mask[:, 0] = False  # a view takes no observation without information
    y[mask] = np.nan
    view = MultiViewDataset.from_arrays(
        {"view": {"data": y, "variance": 0.01, "mask": mask, "mixing": {"a": A}}}
    )["view"]
    shapes = {"a": (size,)}
    warm_start = GaussianWarmStart({}, shapes, symmetries={"a": ()}, ranks={"a": 64})
    priors = fit(warm_start, batches_of([view], shapes), 20)
    assert priors["a"].rank == size
    assert_recovered(priors["a"], mean, covariance, n)
    assert (priors["a"].log_scale == 0).all()  # no scales: plain Gaussians


def two_sources(n, size=4):
    """A contrastive problem: one view holds ``a`` alone, the other ``a`` and ``b``."""
    mean_a, covariance_a, a = vectors(4, 2 * n, size)
    mean_b, covariance_b, b = vectors(5, n, size)
    rng = np.random.default_rng(6)
    A, B = rng.normal(size=(2, 2 * n, 6, size))
    y = (A @ a[..., None])[..., 0] + 0.1 * rng.normal(size=(2 * n, 6))
    y[n:] += (B[n:] @ b[..., None])[..., 0]
    dataset = MultiViewDataset.from_arrays(
        {
            "first": {"data": y[:n], "variance": 0.01, "mixing": {"a": A[:n]}},
            "second": {"data": y[n:], "variance": 0.01, "mixing": {"a": A[n:], "b": B[n:]}},
        }
    )
    return dataset, (mean_a, covariance_a), (mean_b, covariance_b)


def test_second_source_beside_a_known_one():
    n = 2000
    dataset, truth_a, truth_b = two_sources(n)
    mean, covariance = (torch.tensor(v, dtype=torch.float32) for v in truth_a)
    known = GaussianPrior(mean, torch.linalg.cholesky(covariance))
    shapes = dataset.source_shapes
    warm_start = GaussianWarmStart(
        {"a": known}, {"b": shapes["b"]}, symmetries={"b": ()}, ranks={"b": 4}
    )
    priors = fit(warm_start, batches_of([dataset["second"]], shapes), 40)
    assert set(priors) == {"b"}
    assert_recovered(priors["b"], *truth_b, n, tolerance=6)
    assert warm_start.known["a"] is known


def test_two_new_sources_at_once():
    n = 2000
    dataset, truth_a, truth_b = two_sources(n)
    shapes = dataset.source_shapes
    warm_start = GaussianWarmStart(
        {}, shapes, symmetries={"a": (), "b": ()}, ranks={"a": 4, "b": 4}
    )
    priors = fit(warm_start, batches_of(dataset.values(), shapes), 40)
    assert_recovered(priors["a"], *truth_a, n, tolerance=6)
    assert_recovered(priors["b"], *truth_b, n, tolerance=6)


def blobs(seed, n, rank, size=8, brightness=30.0):
    """Images with log-normal fluxes: combinations of smooth functions, in flux and in shape."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    sigma = np.geomspace(1, 4, rank)
    W = np.stack([np.exp(-(x**2 + y**2) / 2 / s**2).ravel() for s in sigma], axis=1)
    W *= brightness / np.sqrt((W**2).sum() / len(W))
    scales = np.exp(0.8 * rng.normal(size=n))
    images = scales[:, None] * (rng.normal(size=(n, rank)) @ W.T)
    return W, images.reshape(n, 1, size, size)


def explained(factor, W):
    """Share of a covariance's power within the span of a factor."""
    basis = np.linalg.qr(factor)[0]
    return np.linalg.norm(basis.T @ W) ** 2 / np.linalg.norm(W) ** 2


def test_images_have_a_subspace_and_scales():
    n, rank, shapes = 600, 2, {"a": (1, 8, 8)}
    W, x = blobs(7, n, rank)
    rng = np.random.default_rng(8)
    mask = rng.random(x.shape) < 0.1
    data = np.where(mask, np.nan, x + rng.normal(size=x.shape))
    view = MultiViewDataset.from_arrays(
        {"view": {"data": data, "variance": 1.0, "mask": mask, "mixing": {"a": 1.0}}}
    )["view"]
    warm_start = GaussianWarmStart({}, shapes, symmetries={"a": ()}, ranks={"a": 6})
    priors = fit(warm_start, batches_of([view], shapes), 15)
    factor = priors["a"].factor.double().numpy()
    assert factor.shape == (64, 6)
    assert (priors["a"].mean == 0).all()
    assert explained(factor[:, :rank], W) > 0.99
    # Amplitude of the median image, and the spread of log s: log |z| of few dimensions adds to it.
    power = (factor**2).sum() / (W**2).sum()
    assert 0.4 < power < 2.5
    assert 0.5 < priors["a"].log_scale[1] < 1.6
    # Scales of single images follow their fluxes.
    observation, _ = next(iter(batches_of([view], shapes, size=n)()))
    found = warm_start.posterior(observation).scales[:, 0].log().numpy()
    brightness = np.log(np.linalg.norm(x.reshape(n, -1), axis=1))
    assert np.corrcoef(found, brightness)[0, 1] > 0.9


def test_new_image_source_starts_from_the_excess_alone():
    """Blobs at the centre over a known source anywhere: the subspace holds the blobs."""
    n, rank, shapes = 800, 2, {"sky": (1, 8, 8), "blob": (1, 8, 8)}
    W, x = blobs(9, n, rank, brightness=20.0)
    rng = np.random.default_rng(10)
    sky = 5 * rng.normal(size=x.shape)
    data = x + sky + rng.normal(size=x.shape)
    view = MultiViewDataset.from_arrays(
        {"view": {"data": data, "variance": 1.0, "mixing": {"sky": 1.0, "blob": 1.0}}}
    )["view"]
    known = {"sky": GaussianPrior(torch.zeros(64), 5 * torch.eye(64))}
    warm_start = GaussianWarmStart(
        known, {"blob": (1, 8, 8)}, symmetries={"blob": ()}, ranks={"blob": 3}
    )
    priors = fit(warm_start, batches_of([view], shapes), 8)
    assert explained(priors["blob"].factor[:, :rank].double().numpy(), W) > 0.98


def test_symmetries():
    """The covariance of a source with symmetries has them, whatever the draws."""
    n, shapes = 60, {"a": (1, 6, 6)}
    rng = np.random.default_rng(11)
    ramp = np.linspace(-1, 1, 6)
    x = rng.normal(size=(n, 1, 1, 1)) * 20 * ramp + rng.normal(size=(n, 1, 6, 6))
    view = MultiViewDataset.from_arrays(
        {"view": {"data": x, "variance": 1.0, "mixing": {"a": 1.0}}}
    )["view"]
    symmetries = {"a": ("rotations", "flips")}
    warm_start = GaussianWarmStart({}, shapes, symmetries=symmetries, ranks={"a": 36})
    rank_limited = GaussianWarmStart({}, shapes, symmetries=symmetries, ranks={"a": 2})
    for start in (warm_start, rank_limited):
        factor = fit(start, batches_of([view], shapes), 3)["a"].factor
        covariance = (factor @ factor.T).view(6, 6, 6, 6)
        turned = covariance.rot90(1, (0, 1)).rot90(1, (2, 3))
        torch.testing.assert_close(turned, covariance, rtol=0, atol=0.02 * covariance.max().item())


def test_repeats_under_a_seed():
    dataset, _, _ = two_sources(50)
    shapes = dataset.source_shapes
    factors = []
    for _ in range(2):
        warm_start = GaussianWarmStart(
            {}, shapes, symmetries={"a": (), "b": ()}, ranks={"a": 2, "b": 2}
        )
        factors.append(fit(warm_start, batches_of(dataset.values(), shapes), 2)["b"].factor)
    assert torch.equal(*factors)


def test_large_images_work_in_the_span_of_the_observations():
    """Beyond 64 x 64 pixels, covariances are never written down."""
    n, rank, shapes = 60, 2, {"a": (1, 65, 65)}
    W, x = blobs(12, n, rank, size=65)
    data = x + np.random.default_rng(13).normal(size=x.shape)
    view = MultiViewDataset.from_arrays(
        {"view": {"data": data, "variance": 1.0, "mixing": {"a": 1.0}}}
    )["view"]
    warm_start = GaussianWarmStart({}, shapes, symmetries={"a": ()}, ranks={"a": 3})
    priors = fit(warm_start, batches_of([view], shapes), 3)
    assert explained(priors["a"].factor[:, :rank].double().numpy(), W) > 0.99


def test_colours_do_not_depend_on_the_noise_of_bands():
    """The prior has the band ratios of what was seen, also where bands differ in noise."""
    n, shape, colour, noise = 500, (3, 6, 6), np.array([1.0, 2.0, 1.5]), np.array([1.0, 3.0, 2.0])
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:6, :6] - 2.5
    blob = np.exp(-(x**2 + y**2) / 4)
    flux = rng.lognormal(3, 0.5, (n, 1, 1, 1))
    seen = flux * colour[:, None, None] * blob
    variance = np.broadcast_to(noise[:, None, None] ** 2, seen.shape)
    view = MultiViewDataset.from_arrays(
        {
            "all": {
                "data": seen + np.sqrt(variance) * rng.standard_normal(seen.shape),
                "variance": variance,
                "mixing": {"galaxy": Identity(shape)},
            }
        }
    )["all"]
    warm_start = GaussianWarmStart(
        {}, {"galaxy": shape}, symmetries={"galaxy": ()}, ranks={"galaxy": 4}
    )
    prior = fit(warm_start, batches_of([view], {"galaxy": shape}), 2)["galaxy"]
    factor = prior.factor.numpy().reshape(*shape, -1) * blob[..., None]
    fluxes = factor.sum(axis=(1, 2))
    covariance = fluxes @ fluxes.T
    found = covariance[0] / covariance[0, 0]
    np.testing.assert_allclose(found, colour / colour[0], rtol=0.02)
