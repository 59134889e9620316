"""Mixtures of Gaussians against dense algebra and quadrature."""

import copy
import math

import numpy as np
import pytest
import torch
from azula.denoise import Denoiser
from azula.noise import VESchedule
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import nn

from astro_ddprism.diffusion.jacobian import linearize
from astro_ddprism.diffusion.networks.mlp import MLP
from astro_ddprism.diffusion.priors.denoiser import SourceDenoiser
from astro_ddprism.diffusion.priors.mixture import (
    GaussianMixture,
    MixtureDenoiser,
    MixtureResidualDenoiser,
    have_few_features,
)
from astro_ddprism.diffusion.random import Rows, seeded

CPU = torch.device("cpu")
SCHEDULE = VESchedule(0.1, 100.0)


def make_rows(seed, n):
    """Random numbers of n rows."""
    return Rows.of(seed, ids=range(n), device=CPU)


def at(sigma):
    """Time at which the noise scale is ``sigma``."""
    return math.log(sigma / 0.1) / math.log(1000.0)


@pytest.mark.parametrize("size", [1, 3])
def test_merging_undoes_splitting(mixtures, size):
    mixture = mixtures.make(1, 4, size)
    split = mixture.split()
    assert (len(mixture), len(split)) == (4, 8)
    for part, expected in zip(
        mixtures.arrays(split.merge()), mixtures.arrays(mixture), strict=True
    ):
        np.testing.assert_allclose(part, expected, rtol=1e-12, atol=1e-12)
    # The children are real Gaussians, and each pair has the moments of its parent.
    weights, means, covariances = mixtures.arrays(split)
    assert (np.linalg.eigvalsh(covariances) > 0).all()
    for k in range(4):
        pair = slice(2 * k, 2 * k + 2)
        mean, covariance = mixtures.moments(weights[pair] / weights[pair].sum(), *(
            means[pair], covariances[pair]
        ))  # fmt: skip
        np.testing.assert_allclose(mean, mixture.means[k], rtol=1e-12)
        np.testing.assert_allclose(covariance, mixture.covariances[k], rtol=1e-12, atol=1e-12)


def test_components_split_along_their_longest_axis(mixtures):
    mixture = mixtures.make(1, 4, 3)
    step = mixture.split().means.unflatten(0, (4, 2)).diff(dim=1)[:, 0].numpy()
    values, vectors = np.linalg.eigh(mixture.covariances.numpy())
    along = np.einsum("kd,kd->k", step, vectors[:, :, -1])
    np.testing.assert_allclose(np.abs(along), np.linalg.norm(step, axis=1))
    ratio = np.abs(along) / np.sqrt(values[:, -1])
    np.testing.assert_allclose(ratio, ratio[0])
    assert 0 < ratio[0] < 2  # siblings overlap


def test_merging_keeps_the_moments_of_pairs(mixtures):
    mixture = mixtures.make(2, 6, 3)
    weights, means, covariances = mixtures.arrays(mixture.merge())
    for k in range(3):
        w, m, c = (part[2 * k : 2 * k + 2] for part in mixtures.arrays(mixture))
        mean, covariance = mixtures.moments(w / w.sum(), m, c)
        np.testing.assert_allclose(weights[k], w.sum(), rtol=1e-12)
        np.testing.assert_allclose(means[k], mean, rtol=1e-12)
        np.testing.assert_allclose(covariances[k], covariance, rtol=1e-12, atol=1e-12)


def test_pairs_without_weight(mixtures):
    mixture = mixtures.make(2, 4, 2)
    mixture.weights[:2] = 0
    merged = mixture.merge()
    assert all(np.isfinite(part).all() for part in mixtures.arrays(merged))
    assert merged.weights[0] == 0


