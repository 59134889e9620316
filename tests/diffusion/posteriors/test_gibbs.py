"""One source at a time, given the others, against the exact posterior of all."""

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag

from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.diffusion.posteriors.base import Priors
from astro_ddprism.diffusion.posteriors.gibbs import Gibbs
from astro_ddprism.diffusion.posteriors.solvers import Dense
from astro_ddprism.diffusion.priors.gaussian import GaussianPrior, ScaleMixtureDenoiser
from astro_ddprism.diffusion.priors.schedule import NoiseSchedule
from astro_ddprism.diffusion.random import Rows
from astro_ddprism.diffusion.sampling.chains import Chains
from astro_ddprism.mixing import DenseMatrix, DiagonalNoise, Identity, PhotonNoise
from astro_ddprism.views.base import Batch

CPU = torch.device("cpu")
SCHEDULE = NoiseSchedule(0.003, 100.0)


def gaussian_priors(sources, size=12, rank=5, seed=1):
    rng = np.random.default_rng(seed)
    return {
        source: GaussianPrior(
            torch.tensor(rng.normal(size=size)).float(),
            torch.tensor(rng.normal(size=(size, rank)) * np.geomspace(1.5, 0.3, rank)).float(),
        )
        for source in sources
    }


def moments_of(gaussians):
    mean = np.concatenate([prior.mean.numpy() for prior in gaussians.values()]).astype(float)
    factors = [prior.factor.numpy().astype(float) for prior in gaussians.values()]
    return mean, block_diag(*(W @ W.T for W in factors))


def posterior_of(problem, i, mean, covariance):
    """By dense algebra, of a prior whose covariance is singular."""
    rows = ~problem.mask[i]
    A, noise = problem.matrices[i][rows], np.diag(problem.variance[i][rows])
    gain = covariance @ A.T @ np.linalg.inv(A @ covariance @ A.T + noise)
    return mean + gain @ (problem.y[i][rows] - A @ mean), covariance - gain @ A @ covariance


@pytest.mark.parametrize(("n_sources", "learned"), [(2, False), (2, True), (3, False)])
def test_gaussian_posteriors_stay_as_they_are(linear_problem, mixtures, n_sources, learned):
    """Draws from the posterior, by dense algebra, and a few rounds later: mean and covariance.

    Of denoisers, those of the Gaussians, by chains of moment matching.
    """
    problem, n = linear_problem(n_sources, psf=False), 1000
    gaussians = gaussian_priors(problem.source_shapes)
    priors, rng = Priors(SCHEDULE, gaussians=gaussians), np.random.default_rng(4)
    if learned:
        schedule = priors.schedule(*gaussians)
        priors.denoisers = {
            source: ScaleMixtureDenoiser(prior, torch.ones(1), schedule)
            for source, prior in gaussians.items()
        }
    expected = [posterior_of(problem, i, *moments_of(gaussians)) for i in range(2)]
    first = np.concatenate([rng.multivariate_normal(*each, n, method="eigh") for each in expected])
    x = (
        Gibbs(n_rounds=1 if learned else 3, solver=Dense())
        .run(
            priors,
            problem.observation(n, torch.float32),
            Rows.of(4, ids=range(2 * n), device=CPU),
            chains=Chains(n_steps=120),
            start=0.7,
            first=torch.tensor(first).float(),
        )
        .view(2, n, -1)
    )
    assert (x.view(2 * n, -1) - torch.tensor(first)).abs().mean() > 0.05  # they do move
    for draws, (mean, covariance) in zip(x.numpy(), expected, strict=True):
        if learned:  # within what the steps of a chain leave
            std = np.sqrt(np.diagonal(covariance))
            np.testing.assert_allclose(draws.mean(axis=0) / std, mean / std, rtol=0, atol=0.15)
            found = np.cov(draws.T) / np.outer(std, std)
            np.testing.assert_allclose(found, covariance / np.outer(std, std), rtol=0, atol=0.2)
        else:
            mixtures.assert_moments(draws, mean, covariance + 1e-6 * np.eye(len(mean)))


