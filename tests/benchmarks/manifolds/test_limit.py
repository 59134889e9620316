import itertools

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from benchmarks.manifolds.limit import posterior_draws, posterior_limit
from benchmarks.manifolds.problems import (
    ManifoldProblem,
    ManifoldView,
    generate_contrastive,
    load_contrastive,
)


def test_against_a_dense_grid():
    """A straight line seen through one matrix: the distribution of the place on it."""
    z = np.linspace(-1, 1, 1024)
    direction, A, sigma = np.array([1.0, -0.5]), np.array([[1.0, 0.5], [0.0, 0.4]]), 0.15
    x = z[:, None] * direction
    y = np.array([[0.6, -0.3], [0.1, 0.2]])
    problem = ManifoldProblem(
        name="line",
        x=np.concatenate([x[:2], x])[:, None],
        sources=("line",),
        views={"view": ManifoldView(y, {"line": np.stack([A, A])}, np.arange(2))},
        noise_std=sigma,
    )
    draws = posterior_draws(problem, "view", n_draws=4000, n_prior=1024)["line"]
    assert draws.shape == (4000, 2, 2)
    for k in range(2):
        weight = np.exp(-((y[k] - x @ A.T) ** 2).sum(1) / 2 / sigma**2)
        cdf = np.cumsum(weight) / weight.sum()
        place = draws[:, k, 0] / direction[0]
        np.testing.assert_allclose(draws[:, k], place[:, None] * direction)
        assert kstest(place, lambda p, cdf=cdf: np.interp(p, z, cdf)).pvalue > 0.01


@pytest.mark.parametrize(("n_sources", "n_prior", "sigma"), [(2, 32, 0.3), (3, 16, 0.4)])
def test_frequencies_against_the_weights_of_all_combinations(n_sources, n_prior, sigma):
    problem = generate_contrastive(
        3, n_sources, seed=2, n_observed=2, noise_std=sigma, n_spare=n_prior
    )
    name = f"view {n_sources}"
    draws = posterior_draws(problem, name, n_observations=3, n_draws=5000, n_prior=n_prior)
    view, prior = problem.views[name], problem.x[-n_prior:]
    combinations = np.array(list(itertools.product(range(n_prior), repeat=n_sources)))
    for i in range(3):
        seen = [prior[:, s] @ view.mixing[k][i].T for s, k in enumerate(problem.sources)]
        residual = view.y[i] - sum(p[combinations[:, s]] for s, p in enumerate(seen))
        weight = np.exp(-(residual.astype(float) ** 2).sum(1) / 2 / sigma**2)
        weight /= weight.sum()
        number = np.zeros(len(draws["source 1"]), int)
        for s, source in enumerate(problem.sources):
            match = (draws[source][:, i, None] == prior[None, :, s]).all(-1)
            assert match.any(1).all()
            number = number * n_prior + match.argmax(1)
        counts = np.bincount(number, minlength=len(weight))
        # Cells of the test: combinations by weight, joined until each is expected ten times.
        order = np.argsort(-weight)
        cell = np.floor(np.cumsum(weight[order]) * 5000 / 10).clip(max=499).astype(int)
        expected = np.bincount(cell, weight[order]) * 5000
        observed = np.bincount(cell, counts[order])
        kept = expected > 0
        assert chisquare(observed[kept], expected[kept]).pvalue > 1e-3


def test_the_truth_is_like_a_draw():
    """Its rank among draws is uniform; it would not be with a prior of 2,048 samples."""
    problem = generate_contrastive(300, 2, seed=0)
    draws = posterior_draws(problem, "view 2", n_observations=300, n_draws=63)
    for source, truth in problem.truth("view 2").items():
        rank = (draws[source][..., 0] < truth[:, 0]).sum(0)
        ties = np.random.default_rng(0).random(300)
        assert kstest((rank + ties) / 64, "uniform").pvalue > 0.01


def test_limit_of_the_published_problem(manifolds):
    """54.8 dB for source 2 of view 2, by all pairs; one draw an observation scatters by 7 dB."""
    problem = load_contrastive(512, folder=manifolds)
    limit = posterior_limit(problem, "view 2", n_observations=256, n_prior=4096)
    assert list(limit) == ["source 1", "source 2"]
    assert limit["source 2"]["psnr_mean"] == pytest.approx(54.4, abs=1.5)
    near_perfect = posterior_limit(problem, "view 1", n_observations=256, n_prior=4096)
    assert near_perfect["source 1"]["psnr_mean"] == pytest.approx(58.3, abs=1.5)


@pytest.mark.parametrize("n_prior", [100, 256, 1024])
def test_prior_leaves_out_the_observations_own(n_prior):
    problem = generate_contrastive(32, 2, seed=0, n_spare=128)
    with pytest.raises(ValueError, match=f"n_prior: found {n_prior}, expected a power of two"):
        posterior_draws(problem, "view 2", n_prior=n_prior)
