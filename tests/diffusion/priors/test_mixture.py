"""Mixtures of Gaussians against dense algebra, quadrature and enumeration of all components."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from azula.denoise import Denoiser
from azula.noise import VESchedule
from scipy.linalg import block_diag
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import nn

from astro_ddprism.diffusion.jacobian import linearize
from astro_ddprism.diffusion.networks.mlp import MLP
from astro_ddprism.diffusion.posteriors.components import ComponentPosterior
from astro_ddprism.diffusion.priors import mixture as module
from astro_ddprism.diffusion.priors.denoiser import SourceDenoiser
from astro_ddprism.diffusion.priors.mixture import (
    GaussianMixture,
    MixtureDenoiser,
    MixtureResidualDenoiser,
)
from astro_ddprism.diffusion.random import Rows, seeded

CPU = torch.device("cpu")


def make_rows(seed, n):
    """Random numbers of n rows."""
    return Rows.of(seed, ids=range(n), device=CPU)


SCHEDULE = VESchedule(0.1, 100.0)


def at(sigma):
    """Time at which the noise scale is ``sigma``."""
    return math.log(sigma / 0.1) / math.log(1000.0)


def make_mixture(seed, n_components, size, spread=3.0):
    """Components of all shapes and weights."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.3, 1, n_components)
    factors = rng.normal(size=(n_components, size, size)) * np.geomspace(2, 0.3, size)
    arrays = (
        weights / weights.sum(),
        spread * rng.normal(size=(n_components, size)),
        factors @ factors.swapaxes(1, 2),
    )
    return GaussianMixture(*map(torch.tensor, arrays))


def make_curve(seed, n_components, size=4, radius=50.0, thickness=0.2):
    """Tiles along a closed curve that winds through all dimensions, neighbours side by side."""
    rng = np.random.default_rng(seed)
    phase = 2 * np.pi * (np.arange(n_components) + 0.5) / n_components
    order = np.arange(size) // 2 + 1  # cos, sin, cos 2, sin 2 ...
    shift = rng.uniform(0, 2 * np.pi, size)
    Q = np.linalg.qr(rng.normal(size=(size, size)))[0]
    means = radius / order * np.cos(phase[:, None] * order + shift) @ Q
    tangents = -radius * np.sin(phase[:, None] * order + shift) @ Q
    tangents *= 2 * np.pi / n_components / math.sqrt(12)
    covariances = tangents[:, :, None] * tangents[:, None, :] + thickness**2 * np.eye(size)
    weights = np.full(n_components, 1 / n_components)
    return GaussianMixture(*map(torch.tensor, (weights, means, covariances)))


def moments_of(weights, means, covariances):
    """Moments of a mixture: the mean, and the mean of the covariances plus that of the means."""
    mean = np.einsum("k,kd->d", weights, means)
    offset = means - mean
    spread = covariances + offset[:, :, None] * offset[:, None, :]
    return mean, np.einsum("k,kij->ij", weights, spread)


def arrays_of(mixture):
    return [part.numpy() for part in (mixture.weights, mixture.means, mixture.covariances)]


def assert_moments(x, mean, covariance):
    """Of draws ``(n, D)``, within five standard deviations of their sampling error.

    That of the covariance is estimated from the draws: they are no Gaussian.
    """
    x = np.asarray(x, dtype=float)
    error = 5 * np.sqrt(covariance.diagonal() / len(x))
    assert (np.abs(x.mean(axis=0) - mean) < error).all()
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    error = 5 * products.std(axis=0) / np.sqrt(len(x))
    assert (np.abs(products.mean(axis=0) - covariance) < error).all()


# --- the mixture ----------------------------------------