@pytest.mark.parametrize("n_components", [1, 8])
def test_the_gaussian_has_the_moments_of_the_mixture(mixtures, n_components):
    mixture = mixtures.make(3, n_components, 4)
    prior = mixture.gaussian()
    mean, covariance = mixtures.moments(*mixtures.arrays(mixture))
    np.testing.assert_allclose(prior.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(prior.factor @ prior.factor.T, covariance, rtol=1e-10, atol=1e-12)
    assert (prior.log_scale == 0).all()


def test_samples(mixtures):
    """Tolerance: five standard deviations of the sampling error, for each component as well."""
    n, mixture = 40_000, mixtures.make(4, 4, 3, spread=100.0)
    with seeded(1, device=CPU):
        x = mixture.sample(make_rows(1, n)).numpy()
    mixtures.assert_moments(x, *mixtures.moments(*mixtures.arrays(mixture)))
    weights, means, covariances = mixtures.arrays(mixture)
    nearest = np.linalg.norm(x[:, None] - means, axis=2).argmin(axis=1)
    for k in range(4):  # which lie far apart
        share = (nearest == k).mean()
        assert abs(share - weights[k]) < 5 * np.sqrt(weights[k] * (1 - weights[k]) / n)
        mixtures.assert_moments(x[nearest == k], means[k], covariances[k])


def test_density(mixtures):
    """That of scipy, where components overlap and far from all of them."""
    mixture = mixtures.make(4, 4, 3, spread=1.0)
    x = np.random.default_rng(7).normal(size=(20, 3)) * np.geomspace(0.1, 100, 20)[:, None]
    log_p = [
        math.log(w) + multivariate_normal.logpdf(x, m, c)
        for w, m, c in zip(*mixtures.arrays(mixture), strict=True)
    ]
    expected = logsumexp(log_p, axis=0)
    np.testing.assert_allclose(mixture.log_prob(torch.tensor(x)), expected, rtol=1e-10)


def test_a_sample_is_its_row_alone(mixtures):
    """The same whatever is drawn beside it; from one component, that of a Gaussian."""
    mixture, index = mixtures.make(4, 4, 3), torch.tensor([5, 0, 2])
    x = mixture.sample(make_rows(1, 6))
    assert torch.equal(mixture.sample(make_rows(1, 6)[index]), x[index])
    assert len(x.unique(dim=0)) == 6


@pytest.mark.parametrize(
    ("shapes", "few"),
    [({"a": (32,), "b": (1,)}, True), ({"a": (33,)}, False), ({"a": (2,), "b": (1, 2)}, False)],
)
def test_sources_of_few_features(shapes, few):
    assert have_few_features(shapes) is few


def test_other_precision(mixtures):
    mixture = mixtures.make(1, 2, 3).to(dtype=torch.float32)
    assert {part.dtype for part in (mixture.weights, mixture.means, mixture.covariances)} == {
        torch.float32
    }


# --- its denoiser ----------------------------------------


def responsibilities(mixtures, mixture, x, sigma):
    """Probabilities of the components of a noisy vector, by scipy."""
    weights, means, covariances = mixtures.arrays(mixture)
    noise = sigma**2 * np.eye(len(x))
    log_r = [
        math.log(w) + multivariate_normal.logpdf(x, m, c + noise)
        for w, m, c in zip(weights, means, covariances, strict=True)
    ]
    return np.exp(log_r - logsumexp(log_r))


def posterior_moments(mixtures, mixture, x, sigma):
    """Mean and covariance of the clean vector given a noisy one, by dense algebra."""
    _, means, covariances = mixtures.arrays(mixture)
    gains = covariances @ np.linalg.inv(covariances + sigma**2 * np.eye(len(x)))
    clean = means + np.einsum("kij,kj->ki", gains, x - means)
    return mixtures.moments(
        responsibilities(mixtures, mixture, x, sigma), clean, covariances - gains @ covariances
    )


SIGMAS = [0.1, 1.0, 5.0, 100.0]


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("n_components", [1, 8])
def test_denoiser_is_the_posterior_mean(mixtures, n_components, sigma):
    """Single precision: to 1e-4 of what the mixture spans."""
    mixture = mixtures.make(5, n_components, 3, spread=5.0)
    with seeded(1, device=CPU):
        x = mixture.sample(make_rows(1, 20)).float() + sigma * torch.randn(20, 3)
    found = MixtureDenoiser(mixture, SCHEDULE)(x, torch.tensor(at(sigma))).mean
    for one, mean in zip(x.double().numpy(), found, strict=True):
        np.testing.assert_allclose(
            mean, posterior_moments(mixtures, mixture, one, sigma)[0], atol=1e-3
        )


@pytest.mark.parametrize("sigma", [0.3, 3.0, 30.0])
def test_denoiser_by_quadrature(mixtures, sigma):
    """The integral of the posterior of one number, on a fine grid, knows no Gaussian algebra."""
    mixture = mixtures.make(6, 4, 1, spread=4.0)
    grid = np.linspace(-40, 40, 20_001)
    weights, means, covariances = mixtures.arrays(mixture)
    variance = covariances[:, 0, 0]
    density = weights / np.sqrt(variance) * np.exp(-((grid[:, None] - means.T) ** 2) / 2 / variance)
    x = torch.linspace(-12, 12, 9)[:, None]
    likelihood = np.exp(-((x.double().numpy() - grid) ** 2) / 2 / sigma**2)
    posterior = likelihood * density.sum(axis=1)
    expected = (posterior * grid).sum(axis=1) / posterior.sum(axis=1)
    found = MixtureDenoiser(mixture, SCHEDULE).estimate(x, torch.tensor(sigma))
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-3)


