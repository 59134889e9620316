"""Preconditioning, its limits, and the minimizer of the loss."""

import math

import pytest
import torch
from azula.denoise import Denoiser
from azula.noise import VESchedule
from torch import nn

from astro_ddprism.diffusion.jacobian import linearize
from astro_ddprism.diffusion.networks.mlp import MLP
from astro_ddprism.diffusion.networks.unet import UNet
from astro_ddprism.diffusion.priors.denoiser import ExtendedDenoiser, SourceDenoiser
from astro_ddprism.diffusion.priors.gaussian import GaussianPrior, ScaleMixtureDenoiser
from astro_ddprism.diffusion.random import seeded

SCHEDULE = VESchedule(0.1, 100.0)
CPU = torch.device("cpu")


class Constant(nn.Module):
    """A backbone that answers one number, and keeps what it was asked."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))

    def forward(self, features, log_sigma):
        self.features, self.log_sigma = features, log_sigma
        return self.value.expand_as(features[:, 0])


def at(sigma):
    """Time at which the noise scale is ``sigma``."""
    return torch.tensor(math.log(sigma / 0.1) / math.log(1000.0))


def test_little_noise_leaves_the_source_as_it_is():
    """Whatever the network answers: both a faint pixel and a bright one are known by then."""
    denoiser = SourceDenoiser(Constant(1), SCHEDULE, 10.0)
    x = torch.tensor([[-1000.0, -10.0, 0.0, 10.0, 1e5]])
    assert ((denoiser(x, at(0.1)).mean - x).abs() < 0.11).all()


def test_much_noise_leaves_the_network_alone():
    """Where the noise hides the source, the answer is the network's in units of the data scale."""
    denoiser = SourceDenoiser(Constant(0.7), SCHEDULE, 2.0)
    x = torch.tensor([[-100.0, 0.0, 50.0]])
    found = denoiser(x, at(100.0)).mean
    torch.testing.assert_close(found, torch.full_like(x, 1.4), rtol=0, atol=0.06)


def test_edm_preconditioning_of_faint_pixels():
    """Pixels within the noise: equation 7 of Karras et al. with the data scale."""
    s, sigma = 3.0, 5.0
    denoiser = SourceDenoiser(Constant(0.5), SCHEDULE, s)
    x = torch.tensor([[-2.0, 0.0, 1.0]])
    expected = s**2 / (s**2 + sigma**2) * x + 0.5 * s * sigma / math.hypot(s, sigma)
    torch.testing.assert_close(denoiser(x, at(sigma)).mean, expected, rtol=1e-4, atol=1e-4)


def test_bright_pixels_have_their_own_scale():
    """A star far above the noise asks for a correction of the order of the noise, not of 100."""
    denoiser = SourceDenoiser(Constant(1), SCHEDULE, 1.0)
    x = torch.tensor([[1e3, 1e4, 1e5]])
    correction = denoiser(x, at(5.0)).mean - x
    torch.testing.assert_close(correction, torch.full_like(x, 5.0), rtol=0.02, atol=0.05)


def test_features():
    """Each pixel twice, of order one from faint to bright; and the logarithm of the noise."""
    backbone = Constant(0)
    denoiser = SourceDenoiser(backbone, SCHEDULE, 4.0)
    x = torch.tensor([[[[0.0, 3.0, 1e4]]]])
    denoiser(x, at(3.0))
    assert backbone.features.shape == (1, SourceDenoiser.n_features, 1, 1, 3)
    torch.testing.assert_close(backbone.features[:, 0], x / 5)
    torch.testing.assert_close(backbone.features[:, 1], torch.asinh(x / 3.5))
    torch.testing.assert_close(backbone.log_sigma, torch.tensor([3.0]).log())