@pytest.mark.parametrize("size", [1, 3])
def test_merging_undoes_splitting(size):
    mixture = make_mixture(1, 4, size)
    split = mixture.split()
    assert (len(mixture), len(split)) == (4, 8)
    for part, expected in zip(arrays_of(split.merge()), arrays_of(mixture), strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-12, atol=1e-12)
    # The children are real Gaussians, and each pair has the moments of its parent.
    weights, means, covariances = arrays_of(split)
    assert (np.linalg.eigvalsh(covariances) > 0).all()
    for k in range(4):
        pair = slice(2 * k, 2 * k + 2)
        mean, covariance = moments_of(weights[pair] / weights[pair].sum(), *(
            means[pair], covariances[pair]
        ))  # fmt: skip
        np.testing.assert_allclose(mean, mixture.means[k], rtol=1e-12)
        np.testing.assert_allclose(covariance, mixture.covariances[k], rtol=1e-12, atol=1e-12)


def test_components_split_along_their_longest_axis():
    mixture = make_mixture(1, 4, 3)
    step = mixture.split().means.unflatten(0, (4, 2)).diff(dim=1)[:, 0].numpy()
    values, vectors = np.linalg.eigh(mixture.covariances.numpy())
    along = np.einsum("kd,kd->k", step, vectors[:, :, -1])
    np.testing.assert_allclose(np.abs(along), np.linalg.norm(step, axis=1))
    ratio = np.abs(along) / np.sqrt(values[:, -1])
    np.testing.assert_allclose(ratio, ratio[0])
    assert 0 < ratio[0] < 2  # siblings overlap


def test_merging_keeps_the_moments_of_pairs():
    mixture = make_mixture(2, 6, 3)
    weights, means, covariances = arrays_of(mixture.merge())
    for k in range(3):
        w, m, c = (part[2 * k : 2 * k + 2] for part in arrays_of(mixture))
        mean, covariance = moments_of(w / w.sum(), m, c)
        np.testing.assert_allclose(weights[k], w.sum(), rtol=1e-12)
        np.testing.assert_allclose(means[k], mean, rtol=1e-12)
        np.testing.assert_allclose(covariances[k], covariance, rtol=1e-12, atol=1e-12)


def test_pairs_without_weight():
    mixture = make_mixture(2, 4, 2)
    mixture.weights[:2] = 0
    merged = mixture.merge()
    assert all(np.isfinite(part).all() for part in arrays_of(merged))
    assert merged.weights[0] == 0


