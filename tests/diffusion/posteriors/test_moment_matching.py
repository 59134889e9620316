"""Joint posterior sampling against the exact posterior of Gaussian sources."""

import numpy as np
import pytest
import torch
from azula.denoise import Denoiser, DiracPosterior, GaussianDenoiser
from azula.linalg.covariance import FullCovariance
from azula.noise import VESchedule
from azula.sample import DDPMSampler, PCSampler, zEABSampler
from scipy.linalg import block_diag

from astro_ddprism.diffusion.jacobian import linearize
from astro_ddprism.diffusion.networks.mlp import MLP
from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.diffusion.posteriors.moment_matching import JointPosteriorDenoiser
from astro_ddprism.diffusion.posteriors.solvers import CG, GMRES, Dense
from astro_ddprism.diffusion.priors.denoiser import SourceDenoiser
from astro_ddprism.diffusion.random import seeded
from astro_ddprism.mixing import DenseMatrix, DiagonalNoise, PhotonNoise
from astro_ddprism.views.base import Batch

SCHEDULE = VESchedule(0.01, 100.0)


class GaussianSource(Denoiser):
    """A Gaussian source with correlated features, of any shape."""

    def __init__(self, size, shape, seed):
        super().__init__()
        rng = np.random.default_rng(seed)
        Q = np.linalg.qr(rng.normal(size=(size, size)))[0]
        L = np.geomspace(0.1, 4, size) ** 2
        self.mean, self.covariance = rng.normal(size=size), (Q * L) @ Q.T
        full = FullCovariance(torch.tensor(Q), torch.tensor(L))
        self.flat = GaussianDenoiser(torch.tensor(self.mean), full, SCHEDULE)
        self.schedule, self.shape = SCHEDULE, shape

    def forward(self, x_t, t):
        mean = self.flat(x_t.flatten(1), t).mean
        return DiracPosterior(mean=mean.unflatten(1, self.shape))


def gaussian_sources(problem):
    """One Gaussian for each source, and the mean and covariance of all."""
    sources = [
        GaussianSource(12, shape, seed)
        for seed, shape in enumerate(problem.source_shapes.values(), start=10)
    ]
    mean = np.concatenate([s.mean for s in sources])
    return sources, mean, block_diag(*(s.covariance for s in sources))


SOLVERS = {"dense": Dense(), "gmres": GMRES(8)}
SAMPLERS = {
    "ddpm": lambda denoiser: DDPMSampler(denoiser, steps=256, silent=True),
    "pc": lambda denoiser: PCSampler(denoiser, steps=128, corrections=1, delta=0.1, silent=True),
}


@pytest.mark.parametrize("solver", [Dense(), GMRES(12), CG(20)], ids=["dense", "gmres", "cg"])
@pytest.mark.parametrize("psf", [False, True], ids=["matrices", "psf"])
@pytest.mark.parametrize("n_sources", [1, 2, 3])
def test_mean_is_exact(linear_problem, n_sources, psf, solver):
    """E[x | x_t, y] of Gaussian sources at every noise scale, against dense algebra."""
    problem = linear_problem(n_sources, psf)
    sources, mean, covariance = gaussian_sources(problem)
    denoiser = JointPosteriorDenoiser(sources, problem.observation(), solver)
    rng = np.random.default_rng(1)
    for t in (0.0, 0.3, 0.6, 1.0):
        sigma2 = SCHEDULE.sigma(torch.tensor(t, dtype=torch.float64)).item() ** 2
        x_t = mean + rng.normal(size=(2, len(mean))) * np.sqrt(sigma2 + covariance.diagonal())
        found = denoiser(torch.tensor(x_t), torch.tensor(t, dtype=torch.float64)).mean
        assert not found.requires_grad
        # Given x_t, the sources are Gaussian; the observation then updates them.
        gain = covariance @ np.linalg.inv(covariance + sigma2 * np.eye(len(mean)))
        for i in range(2):
            expected, _ = problem.posterior(i, mean + gain @ (x_t[i] - mean), sigma2 * gain)
            np.testing.assert_allclose(found[i], expected, rtol=0, atol=1e-7)


def networks(problem):
    """Denoisers whose Jacobians are neither symmetric nor positive: networks of random weights."""
    with seeded(8, device=torch.device("cpu")):
        backbones = [
            MLP(width=32, embedding=16).build(shape, 2) for shape in problem.source_shapes.values()
        ]
    for backbone in backbones:
        backbone.last.weight.data *= 30
    return [SourceDenoiser(backbone, SCHEDULE, 3.0).double() for backbone in backbones]


