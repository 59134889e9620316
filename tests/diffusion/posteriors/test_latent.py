"""Posteriors of latent vectors against dense algebra in float64."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag
from scipy.optimize import brute
from scipy.stats import multivariate_normal

from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.diffusion.posteriors import latent
from astro_ddprism.diffusion.posteriors.latent import (
    LatentPosterior,
    absorb_residual,
    latent_posterior,
)
from astro_ddprism.diffusion.priors.gaussian import GaussianPrior
from astro_ddprism.diffusion.random import Rows
from astro_ddprism.mixing import DenseMatrix, DiagonalNoise, PhotonNoise
from astro_ddprism.views.base import Batch

CPU = torch.device("cpu")


def make_rows(seed, n):
    """Random numbers of n rows."""
    return Rows.of(seed, ids=range(n), device=CPU)


def priors_of(problem, rank, seed=1):
    """Priors in subspaces, with scales; 12 dimensions a source."""
    rng = np.random.default_rng(seed)
    return [
        GaussianPrior(
            torch.tensor(rng.normal(size=12)),
            torch.tensor(rng.normal(size=(12, rank))),
            torch.tensor([0.4, 0.7], dtype=torch.float64),
        )
        for _ in range(problem.n_sources)
    ]


def dense_prior(priors, scales):
    mean = np.concatenate([p.mean.numpy() for p in priors])
    blocks = [
        (s * p.factor.numpy()) @ (s * p.factor.numpy()).T
        for p, s in zip(priors, scales, strict=True)
    ]
    return mean, block_diag(*blocks)


def dense_posterior(problem, i, mean, covariance):
    """In the form that needs no inverse of the prior's covariance, which is singular."""
    rows = ~problem.mask[i]
    A, noise = problem.matrices[i][rows], np.diag(problem.variance[i][rows])
    gain = covariance @ A.T @ np.linalg.inv(A @ covariance @ A.T + noise)
    return mean + gain @ (problem.y[i][rows] - A @ mean), covariance - gain @ A @ covariance


@pytest.mark.parametrize("psf", [False, True], ids=["matrices", "psf"])
@pytest.mark.parametrize("n_sources", [1, 2, 3])
@pytest.mark.parametrize("rank", [3, 12])
def test_posterior_against_dense_algebra(linear_problem, n_sources, psf, rank):
    problem = linear_problem(n_sources, psf)
    priors = priors_of(problem, rank)
    scales = np.random.default_rng(4).uniform(0.3, 2, size=(2, n_sources))
    posterior = LatentPosterior(problem.observation(), priors, torch.tensor(scales))
    expectation = torch.cat(posterior.expectation(), dim=1)
    factors = block_diag(*(p.factor.numpy() for p in priors))
    for i in range(2):
        mean, covariance = dense_posterior(problem, i, *dense_prior(priors, scales[i]))
        np.testing.assert_allclose(expectation[i], mean, rtol=0, atol=1e-9)
        W = factors * np.repeat(scales[i], rank)
        np.testing.assert_allclose(W @ posterior.covariance[i].numpy() @ W.T, covariance, atol=1e-9)


def test_draws(linear_problem):
    """Draws have the mean and the covariance of the dense posterior."""
    problem = linear_problem(2, psf=True)
    priors = priors_of(problem, 12)
    n = 4000
    posterior = LatentPosterior(problem.observation(), priors)
    typical = math.exp(0.4)
    np.testing.assert_allclose(posterior.scales, typical)  # the priors' median
    index = torch.arange(2).repeat_interleave(n)
    x = torch.cat(posterior.sample(make_rows(5, 2 * n), index), dim=1).view(2, n, 24).numpy()
    assert torch.cat(posterior.sample(make_rows(5, 2)), dim=1).shape == (2, 24)
    for i in range(2):
        mean, covariance = dense_posterior(problem, i, *dense_prior(priors, [typical] * 2))
        z = np.linalg.solve(np.linalg.cholesky(covariance), (x[i] - mean).T)
        assert np.abs(z.mean(axis=1)).max() < 5 / np.sqrt(n)
        assert np.abs(np.cov(z) - np.eye(24)).max() < 5 * np.sqrt(2 / n)