@pytest.mark.parametrize("n_components", [1, 8])
def test_the_gaussian_has_the_moments_of_the_mixture(n_components):
    mixture = make_mixture(3, n_components, 4)
    prior = mixture.gaussian()
    mean, covariance = moments_of(*arrays_of(mixture))
    np.testing.assert_allclose(prior.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(prior.factor @ prior.factor.T, covariance, rtol=1e-10, atol=1e-12)
    assert (prior.log_scale == 0).all()


def test_samples():
    """Tolerance: five standard deviations of the sampling error, for each component as well."""
    n, mixture = 40_000, make_mixture(4, 4, 3, spread=100.0)
    with seeded(1, device=CPU):
        x = mixture.sample(n).numpy()
    assert_moments(x, *moments_of(*arrays_of(mixture)))
    weights, means, covariances = arrays_of(mixture)
    nearest = np.linalg.norm(x[:, None] - means, axis=2).argmin(axis=1)
    for k in range(4):  # which lie far apart
        share = (nearest == k).mean()
        assert abs(share - weights[k]) < 5 * np.sqrt(weights[k] * (1 - weights[k]) / n)
        assert_moments(x[nearest == k], means[k], covariances[k])


def test_other_precision():
    mixture = make_mixture(1, 2, 3).to(dtype=torch.float32)
    assert {part.dtype for part in (mixture.weights, mixture.means, mixture.covariances)} == {
        torch.float32
    }


# --- its denoiser ----------------------------------------


def responsibilities(mixture, x, sigma):
    """Probabilities of the components of a noisy vector, by scipy."""
    weights, means, covariances = arrays_of(mixture)
    noise = sigma**2 * np.eye(len(x))
    log_r = [
        math.log(w) + multivariate_normal.logpdf(x, m, c + noise)
        for w, m, c in zip(weights, means, covariances, strict=True)
    ]
    return np.exp(log_r - logsumexp(log_r))


def posterior_moments(mixture, x, sigma):
    """Mean and covariance of the clean vector given a noisy one, by dense algebra."""
    _, means, covariances = arrays_of(mixture)
    gains = covariances @ np.linalg.inv(covariances + sigma**2 * np.eye(len(x)))
    clean = means + np.einsum("kij,kj->ki", gains, x - means)
    return moments_of(responsibilities(mixture, x, sigma), clean, covariances - gains @ covariances)


SIGMAS = [0.1, 1.0, 5.0, 100.0]


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("n_components", [1, 8])
def test_denoiser_is_the_posterior_mean(n_components, sigma):
    """Single precision: to 1e-4 of what the mixture spans."""
    mixture = make_mixture(5, n_components, 3, spread=5.0)
    with seeded(1, device=CPU):
        x = mixture.sample(20).float() + sigma * torch.randn(20, 3)
    found = MixtureDenoiser(mixture, SCHEDULE)(x, torch.tensor(at(sigma))).mean
    for one, mean in zip(x.double().numpy(), found, strict=True):
        np.testing.assert_allclose(mean, posterior_moments(mixture, one, sigma)[0], atol=1e-3)


@pytest.mark.parametrize("sigma", [0.3, 3.0, 30.0])
def test_denoiser_by_quadrature(sigma):
    """The integral of the posterior of one number, on a fine grid, knows no Gaussian algebra."""
    mixture = make_mixture(6, 4, 1, spread=4.0)
    grid = np.linspace(-40, 40, 20_001)
    weights, means, covariances = arrays_of(mixture)
    variance = covariances[:, 0, 0]
    density = weights / np.sqrt(variance) * np.exp(-((grid[:, None] - means.T) ** 2) / 2 / variance)
    x = torch.linspace(-12, 12, 9)[:, None]
    likelihood = np.exp(-((x.double().numpy() - grid) ** 2) / 2 / sigma**2)
    posterior = likelihood * density.sum(axis=1)
    expected = (posterior * grid).sum(axis=1) / posterior.sum(axis=1)
    found = MixtureDenoiser(mixture, SCHEDULE).estimate(x, torch.tensor(sigma))
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-3)


def test_no_noise_and_nothing_but_noise():
    mixture = make_mixture(5, 8, 3, spread=5.0)
    denoiser = MixtureDenoiser(mixture, SCHEDULE)
    x = mixture.means[:2].float()
    np.testing.assert_allclose(denoiser.estimate(x, torch.tensor(1e-3)), x, atol=1e-3)
    mean = moments_of(*arrays_of(mixture))[0]
    found = denoiser.estimate(x, torch.tensor(1e6)).numpy()
    np.testing.assert_allclose(found, np.stack([mean, mean]), atol=1e-3)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_jacobian_is_the_posterior_covariance(sigma):
    """V = sigma^2 dE/dx, on which the joint posterior stands; in float64, to 1e-5."""
    mixture = make_mixture(5, 8, 3, spread=5.0)
    denoiser = MixtureDenoiser(mixture, SCHEDULE).double()
    with seeded(2, device=CPU):
        x = mixture.sample(6) + sigma * torch.randn(6, 3, dtype=torch.float64)
    noise = torch.tensor(sigma, dtype=torch.float64)
    for one in x:
        J = torch.autograd.functional.jacobian(lambda x: denoiser.estimate(x[None], noise)[0], one)
        _, covariance = posterior_moments(mixture, one.numpy(), sigma)
        scale = np.abs(covariance).max()
        np.testing.assert_allclose(sigma**2 * J, covariance, atol=1e-5 * scale)


def test_gradients_far_from_all_components():
    """Where the nearest component is thousands of standard deviations away."""
    denoiser = MixtureDenoiser(make_mixture(5, 8, 3), SCHEDULE)
    x = torch.full((2, 3), 1e4, requires_grad=True)
    mean = denoiser(x, torch.tensor(0.0)).mean
    (gradient,) = torch.autograd.grad(mean.sum(), x)
    assert torch.isfinite(mean).all()
    assert torch.isfinite(gradient).all()


