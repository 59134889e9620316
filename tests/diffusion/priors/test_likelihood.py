"""The probability flow against densities that are known in closed form."""

import math

import numpy as np
import pytest
import torch
from azula.denoise import Denoiser, DiracPosterior, GaussianDenoiser
from azula.linalg.covariance import FullCovariance
from azula.noise import VESchedule
from scipy.stats import chi2, multivariate_normal

from astro_ddprism.diffusion.networks.mlp import MLP
from astro_ddprism.diffusion.priors.denoiser import SourceDenoiser
from astro_ddprism.diffusion.priors.gaussian import GaussianPrior
from astro_ddprism.diffusion.priors.likelihood import log_prob
from astro_ddprism.diffusion.random import seeded
from astro_ddprism.errors import InputError

SCHEDULE = VESchedule(0.1, 200.0)
CPU = torch.device("cpu")


def gaussian(size, seed, dtype):
    """A Gaussian with axes of 0.03 to 30: exact denoiser, moments, and density at sigma_min."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.normal(size=(size, size)))[0]
    L = np.geomspace(0.03, 30, size) ** 2
    mean = rng.normal(size=size) * 5
    covariance = FullCovariance(torch.tensor(Q, dtype=dtype), torch.tensor(L, dtype=dtype))
    denoiser = GaussianDenoiser(torch.tensor(mean, dtype=dtype), covariance, SCHEDULE)
    terminal = GaussianPrior(torch.tensor(mean), torch.tensor(Q * np.sqrt(L)))
    exact = multivariate_normal(mean, (Q * L) @ Q.T + SCHEDULE.sigma_min**2 * np.eye(size))
    return denoiser, terminal, exact


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussian_in_5_dimensions(dtype):
    denoiser, terminal, exact = gaussian(5, 0, dtype)
    x = exact.rvs(50, random_state=1)
    value, error = log_prob(denoiser, torch.tensor(x, dtype=dtype), terminal)
    assert value.dtype == torch.float64
    assert (error == 0).all()  # at most as many dimensions as probes: the trace is exact
    difference = value.numpy() - exact.logpdf(x)
    assert np.abs(difference).max() < 0.01 * abs(exact.entropy())  # the promise
    assert np.abs(difference).max() < 1e-3  # what the integration gives


def test_gaussian_in_256_dimensions():
    denoiser, terminal, exact = gaussian(256, 2, torch.float32)
    n = 64
    x = exact.rvs(n, random_state=3)
    with seeded(4, device=CPU):
        value, error = log_prob(
            denoiser, torch.tensor(x, dtype=torch.float32), terminal, n_probes=4
        )
    pull = (value.numpy() - exact.logpdf(x)) / error.numpy()
    assert (np.abs(pull) < 4).all()
    assert (np.abs(pull) < 3).mean() > 0.95
    low, high = chi2(n).ppf([0.001, 0.999])
    assert low < (pull**2).sum() < high
    assert error.max() < 0.01 * abs(exact.entropy())


def test_more_probes_make_smaller_errors():
    denoiser, terminal, exact = gaussian(64, 5, torch.float64)
    x = torch.tensor(exact.rvs(8, random_state=6))
    with seeded(7, device=CPU):
        errors = [log_prob(denoiser, x, terminal, n_steps=16, n_probes=n)[1] for n in (4, 16)]
        exact_trace = log_prob(denoiser, x, terminal, n_steps=16, n_probes=64)[1]
    assert 1.7 < (errors[0] / errors[1]).median() < 2.3  # square root of 4
    assert (exact_trace == 0).all()


class MixtureDenoiser(Denoiser):
    """The exact denoiser of a mixture of isotropic Gaussians in one pixel or more."""

    def __init__(self, weights, means, stds):
        super().__init__()
        self.schedule = SCHEDULE
        self.weights, self.means, self.stds = (
            torch.tensor(values, dtype=torch.float64) for values in (weights, means, stds)
        )

    def log_parts(self, x, sigma):
        variance = self.stds**2 + sigma**2
        distance2 = (x.flatten(1)[:, None] - self.means).square().sum(dim=2)
        size = self.means.shape[1]
        return (
            self.weights.log()
            - distance2 / variance / 2
            - size / 2 * (2 * math.pi * variance).log()
        )

    def forward(self, x_t, t):
        _, sigma = self.schedule(t)
        gain = (self.stds**2 / (self.stds**2 + sigma**2))[:, None]
        means = self.means + gain * (x_t.flatten(1)[:, None] - self.means)
        weights = self.log_parts(x_t, sigma).softmax(dim=1)
        return DiracPosterior(mean=(weights[..., None] * means).sum(dim=1).view_as(x_t))


def test_mixture_of_gaussians():
    """Paths that part ways, and a terminal distribution that is Gaussian only nearly."""
    weights, stds = [0.5, 0.3, 0.2], [0.3, 2.0, 6.0]
    means = [[0.0, 0.0, 0.0, 0.0], [4.0, -3.0, 1.0, 0.0], [-8.0, 5.0, 0.0, 2.0]]
    denoiser = MixtureDenoiser(weights, means, stds)
    w, m, s = denoiser.weights, denoiser.means, denoiser.stds
    mean = w @ m
    covariance = ((m - mean).T * w) @ (m - mean) + (w @ s**2) * torch.eye(4)
    terminal = GaussianPrior(mean, torch.linalg.cholesky(covariance))
    generator = torch.Generator().manual_seed(8)
    k = torch.multinomial(w, 100, replacement=True, generator=generator)
    z = torch.randn(100, 4, generator=generator, dtype=torch.float64)
    x = (m[k] + (s[k, None] ** 2 + SCHEDULE.sigma_min**2).sqrt() * z).view(100, 1, 2, 2)
    expected = denoiser.log_parts(x, torch.tensor(SCHEDULE.sigma_min)).logsumexp(dim=1)
    value, _ = log_prob(denoiser, x, terminal)
    difference = (value - expected).abs()
    assert difference.median() < 1e-3
    assert difference.max() < 0.02


def test_density_integrates_to_one():
    """A network's flow is a change of variables: whatever its weights, a density comes out."""
    torch.manual_seed(9)
    denoiser = SourceDenoiser(
        MLP(width=32, depth=1).build((1,), 2), VESchedule(0.3, 50.0), 2.0
    ).double()
    for parameter in denoiser.parameters():
        parameter.requires_grad_(False)
    terminal = GaussianPrior(torch.zeros(1), 2 * torch.eye(1))
    x = torch.linspace(-200, 200, 4001, dtype=torch.float64)
    value, _ = log_prob(denoiser, x[:, None], terminal, batch_size=len(x))
    assert torch.trapezoid(value.exp(), x).item() == pytest.approx(1, abs=2e-3)