def test_a_round_goes_on_from_known_draws(linear_problem):
    """From two far points, one round: means as far apart as dense algebra says of one round."""
    problem, n = linear_problem(2, psf=False), 1500
    gaussians = gaussian_priors("ab")

    priors, observation = (
        Priors(SCHEDULE, gaussians=gaussians), problem.observation(n, torch.float32)
    )  # fmt: skip
    begin = torch.tensor(np.random.default_rng(5).normal(size=24)).float()
    rows = Rows.of(3, ids=range(2 * n), device=CPU)
    options = {"chains": Chains(), "start": 0.7, "first": begin.expand(2 * n, -1)}
    x = Gibbs(n_rounds=1).run(priors, observation, rows, **options).view(2, n, 24)
    mean, covariance = moments_of(gaussians)
    for i in range(2):
        keep = ~problem.mask[i]
        A, noise = problem.matrices[i][keep], np.diag(problem.variance[i][keep])
        expected, value = [], begin.numpy().astype(float)
        for own, others in ((slice(0, 12), slice(12, 24)), (slice(12, 24), slice(0, 12))):
            prior, design = covariance[own, own], A[:, own]
            gain = prior @ design.T @ np.linalg.inv(design @ prior @ design.T + noise)
            left = problem.y[i][keep] - A[:, others] @ value[others] - design @ mean[own]
            value[own] = mean[own] + gain @ left
            expected.append(value[own].copy())
        found = x[i].mean(dim=0).numpy()
        error = 5 * x[i].std(dim=0).numpy() / np.sqrt(n)
        assert (np.abs(found - np.concatenate(expected)) < error + 1e-3).all()


def test_two_modes(mixtures):
    """Weights of the modes of two sources that share their light, by enumeration."""
    n, observed = 1000, mixtures.observed((2, 2), n=2, masked=False)
    observed.designs = [0.3 * A for A in observed.designs]
    observed.y = np.random.default_rng(1).normal(size=observed.y.shape)
    index = np.repeat([0, 1], n)
    designs = dict(zip("ab", observed.designs, strict=True))
    y = torch.tensor(observed.y[index]).float()
    batch = Batch(
        y, {s: DenseMatrix(A[index]) for s, A in designs.items()}, DiagonalNoise(torch.ones_like(y))
    )
    shapes = {source: A.shape[2:] for source, A in designs.items()}
    priors = Priors(SCHEDULE, mixtures=dict(zip("ab", observed.mixtures, strict=True)))
    priors.gaussians = {s: m.gaussian() for s, m in priors.mixtures.items()}
    rows = Rows.of(4, ids=range(2 * n), device=CPU)
    x = Gibbs(n_rounds=25).run(
        priors, JointObservation(batch, shapes), rows, chains=Chains(), start=0.7
    )
    for i, draws in enumerate(x.unflatten(0, (2, n))):
        mixtures.assert_moments(draws, *observed.moments(i))


def test_what_one_source_is_left_to_explain():
    """Residuals, and photon noise of all the light, of two images one of which lacks a source."""
    rng = np.random.default_rng(0)
    light = torch.tensor(rng.uniform(5, 9, (3, 1, 4, 4))).float()
    noise = PhotonNoise(DiagonalNoise(torch.full((3, 1, 4, 4), 2.0)), 4.0)
    both = Batch(light, {"a": Identity((1, 4, 4)), "b": Identity((1, 4, 4))}, noise)
    alone = Batch(light / 2, {"a": Identity((1, 4, 4))}, DiagonalNoise(torch.ones(3, 1, 4, 4)))
    shapes = {"a": (1, 4, 4), "b": (1, 4, 4)}
    observation = JointObservation([both, alone], shapes)
    x = torch.tensor(rng.uniform(1, 4, (3, 32))).float()
    a, b = x.view(3, 2, 1, 4, 4).unbind(1)
    std = (2 + (a + b) / 4).sqrt()
    for source, left, others in (("a", light - b, 0), ("b", light - a, a)):
        found = observation.alone(source, x)
        assert (found.source_shapes, found.sizes) == ({source: (1, 4, 4)}, [16])
        assert not found.depends_on_signal
        expected = torch.cat([(left / std).flatten(1), (light / 2 - others).flatten(1)], dim=1)
        torch.testing.assert_close(found.y, expected)
        held = torch.ones(16) if source == "a" else torch.zeros(16)
        v = torch.tensor(rng.normal(size=(3, 16))).float()
        expected = torch.cat([v / std.flatten(1), held * v], dim=1)
        torch.testing.assert_close(found.forward(v), expected)
        r = torch.tensor(rng.normal(size=(3, 32))).float()
        torch.testing.assert_close(
            (found.adjoint(r) * v).sum(dim=1), (r * found.forward(v)).sum(dim=1)
        )
    assert observation.depends_on_signal