def test_components_without_weight_are_as_none():
    mixture = make_mixture(5, 4, 3)
    weights = mixture.weights.clone()
    weights[[0, 2]] = 0
    weights /= weights.sum()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    found, expected = (
        MixtureDenoiser(GaussianMixture(*parts), SCHEDULE)(x, torch.tensor(at(2.0))).mean
        for parts in (
            (weights, mixture.means, mixture.covariances),
            (weights[1::2], mixture.means[1::2], mixture.covariances[1::2]),
        )
    )
    torch.testing.assert_close(found, expected)
    assert torch.isfinite(torch.autograd.grad(found.sum(), x)[0]).all()


@pytest.mark.parametrize("make", [
    lambda mixture: MixtureDenoiser(mixture, SCHEDULE),
    lambda mixture: MixtureResidualDenoiser(
        MLP((4,), 2, width=8, depth=1), SCHEDULE, 2.0, mixture
    ),
], ids=["mixture", "residual"])  # fmt: skip
def test_times_one_for_all_or_one_each(make):
    with seeded(1, device=CPU):
        denoiser, x = make(make_mixture(7, 4, 4)), torch.randn(3, 4)
    t = torch.tensor(0.4)
    torch.testing.assert_close(denoiser(x, t).mean, denoiser(x, t.expand(3)).mean)
    times = torch.linspace(0, 1, 3)
    each = torch.cat([denoiser(x[k : k + 1], t).mean for k, t in enumerate(times)])
    torch.testing.assert_close(denoiser(x, times).mean, each)


def test_sources_keep_their_shape():
    denoiser = MixtureDenoiser(make_mixture(7, 4, 4), SCHEDULE)
    x = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(1))
    found = denoiser(x, torch.tensor(0.3)).mean
    assert found.shape == x.shape
    torch.testing.assert_close(found.flatten(1), denoiser(x.flatten(1), torch.tensor(0.3)).mean)


# --- and a network beside it ----------------------------------------