def test_times_one_for_all_or_one_each():
    with seeded(1, device=CPU):
        denoiser = SourceDenoiser(MLP(width=8, depth=1).build((3,), 2), SCHEDULE, 1.0)
        x = torch.randn(4, 3)
    t = torch.tensor(0.4)
    torch.testing.assert_close(denoiser(x, t).mean, denoiser(x, t.expand(4)).mean)
    times = torch.linspace(0, 1, 4)
    each = torch.cat([denoiser(x[k : k + 1], t).mean for k, t in enumerate(times)])
    torch.testing.assert_close(denoiser(x, times).mean, each)


def test_float64_sources_with_a_float32_network():
    denoiser = SourceDenoiser(MLP(width=8, depth=1).build((3,), 2), SCHEDULE, 1.0)
    x = torch.ones(2, 3, dtype=torch.float64)
    assert denoiser(x, torch.tensor(0.4, dtype=torch.float64)).mean.dtype == torch.float64


def test_bfloat16_network():
    """Preconditioning stays in the source's precision: little noise still leaves it as it is."""
    denoiser = SourceDenoiser(Constant(0.5).bfloat16(), SCHEDULE, 1.0)
    x = torch.tensor([[1000.25, 0.5, -3.0]])
    found = denoiser(x, at(0.1)).mean
    assert found.dtype == torch.float32
    assert (found - x).abs().max() < 0.2


def test_loss_is_the_weighted_square_error():
    with seeded(2, device=CPU):
        denoiser = SourceDenoiser(MLP(width=8, depth=1).build((5,), 2), SCHEDULE, 2.0).double()
        x, z = torch.randn(2, 6, 5, dtype=torch.float64) * 3
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    sigma = SCHEDULE.sigma(t)[:, None]
    x_t = x + sigma * z
    _, out = denoiser._precondition(x_t, sigma)
    expected = ((denoiser(x_t, t).mean - x) / out).square().mean(dim=1)
    torch.testing.assert_close(denoiser.loss(x, t, z), expected)


@pytest.mark.parametrize("data_scale", [0.3, 3.0])
def test_minimizer_of_the_loss_is_the_posterior_mean(data_scale):
    """For a source of two values the posterior mean is a hyperbolic tangent.

    The weight of a pixel depends on the noisy pixel alone, so it moves no minimum: for each bin of
    noisy values, the constant answer that minimizes the bin's loss gives E[x | x_t].
    """
    n, sigma = 400_000, 2.0
    with seeded(3, device=CPU):
        x = 4.0 * (torch.randint(2, (n, 1)) * 2 - 1)
        z = torch.randn(n, 1)
    x_t = x + sigma * z
    denoiser = SourceDenoiser(Constant(0), SCHEDULE, data_scale)
    skip, out = denoiser._precondition(x_t, torch.tensor([[sigma]]))
    for center in (-3.0, -0.5, 0.0, 1.0, 6.0):
        near = (x_t - center).abs() < 0.05
        # loss = mean (F - (x - skip) / out)^2 is least at the mean of its target
        F = ((x - skip) / out)[near].mean()
        found = (skip + out * F)[near].mean()
        expected = (4.0 * torch.tanh(4.0 * x_t[near] / sigma**2)).mean()
        assert (
            abs(found - expected) < 5 * x[near].std() / near.sum().sqrt() + 5e-3
        )  # and the bin's width


def check_pullback(denoiser, x_t, t):
    """Value and pullback against automatic differentiation, in float64."""
    expected, expected_pullback = linearize.dispatch(Denoiser)(denoiser, x_t, t)
    value, pullback = linearize(denoiser, x_t, t)
    torch.testing.assert_close(value, expected)
    v = torch.randn(3, *x_t.shape, generator=torch.Generator().manual_seed(5), dtype=x_t.dtype)
    for _ in range(2):
        torch.testing.assert_close(pullback(v), expected_pullback(v))


