from importlib.util import find_spec

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import kstest
from skimage.metrics import peak_signal_noise_ratio

from benchmarks.manifolds.metrics import pqmass, psnr, sinkhorn_divergence, summarise_psnr
from benchmarks.manifolds.problems import load_contrastive

needs_pot = pytest.mark.skipif(not find_spec("ot"), reason="POT is not installed")
needs_pqm = pytest.mark.skipif(not find_spec("pqm"), reason="pqm is not installed")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_psnr(rng):
    truth = rng.uniform(-2, 2, (3, 4, 5))
    draws = truth + 0.1 * rng.normal(size=truth.shape)
    expected = [
        [peak_signal_noise_ratio(x, d, data_range=4) for x, d in zip(*rows, strict=True)]
        for rows in zip(truth, draws, strict=True)
    ]
    np.testing.assert_allclose(psnr(draws, truth), expected, atol=1e-3)
    summary = summarise_psnr(draws, truth)
    assert summary["psnr_mean"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert summary["psnr_median"] == pytest.approx(np.median(expected), abs=1e-3)
    assert psnr(truth[0, 0], truth[0, 0]) == pytest.approx(20 * np.log10(4e6))


@needs_pot
def test_sinkhorn_of_a_shift(rng):
    """Of a distribution and itself moved: the squared distance, whatever the distribution."""
    u, v = rng.normal(size=(2, 200, 2))
    shift = np.array([3.0, -2.0])
    assert sinkhorn_divergence(u, v + shift, regularization=0.05) == pytest.approx(13, rel=0.1)
    assert sinkhorn_divergence(u, v, regularization=0.05) == pytest.approx(0, abs=0.3)


@needs_pot
def test_sinkhorn_against_assignment(rng):
    """With a converged plan, all three costs are those of optimal transport."""
    u, v = rng.normal(size=(64, 2)), rng.uniform(-2, 2, size=(64, 2))

    def cost(a, b):
        distance = cdist(a, b, "sqeuclidean")
        return distance[linear_sum_assignment(distance)].mean()

    # The same random order as there: which halves are compared depends on it.
    order = np.random.default_rng(7)
    u_set, v_set = (samples[order.permutation(64)] for samples in (u, v))
    expected = cost(u, v) - cost(u_set[:32], u_set[32:]) / 2 - cost(v_set[:32], v_set[32:]) / 2
    converged = {"tolerance": 1e-6, "max_iterations": 3000, "regularization": 5e-3}
    assert sinkhorn_divergence(u, v, seed=7, **converged) == pytest.approx(expected, rel=0.03)


@needs_pot
def test_sinkhorn_at_the_published_settings(manifolds):
    """Two halves of the truth are at zero, and noise of the size of the features is not."""
    u, v = np.split(load_contrastive(1, folder=manifolds).x[:8192, 1], 2)
    assert sinkhorn_divergence(u, v) == pytest.approx(0, abs=1e-4)
    noisy = u + 0.3 * np.random.default_rng(0).normal(size=u.shape)
    assert sinkhorn_divergence(noisy, v, n_samples=1024, max_iterations=10) > 0.1


@needs_pot
def test_sinkhorn_uses_as_many_samples_as_asked(rng):
    u, v = rng.normal(size=(2, 60, 3))
    options = {"regularization": 0.1}
    one = sinkhorn_divergence(u, v, n_samples=30, **options)
    assert sinkhorn_divergence(u, v, n_samples=30, **options) == one
    assert sinkhorn_divergence(u, v, n_samples=30, seed=1, **options) != one
    every = sinkhorn_divergence(u, v, **options)
    assert sinkhorn_divergence(u, v, n_samples=60, **options) == every != one


@needs_pqm
def test_pqmass_is_uniform_under_the_null(rng):
    values = [
        pqmass(
            *rng.normal(size=(2, 400, 3)), n_samples=400, n_tessellations=1, n_references=20, seed=k
        )
        for k in range(300)
    ]
    assert kstest(values, "uniform").pvalue > 0.01


@needs_pqm
def test_pqmass_finds_differences(rng):
    u, v = rng.normal(size=(2, 4096, 3))
    options = {"n_groups": 4, "n_tessellations": 16}
    assert 0.2 < pqmass(u, v, **options) < 0.8
    assert pqmass(u, v + 0.5, **options) < 1e-3
    assert pqmass(u, 1.5 * v, **options) < 1e-3


@needs_pqm
def test_pqmass_leaves_the_global_stream_alone(rng):
    u, v = rng.normal(size=(2, 200, 2))
    options = {"n_samples": 200, "n_tessellations": 2, "n_references": 20}
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert pqmass(u, v, seed=3, **options) == pqmass(u, v, seed=3, **options)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_pqmass_needs_samples(rng):
    with pytest.raises(ValueError, match="found 1024, expected at most the 500"):
        pqmass(rng.normal(size=(500, 2)), rng.normal(size=(2000, 2)))
