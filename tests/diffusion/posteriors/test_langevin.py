"""Noise-annealed Langevin dynamics against exact posteriors."""

import numpy as np
import torch
from scipy.linalg import block_diag
from scipy.stats import multivariate_normal

from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.diffusion.posteriors.base import Priors
from astro_ddprism.diffusion.posteriors.langevin import Langevin
from astro_ddprism.diffusion.priors.gaussian import GaussianPrior
from astro_ddprism.diffusion.priors.mixture import GaussianMixture
from astro_ddprism.diffusion.priors.schedule import NoiseSchedule
from astro_ddprism.diffusion.random import Rows
from astro_ddprism.diffusion.sampling.chains import Chains
from astro_ddprism.mixing import DenseMatrix, DiagonalNoise
from astro_ddprism.views.base import Batch

CPU = torch.device("cpu")


def run(priors, observation, *, n_scales, seed=3, **options):
    rows = Rows.of(seed, ids=range(len(observation)), device=CPU)
    method = Langevin(**options)
    return method.run(priors, observation, rows, chains=Chains(n_steps=n_scales), start=0.7).numpy()


def observe(y, variance, n, **designs):
    """One observation of vectors, for ``n`` chains."""
    y = torch.tensor(y).float().expand(n, -1)
    mixing = {source: DenseMatrix(np.array(A)) for source, A in designs.items()}
    batch = Batch(y, mixing, DiagonalNoise(torch.full_like(y, variance)))
    return JointObservation(batch, {source: A.source_shape for source, A in mixing.items()})


def test_gaussian_posterior():
    """Mean and covariance of two sources that share their light, by dense algebra.

    The dynamics is right as its steps and scales allow, here to a tenth of a standard deviation.
    """
    n, rng = 1200, np.random.default_rng(1)
    A = {source: rng.normal(size=(3, 2)) for source in "ab"}
    gaussians = {
        source: GaussianPrior(
            torch.tensor(rng.normal(size=2)).float(), torch.tensor(rng.normal(size=(2, 2))).float()
        )
        for source in A
    }
    mean = np.concatenate([p.mean.numpy() for p in gaussians.values()])
    prior = block_diag(*((p.factor @ p.factor.T).numpy() for p in gaussians.values()))
    design = np.hstack(list(A.values()))
    y = design @ rng.multivariate_normal(mean, prior) + rng.normal(0, 0.5, 3)
    priors = Priors(NoiseSchedule(0.05, 10.0), gaussians=gaussians)
    x = run(priors, observe(y, 0.25, n, **A), n_scales=60, n_repeats=16)
    gain = prior @ design.T @ np.linalg.inv(design @ prior @ design.T + 0.25 * np.eye(3))
    expected, spread = mean + gain @ (y - design @ mean), prior - gain @ design @ prior
    std = np.sqrt(np.diagonal(spread))
    np.testing.assert_allclose(x.mean(axis=0) / std, expected / std, rtol=0, atol=0.2)
    found = np.cov(x.T) / np.outer(std, std)
    np.testing.assert_allclose(found, spread / np.outer(std, std), rtol=0, atol=0.2)


def test_two_modes():
    """Their weights, where the observation's own noise is wider than the modes' distance in it.

    One observed number, a tenth of the first coordinate in units of its noise; modes of weight 0.3
    and 0.7 differ in both.
    """
    n, A, y = 1500, np.array([[0.1, 0.0]]), 1.2
    weights, means = [0.3, 0.7], [[3.0, 3.0], [-3.0, -2.0]]
    mixture = GaussianMixture(*map(torch.tensor, (weights, means, np.stack([np.eye(2) / 4] * 2))))
    priors = Priors(NoiseSchedule(0.1, 20.0), mixtures={"a": mixture})
    x = run(priors, observe([y], 1.0, n, a=A), n_scales=40, n_repeats=10)
    evidence = [
        w * multivariate_normal(A @ m, A @ A.T / 4 + 1).pdf(y)
        for w, m in zip(weights, np.array(means), strict=True)
    ]
    upper = x[:, 0] > 0
    np.testing.assert_allclose(upper.mean(), evidence[0] / sum(evidence), atol=0.03)
    np.testing.assert_allclose(x[upper].std(axis=0), 0.5, atol=0.03)
    np.testing.assert_allclose(x[upper][:, 1].mean(), 3.0, atol=0.05)


def test_noiseless_mixtures_of_exchangeable_sources():
    """A sum of two numbers out of {-2, 0, 2}, each: which ones, and that the sum is met."""
    n, means = 1500, torch.tensor([[-2.0], [0.0], [2.0]]).double()
    weights = torch.tensor([0.25, 0.5, 0.25]).double()
    mixture = GaussianMixture(weights, means, torch.full((3, 1, 1), 0.04).double())
    priors = Priors(NoiseSchedule(0.02, 8.0), mixtures={"a": mixture, "b": mixture})
    x = run(priors, observe([2.0], 1e-8, n, a=[[1.0]], b=[[1.0]]), n_scales=40, n_repeats=10)
    np.testing.assert_allclose(x.sum(axis=1), 2.0, atol=0.05)
    upper = x[:, 0] > x[:, 1]
    np.testing.assert_allclose(upper.mean(), 0.5, atol=0.04)  # either may be the one that is 2
    np.testing.assert_allclose(np.sort(x, axis=1).mean(axis=0), [0, 2], atol=0.03)
    # Along the sum, each deviates by 0.2 / sqrt(2).
    np.testing.assert_allclose((x[:, 0] - x[:, 1])[upper].std(), 0.2 * np.sqrt(2), rtol=0.15)
