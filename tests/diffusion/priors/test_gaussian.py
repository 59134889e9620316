"""Gaussian priors against dense algebra in float64."""

import math

import numpy as np
import pytest
import torch
from azula.denoise import GaussianDenoiser
from azula.linalg.covariance import FullCovariance
from azula.noise import VESchedule
from scipy.integrate import quad
from scipy.stats import multivariate_normal

from astro_ddprism.diffusion.priors.gaussian import GaussianPrior, ScaleMixtureDenoiser, has_scales
from astro_ddprism.diffusion.random import Rows, seeded

CPU = torch.device("cpu")
SCHEDULE = VESchedule(0.05, 50.0)


def make_rows(seed, n):
    """Random numbers of n rows."""
    return Rows.of(seed, ids=range(n), device=CPU)


def test_prior_samples():
    rng = np.random.default_rng(2)
    mean, factor = rng.normal(size=3), rng.normal(size=(3, 2))
    prior = GaussianPrior(torch.tensor(mean), torch.tensor(factor))
    n = 20000
    x = prior.sample(make_rows(3, n)).numpy()
    prior.log_scale = torch.tensor([0.5, 0.3], dtype=torch.float64)
    scaled = prior.sample(make_rows(4, n)).numpy()
    covariance = factor @ factor.T
    error = 5 * np.sqrt(2 / n) * np.outer(*2 * [np.sqrt(covariance.diagonal())])
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=5 * np.sqrt(covariance.max() / n))
    assert (np.abs(np.cov(x.T) - covariance) < error).all()
    # E[s^2] of the log-normal scale
    assert (
        np.abs(np.cov(scaled.T) / math.exp(2 * 0.5 + 2 * 0.3**2) - covariance) < 1.5 * error
    ).all()


def test_typical_root_mean_square():
    """Of samples at the median scale, to three standard errors."""
    with seeded(31, device=CPU):
        mean, factor = 3 * torch.randn(4), torch.randn(4, 2)
        x = GaussianPrior(mean, 5 * factor).sample(make_rows(31, 20_000))
    prior = GaussianPrior(mean, factor, torch.tensor([math.log(5.0), 1.2]))
    assert prior.rms == pytest.approx(float(x.square().mean().sqrt()), rel=0.02)


def test_prior_in_another_precision():
    prior = GaussianPrior(torch.zeros(3), torch.ones(3, 2))
    assert prior.rank == 2
    assert prior.to(dtype=torch.float64).sample(make_rows(1, 4)).dtype == torch.float64


@pytest.mark.parametrize("rank", [2, 6])
def test_denoiser(rank):
    """Against azula's Gaussian denoiser, one scale at a time, on images."""
    rng = np.random.default_rng(6)
    mean, W = torch.tensor(rng.normal(size=6)), rng.normal(size=(6, rank))
    scales = torch.tensor([0.2, 1.0, 30.0], dtype=torch.float64)
    denoiser = ScaleMixtureDenoiser(GaussianPrior(mean, torch.tensor(W)), scales, SCHEDULE)
    L, Q = np.linalg.eigh(W @ W.T)
    x_t = torch.tensor(rng.normal(size=(3, 1, 2, 3)) * 10)
    for t in torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64):
        found = denoiser(x_t, t).mean
        assert found.shape == x_t.shape
        for k, scale in enumerate(scales):
            covariance = FullCovariance(torch.tensor(Q), scale**2 * torch.tensor(L.clip(min=0)))
            expected = GaussianDenoiser(mean, covariance, SCHEDULE)(x_t[k].flatten()[None], t).mean
            torch.testing.assert_close(found[k].flatten(), expected[0])


@pytest.mark.parametrize("log_scale", [(0.0, 0.0), (-0.7, 0.0), (0.4, 0.7)], ids=str)
@pytest.mark.parametrize("sigma", [0.1, 2.0])
def test_density_by_integration_over_scales(sigma, log_scale):
    """By scipy, for vectors from the middle of the prior to far beyond it; to 1e-6 nats."""
    rng = np.random.default_rng(9)
    mean, W = rng.normal(size=4), rng.normal(size=(4, 2))
    location, spread = log_scale
    prior = GaussianPrior(*map(torch.tensor, (mean, W, np.array(log_scale))))
    x = mean + np.array([0.0, 1.0, 10.0])[:, None] * (W @ [1.0, -0.5]) + sigma * rng.normal(size=4)
    found = prior.log_prob(torch.tensor(x), torch.tensor(sigma, dtype=torch.float64))
    assert found.shape == (3,)

    def given(x, z):
        covariance = np.exp(2 * (location + spread * z)) * W @ W.T + sigma**2 * np.eye(4)
        return multivariate_normal.logpdf(x, mean, covariance)

    def weighted(z, x, highest):
        return np.exp(given(x, z) - highest - z**2 / 2) / math.sqrt(2 * math.pi)

    for one, log_prob in zip(x, found, strict=True):
        expected = given(one, 0.0)
        if spread:
            highest = max(given(one, z) for z in np.linspace(-8, 8, 161))
            density = quad(weighted, -8, 8, (one, highest), epsabs=0, epsrel=1e-9, limit=400)[0]
            expected = highest + math.log(density)
        assert float(log_prob) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("shape", "expected"), [((1, 8, 8), True), ((5,), False), ((2, 3), False)])
def test_images_have_scales(shape, expected):
    assert has_scales(shape) is expected