@pytest.mark.parametrize("sigma", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("backbone", [MLP, UNet])
def test_pullback_is_that_of_automatic_differentiation(backbone, sigma):
    """From pixels lost in the noise to stars, at one noise scale for all or one each."""
    with seeded(4, device=CPU):
        network = backbone(embedding=16).build((1, 4, 5), 2)
        denoiser = SourceDenoiser(network, SCHEDULE, 3.0).double().requires_grad_(False)
        x_t = torch.randn(3, 1, 4, 5, dtype=torch.float64) * 10 ** (5 * torch.rand(4, 5) - 1)
    t = at(sigma).double()
    check_pullback(denoiser, x_t, t)
    check_pullback(denoiser, x_t, torch.stack([t, t / 2, t / 3]))


def test_pullback_of_extreme_pixels_is_finite():
    """In single precision, where the eighth power of a star overflows."""
    denoiser = SourceDenoiser(Constant(0.5), SCHEDULE, 1.0)
    x_t = torch.tensor([[0.0, 1e-20, -1e3, 1e6, 1e9]])
    slopes = denoiser._precondition_slopes(x_t, torch.tensor([[0.1]]))
    torch.testing.assert_close(slopes[0][0, 2:], torch.ones(3))  # nothing is taken off a star
    for slope in slopes:
        assert torch.isfinite(slope).all()


def test_subclass_may_precondition_otherwise():
    class Shrinking(SourceDenoiser):
        def _precondition(self, x_t, sigma):
            _, out = super()._precondition(x_t, sigma)
            return x_t.mean(dim=1, keepdim=True).tanh().expand_as(x_t), out

    with seeded(6, device=CPU):
        denoiser = Shrinking(
            MLP(width=8, depth=1, embedding=16).build((3,), 2), SCHEDULE, 3.0
        ).double()
        x_t = torch.randn(4, 3, dtype=torch.float64)
    check_pullback(denoiser, x_t, at(2.0).double())


def test_pullback_in_other_precisions():
    """Sources in float64 on a float32 network, and in float32 on a bfloat16 one."""
    for source, weights in ((torch.float64, torch.float32), (torch.float32, torch.bfloat16)):
        with seeded(7, device=CPU):
            network = MLP(width=8, depth=1).build((3,), 2).to(weights)
        denoiser = SourceDenoiser(network, SCHEDULE, 1.0)
        x_t = torch.ones(2, 3, dtype=source)
        value, pullback = linearize(denoiser, x_t, torch.tensor(0.4, dtype=source))
        assert value.dtype == pullback(torch.ones(1, 2, 3, dtype=source)).dtype == source


# --- on longer schedules ----------------------------------------


def test_beyond_its_own_noise_scales_a_source_is_a_gaussian():
    """Below, the network at the same noise scale, whatever the time; values and Jacobians."""
    own, longer = VESchedule(0.1, 20.0), VESchedule(0.1, 5000.0)
    with seeded(21, device=CPU):
        backbone = MLP(width=16, depth=1, embedding=8).build((3,), SourceDenoiser.n_features)
        network = SourceDenoiser(backbone, own, 2.0)
        prior = GaussianPrior(torch.randn(3), torch.randn(3, 3))
        x, v = torch.randn(2, 5, 3)
    gaussian = ScaleMixtureDenoiser(prior, torch.ones(5), longer)
    extended = ExtendedDenoiser(network, gaussian)
    assert extended.schedule is longer
    for sigma in (0.1, 3.0, 19.9, 20.2, 900.0):
        t, s = (math.log(sigma / 0.1) / math.log(top / 0.1) for top in (5000, 20))
        t, s = torch.tensor(t), torch.tensor(s)
        expected = network(x, s).mean if sigma < 20 else gaussian(x, t).mean
        torch.testing.assert_close(extended(x, t).mean, expected, rtol=1e-4, atol=1e-5)
        value, pullback = linearize(extended, x, t)
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
        z = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(extended(z, t).mean, z, v)
        torch.testing.assert_close(pullback(v[None])[0], slope, rtol=1e-4, atol=1e-5)