def test_scales_are_at_their_maximum(linear_problem):
    """Against a brute-force search of the marginal likelihood with the prior on the scale."""
    problem = linear_problem(2, psf=True)
    priors = priors_of(problem, 4)
    posterior = LatentPosterior(problem.observation(), priors)
    posterior.maximize_scales([True, True], iterations=2000)
    typical = math.exp(0.4)

    def cost(log_scales, i):
        mean, covariance = dense_prior(priors, np.exp(log_scales))
        rows = ~problem.mask[i]
        A = problem.matrices[i][rows]
        predicted = A @ covariance @ A.T + np.diag(problem.variance[i][rows])
        residual = problem.y[i][rows] - A @ mean
        chi2 = residual @ np.linalg.solve(predicted, residual)
        evidence = -(chi2 + np.linalg.slogdet(predicted)[1]) / 2
        damping = -log_scales - (0.1 * typical) ** 2 / 2 * np.exp(-2 * log_scales)
        return -evidence - damping.sum()

    for i in range(2):
        best = brute(cost, 2 * [(-3, 5)], args=(i,), Ns=30)
        np.testing.assert_allclose(posterior.scales[i], np.exp(best), rtol=1e-3)
    # The posterior is that of the scales found.
    again = LatentPosterior(problem.observation(), priors, posterior.scales)
    torch.testing.assert_close(again.mean, posterior.mean)
    torch.testing.assert_close(again.covariance, posterior.covariance)


def test_only_marked_scales_move(linear_problem):
    problem = linear_problem(2, psf=True)
    posterior = LatentPosterior(problem.observation(), priors_of(problem, 4))
    before = posterior.scales
    posterior.maximize_scales([True, False])
    assert (posterior.scales[:, 0] != before[:, 0]).all()
    assert torch.equal(posterior.scales[:, 1], before[:, 1])


def test_scales_follow_the_flux(linear_problem):
    """An observation a hundred times brighter has a scale about a hundred times as large."""
    problem = linear_problem(1, psf=True)
    prior = GaussianPrior(torch.zeros(12).double(), torch.eye(12).double())
    problem.variance *= 1e-4
    scales = []
    observation = problem.observation()
    for flux in (1, 100):
        observation.y = flux * torch.tensor(problem.y * np.sqrt(problem.weights))
        posterior = LatentPosterior(observation, [prior])
        posterior.maximize_scales([True], iterations=50)
        scales.append(posterior.scales[:, 0])
    np.testing.assert_allclose(scales[1] / scales[0], 100, rtol=0.05)


def test_absorbed_residual_is_a_posterior_draw(linear_problem):
    """What the first source takes is a draw of an isotropic Gaussian given the residual."""
    problem, n = linear_problem(2, psf=True), 4000
    observation = problem.observation(n)
    x = torch.zeros(2 * n, 24, dtype=torch.float64)
    chi2 = observation.chi2(x)
    draws = absorb_residual(observation, x, make_rows(7, 2 * n)).view(2, n, 24).numpy()
    assert (draws[..., 12:] == 0).all()
    for i in range(2):
        delta = chi2[i * n].item() - 1
        covariance = block_diag(delta * np.eye(12), np.zeros((12, 12)))
        mean, covariance = dense_posterior(problem, i, np.zeros(24), covariance)
        z = np.linalg.solve(np.linalg.cholesky(covariance[:12, :12]), (draws[i] - mean).T[:12])
        assert np.abs(z.mean(axis=1)).max() < 5 / np.sqrt(n)
        assert np.abs(np.cov(z) - np.eye(12)).max() < 5 * np.sqrt(2 / n)


def test_explained_observations_absorb_nothing(linear_problem):
    observation = linear_problem(1, psf=True).observation()
    observation.y = torch.zeros_like(observation.y)
    x = torch.zeros(2, 12, dtype=torch.float64)
    assert torch.equal(absorb_residual(observation, x, make_rows(8, 2)), x)