def test_scales_and_shapes_of_the_terminal_distribution():
    """Where the prior says nothing but its moments, its density is that of its moments."""
    torch.manual_seed(10)
    shape, size = (2, 3, 5), 30
    factor, mean = torch.randn(size, 4), torch.randn(size)
    terminal = GaussianPrior(mean, factor, torch.tensor([0.3, 0.5]))
    covariance = math.exp(2 * 0.3 + 2 * 0.5**2) * (factor @ factor.T).double().numpy()
    L, Q = np.linalg.eigh(covariance)
    denoiser = GaussianDenoiser(
        mean.double(),
        FullCovariance(torch.tensor(Q), torch.tensor(L.clip(min=0))),
        SCHEDULE,
    )

    class Image(Denoiser):
        schedule = SCHEDULE

        def forward(self, x_t, t):
            return DiracPosterior(mean=denoiser(x_t.flatten(1), t).mean.view_as(x_t))

    exact = multivariate_normal(
        mean.double(), covariance + SCHEDULE.sigma_min**2 * np.eye(size), allow_singular=True
    )
    x = exact.rvs(3, random_state=11)
    value, _ = log_prob(Image(), torch.tensor(x).view(3, *shape), terminal, n_probes=size)
    np.testing.assert_allclose(value, exact.logpdf(x), rtol=0, atol=1e-3)


def test_repeats_under_a_seed_and_tracks():
    denoiser, terminal, exact = gaussian(16, 12, torch.float32)
    x = torch.tensor(exact.rvs(3, random_state=13), dtype=torch.float32)
    seen = []

    def track(steps):
        for step in steps:
            seen.append(step)
            yield step

    values = []
    for _ in range(2):
        with seeded(14, device=CPU):
            values.append(log_prob(denoiser, x, terminal, n_steps=8, n_probes=2, track=track))
    assert torch.equal(values[0][0], values[1][0])
    assert torch.equal(values[0][1], values[1][1])
    assert not values[0][0].requires_grad
    assert len(seen) == 2 * 9


@pytest.mark.parametrize("n", [0, 1, 5])
def test_batches(n):
    denoiser, terminal, exact = gaussian(6, 16, torch.float64)
    x = torch.tensor(exact.rvs(5, random_state=17))[:n]
    whole, _ = log_prob(denoiser, x, terminal, n_steps=8)
    parts, error = log_prob(denoiser, x, terminal, n_steps=8, batch_size=2)
    assert whole.shape == parts.shape == error.shape == (n,)
    torch.testing.assert_close(parts, whole)


def test_default_probes():
    """Exact in few dimensions, estimated in many."""
    for size, exactly in ((32, True), (33, False)):
        denoiser, terminal, _ = gaussian(size, 18, torch.float32)
        _, error = log_prob(denoiser, torch.zeros(1, size), terminal, n_steps=8)
        assert (error == 0).all() == exactly


@pytest.mark.parametrize(("option", "value"), [("n_steps", 4), ("n_probes", 1)])
def test_too_few(option, value):
    denoiser, terminal, _ = gaussian(3, 15, torch.float32)
    with pytest.raises(InputError, match=rf"{option}: found {value}, expected at least"):
        log_prob(denoiser, torch.zeros(1, 3), terminal, **{option: value})