def test_no_noise_and_nothing_but_noise(mixtures):
    mixture = mixtures.make(5, 8, 3, spread=5.0)
    denoiser = MixtureDenoiser(mixture, SCHEDULE)
    x = mixture.means[:2].float()
    np.testing.assert_allclose(denoiser.estimate(x, torch.tensor(1e-3)), x, atol=1e-3)
    mean = mixtures.moments(*mixtures.arrays(mixture))[0]
    found = denoiser.estimate(x, torch.tensor(1e6)).numpy()
    np.testing.assert_allclose(found, np.stack([mean, mean]), atol=1e-3)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_jacobian_is_the_posterior_covariance(mixtures, sigma):
    """V = sigma^2 dE/dx, on which the joint posterior stands; in float64, to 1e-5."""
    mixture = mixtures.make(5, 8, 3, spread=5.0)
    denoiser = MixtureDenoiser(mixture, SCHEDULE).double()
    with seeded(2, device=CPU):
        x = mixture.sample(make_rows(1, 6)) + sigma * torch.randn(6, 3, dtype=torch.float64)
    noise = torch.tensor(sigma, dtype=torch.float64)
    for one in x:
        J = torch.autograd.functional.jacobian(lambda x: denoiser.estimate(x[None], noise)[0], one)
        _, covariance = posterior_moments(mixtures, mixture, one.numpy(), sigma)
        scale = np.abs(covariance).max()
        np.testing.assert_allclose(sigma**2 * J, covariance, atol=1e-5 * scale)


def test_gradients_far_from_all_components(mixtures):
    """Where the nearest component is thousands of standard deviations away."""
    denoiser = MixtureDenoiser(mixtures.make(5, 8, 3), SCHEDULE)
    x = torch.full((2, 3), 1e4, requires_grad=True)
    mean = denoiser(x, torch.tensor(0.0)).mean
    (gradient,) = torch.autograd.grad(mean.sum(), x)
    assert torch.isfinite(mean).all()
    assert torch.isfinite(gradient).all()


def test_components_without_weight_are_as_none(mixtures):
    mixture = mixtures.make(5, 4, 3)
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
        MLP(width=8, depth=1).build((4,), 2), SCHEDULE, 2.0, mixture
    ),
], ids=["mixture", "residual"])  # fmt: skip
def test_times_one_for_all_or_one_each(mixtures, make):
    with seeded(1, device=CPU):
        denoiser, x = make(mixtures.make(7, 4, 4)), torch.randn(3, 4)
    t = torch.tensor(0.4)
    torch.testing.assert_close(denoiser(x, t).mean, denoiser(x, t.expand(3)).mean)
    times = torch.linspace(0, 1, 3)
    each = torch.cat([denoiser(x[k : k + 1], t).mean for k, t in enumerate(times)])
    torch.testing.assert_close(denoiser(x, times).mean, each)