def test_photon_noise():
    """The posterior of a flux under its own photon noise: right mean, right width."""
    rng, n, gain = np.random.default_rng(0), 400, 2.0
    y, x = np.mgrid[:7, :7] - 3
    profile = np.exp(-np.hypot(x, y) / 1.2).ravel()
    flux = 200 + 50 * rng.normal(size=(n, 1))
    light = flux * profile
    images = rng.poisson(gain * light.clip(min=0)) / gain + rng.normal(size=light.shape)
    prior = GaussianPrior(
        torch.tensor([200.0], dtype=torch.float64), torch.tensor([[50.0]], dtype=torch.float64)
    )
    noise = PhotonNoise(DiagonalNoise(torch.ones(n, 49, dtype=torch.float64)), gain)
    A = DenseMatrix(profile[:, None], dtype=torch.float64)
    observation = JointObservation(Batch(torch.tensor(images), {"a": A}, noise), {"a": (1,)})
    posterior = latent_posterior(observation, {"a": prior})
    precision = (profile**2 / (1 + light / gain)).sum(1) + 50.0**-2
    error = 50 * posterior.covariance[:, 0, 0].sqrt().numpy()
    np.testing.assert_allclose(error, precision**-0.5, rtol=0.15)
    pull = (posterior.expectation()[0].numpy() - flux)[:, 0] / error
    # 400 pulls: 0.05 and 0.035.
    assert pull.mean() == pytest.approx(0, abs=0.15)
    assert pull.std() == pytest.approx(1, abs=0.12)
    ignored = LatentPosterior(observation.at(torch.zeros(n, 1).double()), [prior])
    assert (ignored.expectation()[0].numpy() - flux)[:, 0].std() > 1.1 * (pull * error).std()


def test_evidence(linear_problem):
    """Log density of the whitened observations, by SciPy."""
    problem = linear_problem(2, psf=False)
    priors, scales = priors_of(problem, 3), np.array([0.7, 1.6])
    posterior = LatentPosterior(problem.observation(), priors, torch.tensor(scales).expand(2, -1))
    mean, covariance = dense_prior(priors, scales)
    for i in range(2):
        rows = ~problem.mask[i]
        std = np.sqrt(problem.variance[i][rows])
        A = problem.matrices[i][rows] / std[:, None]
        predicted = A @ covariance @ A.T + np.eye(len(A))
        expected = multivariate_normal(A @ mean, predicted).logpdf(problem.y[i][rows] / std)
        np.testing.assert_allclose(float(posterior.log_evidence[i]), expected, rtol=1e-6)


@pytest.mark.parametrize("shared", [True, False])
def test_observations_that_share_their_operators(linear_problem, monkeypatch, shared):
    """The same of one factorization as of many, and that only where they do share."""
    problem, rng = linear_problem(2, psf=False), np.random.default_rng(3)
    priors = priors_of(problem, 3)
    y, variance = torch.tensor(rng.normal(size=(4, 7))), torch.full((4, 7), 0.3).double()
    if not shared:
        variance[2, 1] = 0.4
    mixing = {s: DenseMatrix(rng.normal(size=(7, 12)), dtype=torch.float64) for s in "ab"}
    batch = Batch(y, mixing, DiagonalNoise(variance))
    observation = JointObservation(batch, {"a": (12,), "b": (12,)})
    found = []
    for large in (1 << 24, 0):
        monkeypatch.setattr(latent, "_LARGE", large)
        posterior = LatentPosterior(observation, priors)
        assert len(posterior._design) == (1 if shared and not large else 4)
        index = torch.tensor([0, 3, 3])
        draws = posterior.sample(make_rows(1, 3), index)
        first = posterior.mean, posterior.covariance, posterior.log_evidence, *draws
        posterior.maximize_scales([True, False])
        found.append([*first, posterior.scales, posterior.mean, *posterior.sample(make_rows(1, 4))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