@pytest.mark.parametrize("solver", [Dense(), GMRES(12)], ids=["dense", "gmres"])
@pytest.mark.parametrize("psf", [False, True], ids=["matrices", "psf"])
def test_mean_with_networks(linear_problem, psf, solver):
    """E[x | x_t, y] of two networks, from their Jacobians and numpy."""
    problem = linear_problem(2, psf)
    denoisers = networks(problem)
    observation = problem.observation()
    t = torch.tensor(0.4, dtype=torch.float64)
    sigma2 = SCHEDULE.sigma(t).item() ** 2
    x_t = 5 * torch.randn(2, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    found = JointPosteriorDenoiser(denoisers, observation, solver)(x_t, t).mean

    def estimate(x):
        parts = zip(denoisers, observation.split(x), strict=True)
        return observation.join([denoiser(part, t).mean for denoiser, part in parts])

    jacobian = torch.func.jacrev(estimate)(x_t)
    for i in range(2):
        V = sigma2 * jacobian[i, :, i].detach().numpy().T  # a product with V is a pullback
        mean = estimate(x_t)[i].detach().numpy()
        A = problem.matrices[i] * np.sqrt(problem.weights[i])[:, None]
        M = np.eye(len(A)) + A @ V @ A.T
        residual = observation.y[i].numpy() - A @ mean
        expected = mean + V @ A.T @ np.linalg.solve(M, residual)
        assert np.abs(V - V.T).max() > 0.1 * np.abs(V).max()
        np.testing.assert_allclose(found[i], expected, rtol=0, atol=1e-8)


class Counting(Denoiser):
    """A denoiser that keeps how many vectors its pullback was given, each time."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser, self.schedule, self.vectors = denoiser, SCHEDULE, []

    def forward(self, x_t, t):
        return self.denoiser(x_t, t)


@linearize.register
def _(denoiser: Counting, x_t, t):
    value, pullback = linearize(denoiser.denoiser, x_t, t)

    def counted(v):
        denoiser.vectors.append(len(v))
        return pullback(v)

    return value, counted


@pytest.mark.parametrize(
    ("solver", "vectors"), [(GMRES(1), [1]), (GMRES(3), [1, 1, 1]), (CG(2), [1, 1]), (Dense(), [7])]
)
def test_number_of_products(linear_problem, solver, vectors):
    """As many products as iterations, or numbers in an observation: the correction adds none."""
    problem = linear_problem(2, psf=False)
    denoisers = [Counting(denoiser) for denoiser in networks(problem)]
    joint = JointPosteriorDenoiser(denoisers, problem.observation(), solver)
    joint(torch.ones(2, 24, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64))
    assert [denoiser.vectors for denoiser in denoisers] == [vectors, vectors]


def whitened(x, mean, covariance):
    """Draws in coordinates in which they should be standard normal."""
    return np.linalg.solve(np.linalg.cholesky(covariance), (x - mean).T).T


@pytest.mark.parametrize(
    ("n_sources", "psf", "sampler", "solver"),
    [
        (1, True, "ddpm", "dense"),
        (1, False, "pc", "gmres"),
        (2, False, "ddpm", "dense"),
        (2, True, "pc", "gmres"),
        (3, True, "ddpm", "gmres"),
        (3, False, "pc", "dense"),
    ],
)
def test_draws_have_the_exact_moments(linear_problem, n_sources, psf, sampler, solver):
    """Mean and covariance of draws, where those of the posterior are 0 and 1.

    The tolerance is five standard deviations of the sampling error of n draws, for each of a few
    hundred elements, and 6 % for the steps: the ancestral sampler's variances are low by about
    the logarithm of the ratio of subsequent noise scales, here log(10^4) / 256 = 3.6 %.
    """
    n, bias = 512, 0.06
    problem = linear_problem(n_sources, psf)
    sources, mean, covariance = gaussian_sources(problem)
    denoiser = JointPosteriorDenoiser(sources, problem.observation(n), SOLVERS[solver])
    with seeded(2, device=torch.device("cpu")):
        x = torch.randn(2 * n, len(mean), dtype=torch.float64) * SCHEDULE.sigma_max
        x = SAMPLERS[sampler](denoiser)(x)
    for i, draws in enumerate(x.view(2, n, -1).numpy()):
        z = whitened(draws, *problem.posterior(i, mean, covariance))
        size = z.shape[1]
        assert np.abs(z.mean(axis=0)).max() < 5 / np.sqrt(n) + bias / 2
        found = np.cov(z.T)
        error = np.sqrt((1 + np.eye(size)) / n)
        assert (np.abs(found - np.eye(size)) < 5 * error + bias * np.eye(size)).all()
        # All variances together are known much better than each.
        assert abs(np.trace(found) / size - 1) < 5 * np.sqrt(2 / (n * size)) + bias


def test_draws_know_their_own_observation(linear_problem):
    """The residuals of posterior draws have the spread of the noise."""
    n = 256
    problem = linear_problem(2, psf=False)
    sources, mean, covariance = gaussian_sources(problem)
    observation = problem.observation(n)
    # An observation that the priors expect, in place of noise.
    rng = np.random.default_rng(3)
    x = rng.multivariate_normal(mean, covariance)
    y = problem.matrices @ x + rng.normal(size=(2, 7)) * np.sqrt(problem.variance)
    observation.y = torch.tensor(y * np.sqrt(problem.weights)).repeat_interleave(n, dim=0)
    denoiser = JointPosteriorDenoiser(sources, observation, Dense())
    with seeded(4, device=torch.device("cpu")):
        x = torch.randn(2 * n, len(mean), dtype=torch.float64) * SCHEDULE.sigma_max
        chi2 = observation.chi2(DDPMSampler(denoiser, steps=64, silent=True)(x))
    assert 0.2 < chi2.mean() < 3


def test_unobserved_source_keeps_its_prior(linear_problem):
    """A source that the view does not hold is drawn from its prior, the others as without it."""
    problem = linear_problem(1, psf=False)
    sources, *_ = gaussian_sources(problem)
    alone = JointPosteriorDenoiser(sources, problem.observation(), Dense())
    problem.source_shapes["unobserved"] = (12,)
    sources, *_ = gaussian_sources(problem)
    both = JointPosteriorDenoiser(sources, problem.observation(), Dense())
    x_t = torch.randn(2, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    t = torch.tensor(0.5, dtype=torch.float64)
    found = both(x_t, t).mean
    torch.testing.assert_close(found[:, :12], alone(x_t[:, :12], t).mean)
    torch.testing.assert_close(found[:, 12:], sources[1](x_t[:, 12:], t).mean)


def test_schedule_is_shared(linear_problem):
    problem = linear_problem(2, psf=True)
    sources, *_ = gaussian_sources(problem)
    assert JointPosteriorDenoiser(sources, problem.observation(), Dense()).schedule is SCHEDULE


def test_float32(linear_problem):
    """Products of networks are in float32 in practice; the result is that of float64 to 1e-4."""
    problem = linear_problem(2, psf=True)
    sources, mean, covariance = gaussian_sources(problem)
    rng = np.random.default_rng(6)
    x_t = rng.normal(size=(2, len(mean))) * np.sqrt(1 + covariance.diagonal())
    t = torch.tensor(0.5, dtype=torch.float64)
    expected = JointPosteriorDenoiser(sources, problem.observation(), Dense())
    expected = expected(torch.tensor(x_t), t).mean
    for source in sources:
        source.flat.to(torch.float32)
    observation = problem.observation(dtype=torch.float32)
    found = JointPosteriorDenoiser(sources, observation, GMRES(8))
    found = found(torch.tensor(x_t, dtype=torch.float32), t.float()).mean
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4 * expected.abs().max())


class Flux(Denoiser):
    """A galaxy of known shape whose flux is Gaussian, with the exact posterior of both models."""

    def __init__(self, mean, std, n=7):
        super().__init__()
        y, x = np.mgrid[:n, :n] - n // 2
        profile = np.exp(-np.hypot(x, y) / 1.2)
        self.profile, self.mean, self.std = profile.ravel() / profile.sum(), mean, std
        self.schedule = VESchedule(1e-3 * std, 10 * std)

    def forward(self, x_t, t):
        sigma = self.schedule.sigma(t)
        gain = self.std**2 / (self.std**2 + sigma**2)
        return DiracPosterior(mean=self.mean + gain * (x_t - self.mean))

    def observe(self, n, background, gain, rng):
        """True fluxes, and images with Poisson noise on Gaussian noise."""
        flux = self.mean + self.std * rng.normal(size=(n, 1))
        counts = rng.poisson(gain * (flux * self.profile).clip(min=0)) / gain
        return flux, counts + np.sqrt(background) * rng.normal(size=(n, len(self.profile)))

    def exact(self, y, background, gain):
        """Posterior mean and deviation of the flux by brute force, determinant and all."""
        centre, width = y @ self.profile / (self.profile @ self.profile), self.std
        for _ in range(2):  # the second grid is as fine as the posterior is narrow
            grid = centre[:, None] + width * np.linspace(-8, 8, 401)
            signal = grid[..., None] * self.profile
            variance = background + signal.clip(min=0) / gain
            log_p = -0.5 * ((y[:, None] - signal) ** 2 / variance + np.log(variance)).sum(-1)
            log_p -= 0.5 * ((grid - self.mean) / self.std) ** 2
            p = np.exp(log_p - log_p.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            centre = (p * grid).sum(1)
            std = np.sqrt((p * (grid - centre[:, None]) ** 2).sum(1))
            width = std.max()
        return centre, std

    def draw(self, y, noise, n_samples, *, seed=0):
        """Draws of the flux, of shape (observations, samples)."""
        rows = np.repeat(np.arange(len(y)), n_samples)
        A = DenseMatrix(self.profile[:, None], dtype=torch.float64)
        batch = Batch(torch.tensor(y[rows]), {"galaxy": A}, noise[rows])
        denoiser = JointPosteriorDenoiser(
            [self], JointObservation(batch, {"galaxy": (1,)}), GMRES(2)
        )
        with seeded(seed, device=torch.device("cpu")):
            x = self.mean + 10 * self.std * torch.randn(len(rows), 1, dtype=torch.float64)
            x = zEABSampler(denoiser, steps=64, silent=True)(x)
        return denoiser(x, torch.zeros(())).mean.view(len(y), n_samples).numpy()


def coverage(draws, truth, level):
    """How often the central interval of the draws holds the truth."""
    rank = (draws < truth).sum(1) + 0.5
    return np.mean(np.abs(rank / (draws.shape[1] + 1) - 0.5) < level / 2)


@pytest.mark.parametrize(("flux", "gain"), [(100.0, 1.0), (1e3, 1.0), (1e4, 1.0), (1e3, 10.0)])
def test_photon_noise(flux, gain):
    """Fluxes and their errors over a range of signal-to-noise ratios, about 6 to 90.

    With the noise of the expected light, draws have the mean and the spread of the exact posterior
    and cover the truth as often as they should. Weights from the data make fluxes too low, and who
    ignores the photons of the galaxy believes in errors that are too small.
    """
    n, background = 200, 1.0
    galaxy = Flux(flux, 0.3 * flux)
    truth, y = galaxy.observe(n, background, gain, np.random.default_rng(1))
    mean, std = galaxy.exact(y, background, gain)
    pixels = DiagonalNoise(torch.full(y.shape, background, dtype=torch.float64))
    noise = PhotonNoise(pixels, gain)
    draws = galaxy.draw(y, noise, 29)
    # 200 means over 29 draws, in units of the exact error: 0.013; and the same of deviations.
    assert np.mean((draws.mean(1) - mean) / std) == pytest.approx(0, abs=0.06)
    assert np.mean(draws.std(1, ddof=1) / std) == pytest.approx(1, abs=0.08)
    # 200 true fluxes scatter by one error each: 0.07.
    assert np.mean((draws.mean(1) - truth[:, 0]) / std) == pytest.approx(0, abs=0.2)
    assert coverage(draws, truth, 0.68) == pytest.approx(0.68, abs=0.1)
    assert coverage(draws, truth, 0.95) == pytest.approx(0.95, abs=0.05)

    by_data = galaxy.draw(y, noise.at(torch.tensor(y)), 9)
    assert np.mean((by_data.mean(1) - mean) / std) < -0.25
    ignored = galaxy.draw(y, noise.background, 29)
    assert coverage(ignored, truth, 0.68) < 0.5
    assert coverage(ignored, truth, 0.95) < 0.75


def test_no_photon_noise_is_no_work(linear_problem, monkeypatch):
    """Noise that does not depend on the sources is prepared once, and never evaluated again."""
    problem = linear_problem(2, psf=True)
    sources, *_ = gaussian_sources(problem)
    observation = problem.observation()
    denoiser = JointPosteriorDenoiser(sources, observation, GMRES(2))
    monkeypatch.delattr(JointObservation, "at")
    monkeypatch.delattr(GMRES, "bind")
    denoiser(torch.zeros(2, 24, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64))