def test_sources_keep_their_shape(mixtures):
    denoiser = MixtureDenoiser(mixtures.make(7, 4, 4), SCHEDULE)
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
def test_the_network_adds_to_the_mixture(mixtures, sigma):
    """Nothing where it answers 0, and where it answers 1 what it adds to the plain denoiser."""
    mixture, t = mixtures.make(8, 4, 3), torch.tensor(at(sigma))
    silent, one = (
        MixtureResidualDenoiser(Constant(value), SCHEDULE, 2.0, mixture) for value in (0, 1)
    )
    plain = [SourceDenoiser(Constant(value), SCHEDULE, 2.0) for value in (0, 1)]
    with seeded(1, device=CPU):
        x = mixture.sample(make_rows(1, 5)).float() + sigma * torch.randn(5, 3)
    exact = MixtureDenoiser(mixture, SCHEDULE)(x, t).mean
    torch.testing.assert_close(silent(x, t).mean, exact)
    expected = plain[1](x, t).mean - plain[0](x, t).mean
    assert (expected > 0.05).all()
    torch.testing.assert_close(one(x, t).mean - exact, expected, rtol=1e-3, atol=1e-4)


def test_loss_is_the_weighted_square_error(mixtures):
    with seeded(2, device=CPU):
        backbone, mixture = MLP(width=8, depth=1).build((3,), 2), mixtures.make(8, 4, 3)
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
def test_nothing_is_left_to_learn_of_the_mixture_itself(mixtures, sigma):
    """Its loss has no slope at a network of zeros; that of the plain denoiser has.

    The slope along the constant answer is minus twice the mean of the network's target, here in
    each of four bins of the noisy values, within five standard deviations of its sampling error.
    """
    n, mixture = 40_000, mixtures.make(9, 4, 1, spread=6.0)
    with seeded(3, device=CPU):
        x, z = mixture.sample(make_rows(1, n)).float(), torch.randn(n, 1)
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


def test_weights_make_a_round_trip(mixtures):
    """The mixture travels with the weights, and no optimizer moves it."""
    with seeded(4, device=CPU):
        first, second = (
            MixtureResidualDenoiser(
                MLP(width=8, depth=1).build((3,), 2), SCHEDULE, scale, mixtures.make(seed, 4, 3)
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
def test_half_precision_is_for_the_network_alone(mixtures, sigma):
    """A thin curve far from zero is lost in bfloat16, in which a network may train."""
    curve = mixtures.curve(1, 32)
    denoiser = MixtureResidualDenoiser(Constant(0), SCHEDULE, 2.0, curve)
    with seeded(1, device=CPU):
        x, z = curve.sample(make_rows(1, 20)).float(), torch.randn(20, 4)
    t = torch.full((20,), at(sigma))
    expected = denoiser.loss(x, t, z), denoiser(x, t).mean
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = denoiser.loss(x, t, z), denoiser(x, t).mean
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(value, reference)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 5.0, 100.0])
def test_products_in_closed_form_are_those_of_differentiation(mixtures, sigma):
    """Of mixture, network and what lies between them; axes in float32 are orthogonal to 1e-7."""
    torch.manual_seed(6)
    mixture = mixtures.curve(3, 16)
    backbone = MLP(width=16, depth=2, embedding=8).build((4,), SourceDenoiser.n_features)
    denoiser = MixtureResidualDenoiser(backbone, SCHEDULE, 30.0, mixture).double()
    denoiser.requires_grad_(False)
    x = mixture.sample(make_rows(1, 50)) + sigma * torch.randn(50, 4, dtype=torch.float64)
    v, t = torch.randn(3, 50, 4, dtype=torch.float64), torch.tensor(at(sigma)).double()
    value, pullback = linearize(denoiser, x, t)
    expected, expected_pullback = linearize.dispatch(Denoiser)(denoiser, x, t)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pullback(v), expected_pullback(v), rtol=1e-5, atol=1e-5)
    each, each_pullback = linearize(denoiser, x, t.expand(50))
    torch.testing.assert_close(each, value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(each_pullback(v), pullback(v), rtol=1e-5, atol=1e-5)