class Constant(nn.Module):
    """A backbone that answers one number, whatever it is asked."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))

    def forward(self, features, _):
        return self.value.expand_as(features[:, 0])


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_network_adds_to_the_mixture(sigma):
    """Nothing where it answers 0, and where it answers 1 what it adds to the plain denoiser."""
    mixture, t = make_mixture(8, 4, 3), torch.tensor(at(sigma))
    silent, one = (
        MixtureResidualDenoiser(Constant(value), SCHEDULE, 2.0, mixture) for value in (0, 1)
    )
    plain = [SourceDenoiser(Constant(value), SCHEDULE, 2.0) for value in (0, 1)]
    with seeded(1, device=CPU):
        x = mixture.sample(5).float() + sigma * torch.randn(5, 3)
    exact = MixtureDenoiser(mixture, SCHEDULE)(x, t).mean
    torch.testing.assert_close(silent(x, t).mean, exact)
    expected = plain[1](x, t).mean - plain[0](x, t).mean
    assert (expected > 0.05).all()
    torch.testing.assert_close(one(x, t).mean - exact, expected, rtol=1e-3, atol=1e-4)


def test_loss_is_the_weighted_square_error():
    with seeded(2, device=CPU):
        backbone, mixture = MLP((3,), 2, width=8, depth=1), make_mixture(8, 4, 3)
        denoiser = MixtureResidualDenoiser(backbone, SCHEDULE, 2.0, mixture).double()
        x, z = torch.randn(2, 6, 3, dtype=torch.float64) * 3
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    sigma = SCHEDULE.sigma(t)[:, None]
    x_t = x + sigma * z
    added = denoiser(x_t, t).mean - denoiser.mixture(x_t, t).mean
    out = added / backbone.double()(
        torch.stack(
            [x_t * torch.rsqrt(sigma**2 + 4), torch.asinh(x_t / (sigma + 0.5))], dim=1
        ),
        sigma[:, 0].log(),
    )  # fmt: skip
    expected = ((denoiser(x_t, t).mean - x) / out).square().mean(dim=1)
    torch.testing.assert_close(denoiser.loss(x, t, z), expected)


@pytest.mark.parametrize("sigma", [0.5, 4.0, 30.0])
def test_nothing_is_left_to_learn_of_the_mixture_itself(sigma):
    """Its loss has no slope at a network of zeros; that of the plain denoiser has.

    The slope along the constant answer is minus twice the mean of the network's target, here in
    each of four bins of the noisy values, within five standard deviations of its sampling error.
    """
    n, mixture = 40_000, make_mixture(9, 4, 1, spread=6.0)
    with seeded(3, device=CPU):
        x, z = mixture.sample(n).float(), torch.randn(n, 1)
    x_t = x + sigma * z
    edges = x_t.quantile(torch.tensor([0.25, 0.5, 0.75]))
    bins = torch.bucketize(x_t[:, 0].contiguous(), edges)
    slopes = {}
    for name, denoiser in {
        "mixture": MixtureResidualDenoiser(Constant(0), SCHEDULE, 3.0, mixture),
        "plain": SourceDenoiser(Constant(0), SCHEDULE, 3.0),
    }.items():
        slopes[name] = []
        for k in range(4):
            here = bins == k
            loss = denoiser.loss(x[here], torch.full((int(here.sum()),), at(sigma)), z[here])
            (slope,) = torch.autograd.grad(loss.mean(), denoiser.backbone.value)
            error = 2 * loss.detach().mean().sqrt() / here.sum().sqrt()
            slopes[name].append(float(slope.abs() / error))
    assert max(slopes["mixture"]) < 5
    assert max(slopes["plain"]) > 5


def test_weights_make_a_round_trip():
    """The mixture travels with the weights, and no optimizer moves it."""
    with seeded(4, device=CPU):
        first, second = (
            MixtureResidualDenoiser(
                MLP((3,), 2, width=8, depth=1), SCHEDULE, scale, make_mixture(seed, 4, 3)
            )
            for scale, seed in ((2.0, 1), (3.0, 2))
        )
        for parameter in first.backbone.parameters():
            nn.init.normal_(parameter)  # the last layer of a new network is zero
        x, t = torch.randn(5, 3), torch.tensor(0.5)
    expected = first(x, t).mean
    assert (second(x, t).mean != expected).any()
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(x, t).mean, expected)
    assert torch.equal(copy.deepcopy(first)(x, t).mean, expected)
    trained = {name for name, _ in first.named_parameters()}
    assert trained == {f"backbone.{name}" for name, _ in first.backbone.named_parameters()}


@pytest.mark.parametrize("sigma", [0.1, 10.0])
def test_half_precision_is_for_the_network_alone(sigma):
    """A thin curve far from zero is lost in bfloat16, in which a network may train."""
    curve = make_curve(1, 32)
    denoiser = MixtureResidualDenoiser(Constant(0), SCHEDULE, 2.0, curve)
    with seeded(1, device=CPU):
        x, z = curve.sample(20).float(), torch.randn(20, 4)
    t = torch.full((20,), at(sigma))
    expected = denoiser.loss(x, t, z), denoiser(x, t).mean
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = denoiser.loss(x, t, z), denoiser(x, t).mean
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(value, reference)


# --- the posterior of components ----------------------------------------


class Observed:
    """Observations of sums of draws from mixtures, through random matrices; some rows masked."""

    def __init__(self, mixtures, n=5, n_rows=3, seed=0, masked=True):
        rng = np.random.default_rng(seed)
        self.mixtures, self.n_rows = mixtures, n_rows
        sizes = [mixture.means.shape[1] for mixture in mixtures]
        self.designs = [rng.normal(size=(n, n_rows, size)) for size in sizes]
        with seeded(seed, device=CPU):
            self.x = [mixture.sample(n).numpy() for mixture in mixtures]
        self.y = rng.normal(size=(n, n_rows)) + sum(
            np.einsum("nij,nj->ni", A, x) for A, x in zip(self.designs, self.x, strict=True)
        )
        if masked:
            for i in range(0, n, 2):
                self.y[i, i % n_rows] = 0
                for A in self.designs:
                    A[i, i % n_rows] = 0
        self.combinations = np.array(list(itertools.product(*(range(len(m)) for m in mixtures))))

    def posterior(self, beam=None):
        tensors = [torch.tensor(A).float() for A in self.designs]
        return ComponentPosterior(torch.tensor(self.y).float(), tensors, self.mixtures, beam)

    def joint(self, combination):
        """Weight, mean and covariance of all sources for one combination of components."""
        parts = [
            [part[k] for part in arrays_of(mixture)]
            for mixture, k in zip(self.mixtures, combination, strict=True)
        ]
        weights, means, covariances = zip(*parts, strict=True)
        return np.prod(weights), np.concatenate(means), block_diag(*covariances)

    def log_evidence(self, i):
        """Of all combinations of components, by scipy."""
        A = np.concatenate([A[i] for A in self.designs], axis=1)
        values = []
        for combination in self.combinations:
            weight, mean, covariance = self.joint(combination)
            predicted = np.eye(self.n_rows) + A @ covariance @ A.T
            value = multivariate_normal.logpdf(self.y[i], A @ mean, predicted)
            values.append(math.log(weight) + value)
        return np.array(values)

    def conditional(self, i, combination):
        """Mean and covariance of all sources given an observation, by dense algebra."""
        A = np.concatenate([A[i] for A in self.designs], axis=1)
        _, mean, covariance = self.joint(combination)
        posterior = np.linalg.inv(np.linalg.inv(covariance) + A.T @ A)
        return mean + posterior @ A.T @ (self.y[i] - A @ mean), posterior

    def moments(self, i):
        """Moments of all sources given an observation, over all components."""
        log_evidence = self.log_evidence(i)
        parts = [self.conditional(i, combination) for combination in self.combinations]
        means, covariances = map(np.stack, zip(*parts, strict=True))
        return moments_of(np.exp(log_evidence - logsumexp(log_evidence)), means, covariances)


def make_observed(numbers, **options):
    """Sources of the given numbers of components, and of 2, 3, 4 features."""
    mixtures = [make_mixture(10 + k, n, 2 + k) for k, n in enumerate(numbers)]
    return Observed(mixtures, **options)


NUMBERS = [(1,), (8,), (1, 1), (4, 4), (1, 8), (8, 2), (4, 1, 2), (2, 2, 4)]


@pytest.mark.parametrize("n_rows", [1, 3, 6])
@pytest.mark.parametrize("numbers", NUMBERS, ids=str)
def test_log_evidence_of_all_combinations(numbers, n_rows):
    """Single precision: to 1e-3 nats."""
    observed = make_observed(numbers, n_rows=n_rows)
    posterior = observed.posterior(beam=len(observed.combinations))
    constant = n_rows / 2 * math.log(2 * math.pi)
    for i in range(5):
        found = posterior.components[i].numpy()
        assert sorted(map(tuple, found)) == sorted(map(tuple, observed.combinations))
        where = np.ravel_multi_index(found.T, numbers)
        expected = observed.log_evidence(i)
        np.testing.assert_allclose(posterior.log_evidence[i] - constant, expected[where], atol=1e-3)
        total = posterior.total_log_evidence[i]
        np.testing.assert_allclose(total, logsumexp(expected), atol=1e-3)


def test_masked_rows_say_nothing():
    """An observation with a masked row is one without the row, but for the constant."""
    observed = make_observed((4, 2), n=1)
    with_row = observed.posterior(beam=8)
    assert (observed.y[:, 0] == 0).all()
    observed.y = observed.y[:, 1:]
    observed.designs = [A[:, 1:] for A in observed.designs]
    without = observed.posterior(beam=8)
    change = without.total_log_evidence - with_row.total_log_evidence
    np.testing.assert_allclose(change, 0.5 * math.log(2 * math.pi), atol=1e-4)
    assert torch.equal(with_row.components, without.components)
    for first, second in zip(
        with_row.moments(with_row.components), without.moments(without.components), strict=True
    ):
        torch.testing.assert_close(first, second)


def test_nothing_observed_leaves_the_prior():
    observed = make_observed((4, 2), n=1)
    observed.y, observed.designs = observed.y * 0, [A * 0 for A in observed.designs]
    samples = observed.posterior(beam=8).sample(20_000, make_rows(1, 1))
    for x, mixture in zip(samples, observed.mixtures, strict=True):
        assert_moments(x[0], *moments_of(*arrays_of(mixture)))


def test_components_are_chosen_by_their_evidence():
    """Tolerance: five standard deviations of the sampling error."""
    n, observed = 20_000, make_observed((4, 2), n_rows=1)
    with seeded(2, device=CPU):
        chosen = observed.posterior().choose(torch.rand(5, n, dtype=torch.float64))
    assert chosen.shape == (5, n, 2)
    for i in range(5):
        log_evidence = observed.log_evidence(i)
        expected = np.exp(log_evidence - logsumexp(log_evidence))
        counts = np.bincount(np.ravel_multi_index(chosen[i].numpy().T, (4, 2)), minlength=8)
        error = 5 * np.sqrt(expected * (1 - expected) / n) + 1e-4
        assert (np.abs(counts / n - expected) < error).all()


@pytest.mark.parametrize("numbers", [(4,), (4, 1), (2, 4), (2, 1, 2)], ids=str)
def test_moments_given_components(numbers):
    observed = make_observed(numbers)
    chosen = torch.tensor(observed.combinations).expand(5, -1, -1)
    found = observed.posterior().moments(chosen)
    assert len(found) == len(numbers)
    for i, (k, combination) in itertools.product(range(5), enumerate(observed.combinations)):
        mean, covariance = observed.conditional(i, combination)
        begin = 0
        for means, covariances in found:
            part = slice(begin, begin := begin + means.shape[-1])
            np.testing.assert_allclose(means[i, k], mean[part], atol=1e-5)
            np.testing.assert_allclose(covariances[i, k], covariance[part, part], atol=1e-5)


@pytest.mark.parametrize("numbers", [(1,), (8,), (4, 4), (2, 1, 4)], ids=str)
def test_samples_have_the_moments_of_the_posterior(numbers):
    """Of all sources together, so that what one holds the other does not."""
    observed = make_observed(numbers, n=3)
    posterior = observed.posterior(beam=len(observed.combinations))
    samples = torch.cat(posterior.sample(20_000, make_rows(3, 3)), dim=-1)
    for i in range(3):
        assert_moments(samples[i], *observed.moments(i))


def test_thin_and_long_priors_stay_exact():
    """A prior a thousand times as long as the noise is wide, in more rows than it has features.

    Both are differences of numbers of 1e6, in float64: to 1e-2 of a variance of order one.
    """
    covariance = torch.tensor([[1e6, 0.99e6], [0.99e6, 1e6]], dtype=torch.float64)
    prior = GaussianMixture(torch.ones(1).double(), torch.zeros(1, 2).double(), covariance[None])
    observed = Observed([prior], n=4, masked=False)
    # What the posterior knows is rounded by the single precision of y and A.
    observed.y = observed.y.astype(np.float32).astype(float)
    observed.designs = [A.astype(np.float32).astype(float) for A in observed.designs]
    posterior = observed.posterior()
    ((means, covariances),) = posterior.moments(posterior.components)
    for i in range(4):
        mean, covariance = observed.conditional(i, (0,))
        np.testing.assert_allclose(means[i, 0], mean, atol=1e-3)
        np.testing.assert_allclose(covariances[i, 0], covariance, atol=1e-2)
    (x,) = posterior.sample(20_000, make_rows(4, 4))
    assert_moments(x[0], *observed.conditional(0, (0,)))


def test_repeated_observations():
    posterior = make_observed((4, 2)).posterior()
    index = torch.tensor([3, 0, 0, 4])
    some = posterior[index]
    assert torch.equal(some.components, posterior.components[index])
    assert torch.equal(some.total_log_evidence, posterior.total_log_evidence[index])
    expected = posterior.moments(posterior.components)
    for found, reference in zip(some.moments(some.components), expected, strict=True):
        for part, whole in zip(found, reference, strict=True):
            torch.testing.assert_close(part, whole[index])
    assert [x.shape for x in some.sample(7, make_rows(1, 4))] == [(4, 7, 2), (4, 7, 3)]
    assert len(posterior.y) == 5  # as it was


# --- the search ----------------------------------------


def log_evidence_of_all(observed):
    """Log-evidence of every combination, ``(n, Q)``, in float64."""
    mixtures, combinations = observed.mixtures, torch.tensor(observed.combinations)
    rows = []
    for i, y in enumerate(torch.tensor(observed.y)):
        mean, covariance, log_weight = 0, torch.eye(len(y), dtype=y.dtype), 0
        for A, mixture, k in zip(observed.designs, mixtures, combinations.T, strict=True):
            A = torch.tensor(A[i])
            mean = mean + (mixture.means @ A.T)[k]
            covariance = covariance + (A @ mixture.covariances @ A.T)[k]
            log_weight = log_weight + mixture.weights.log()[k]
        normal = torch.distributions.MultivariateNormal(mean, covariance, validate_args=False)
        rows.append(log_weight + normal.log_prob(y))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("numbers", "radius"), [((32,), 50), ((128,), 100), ((64, 64), 100), ((32, 4), 50),
                            ((16, 16, 16), 50)], ids=str,
)  # fmt: skip
def test_search_finds_what_enumeration_finds(numbers, radius):
    """Curves of up to 4096 combinations of components, far more than the beam is wide.

    The best is always among those kept, and all that are not hold less than 1 % of the evidence.
    """
    curves = [make_curve(k, n, radius=radius) for k, n in enumerate(numbers)]
    observed = Observed(curves, n=60, seed=11, masked=False)
    expected = log_evidence_of_all(observed)
    best = torch.tensor(observed.combinations)[expected.argmax(dim=1)]
    posterior = observed.posterior()
    assert posterior.components.shape[1] < len(observed.combinations)
    kept = (posterior.components == best[:, None]).all(dim=2).any(dim=1)
    assert kept.all()
    lost = expected.logsumexp(dim=1) - posterior.total_log_evidence
    assert lost.max() < 0.01
    assert lost.min() > -1e-3  # of rounding


def test_search_needs_its_beam():
    """One combination at a time is not enough: the test above tests something."""
    observed = Observed([make_curve(k, 16) for k in range(3)], n=60, seed=11, masked=False)
    best = torch.tensor(observed.combinations)[log_evidence_of_all(observed).argmax(dim=1)]
    kept = (observed.posterior(beam=1).components == best[:, None]).all(dim=2).any(dim=1)
    assert 0.3 < kept.float().mean() < 0.95


def test_search_does_not_depend_on_how_many_go_at_a_time(monkeypatch):
    observed = Observed([make_curve(k, 32) for k in range(2)], n=20, seed=5)
    whole = observed.posterior()
    monkeypatch.setattr(module, "_CHUNK", 1)
    single = observed.posterior()
    assert torch.equal(single.components, whole.components)
    torch.testing.assert_close(single.log_evidence, whole.log_evidence, rtol=0, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 5.0, 100.0])
def test_products_in_closed_form_are_those_of_differentiation(sigma):
    """Of mixture, network and what lies between them; axes in float32 are orthogonal to 1e-7."""
    torch.manual_seed(6)
    mixture = make_curve(3, 16)
    backbone = MLP((4,), SourceDenoiser.n_features, width=16, depth=2, embedding=8)
    denoiser = MixtureResidualDenoiser(backbone, SCHEDULE, 30.0, mixture).double()
    denoiser.requires_grad_(False)
    x = mixture.sample(50) + sigma * torch.randn(50, 4, dtype=torch.float64)
    v, t = torch.randn(3, 50, 4, dtype=torch.float64), torch.tensor(at(sigma)).double()
    value, pullback = linearize(denoiser, x, t)
    expected, expected_pullback = linearize.dispatch(Denoiser)(denoiser, x, t)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pullback(v), expected_pullback(v), rtol=1e-5, atol=1e-5)
    each, each_pullback = linearize(denoiser, x, t.expand(50))
    torch.testing.assert_close(each, value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(each_pullback(v), pullback(v), rtol=1e-5, atol=1e-5)
