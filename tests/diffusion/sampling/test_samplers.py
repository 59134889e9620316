"""Samplers against azula's with the same random numbers, and against flows in closed form."""

import azula.sample
import pytest
import torch
from azula.denoise import GaussianDenoiser
from azula.linalg.covariance import FullCovariance
from azula.noise import VESchedule

from astro_ddprism.diffusion.random import Rows
from astro_ddprism.diffusion.sampling.samplers import (
    DDIM,
    SAMPLERS,
    AdamsBashforth,
    Ancestral,
    Heun,
    PredictorCorrector,
    Sampler,
)
from astro_ddprism.errors import InputError

CPU = torch.device("cpu")
SCHEDULE = VESchedule(0.1, 50.0)
WIDTHS = torch.tensor([0.3, 2.0, 9.0], dtype=torch.float64)
MEAN = torch.tensor([1.0, -5.0, 3.0], dtype=torch.float64)


def make_rows(seed, n=4):
    """Random numbers of n rows."""
    return Rows.of(seed, ids=range(n), device=CPU)


@pytest.fixture
def denoiser():
    """The exact denoiser of a Gaussian of three independent numbers, in float64."""
    covariance = FullCovariance(torch.eye(3, dtype=torch.float64), WIDTHS**2)
    return GaussianDenoiser(MEAN, covariance, SCHEDULE)


@pytest.fixture
def x():
    return 50 * make_rows(1).normal(3, dtype=torch.float64)


def sigma(t):
    return SCHEDULE.sigma(torch.tensor(t, dtype=torch.float64))


def exact_flow(x, start):
    """The probability flow of independent Gaussians: distances from the mean scale with widths."""
    ratio = (WIDTHS**2 + sigma(0.0) ** 2) / (WIDTHS**2 + sigma(start) ** 2)
    return MEAN + ratio.sqrt() * (x - MEAN)


@pytest.mark.parametrize("start", [1.0, 0.6])
@pytest.mark.parametrize(
    ("sampler", "reference"),
    [
        (Ancestral(), azula.sample.DDPMSampler),
        (DDIM(), azula.sample.EulerSampler),
        (DDIM(0.3), lambda d, **o: azula.sample.DDIMSampler(d, eta=0.3, **o)),
        (DDIM(1.7), lambda d, **o: azula.sample.DDIMSampler(d, eta=1.7, **o)),
        (
            PredictorCorrector(),
            lambda d, **o: azula.sample.PCSampler(d, corrections=1, delta=0.01, **o),
        ),
        (
            PredictorCorrector(3, 0.2),
            lambda d, **o: azula.sample.PCSampler(d, corrections=3, delta=0.2, **o),
        ),
        (PredictorCorrector(0), azula.sample.EulerSampler),
        (Heun(), azula.sample.HeunSampler),
        (AdamsBashforth(), lambda d, **o: azula.sample.zEABSampler(d, order=2, **o)),
        (AdamsBashforth(3), lambda d, **o: azula.sample.zEABSampler(d, order=3, **o)),
    ],
)
def test_chains_are_those_of_azula(monkeypatch, denoiser, x, sampler, reference, start):
    """With the same options and the same noise, drawn in the same order; to 1e-6 of float32.

    Noise scales are numbers of the host in the one and tensors in the other: both in float64.
    """
    x = x.double()
    found = sampler.run(denoiser, x, make_rows(2), start=start, steps=12)
    rows = make_rows(2)
    monkeypatch.setattr(
        azula.sample.torch, "randn_like", lambda x: rows.normal(*x.shape[1:], dtype=x.dtype)
    )
    expected = reference(denoiser, start=start, steps=12, silent=True, dtype=x.dtype)(x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("start", [1.0, 0.6])
@pytest.mark.parametrize(
    ("sampler", "order"),
    [
        (DDIM(), 1),
        (AdamsBashforth(1), 1),
        (Heun(), 2),
        (AdamsBashforth(2), 2),
        (AdamsBashforth(3), 2),
    ],
    ids=str,
)
def test_flows_converge_with_their_order(denoiser, x, sampler, order, start):
    """Twice the steps leave an error smaller by two to the order, within a quarter.

    Multi-steps begin with a single one, so that none is of more than second order.
    """
    expected, errors = exact_flow(x, start), []
    for steps in (128, 256):
        found = sampler.run(denoiser, x, make_rows(2), start=start, steps=steps)
        errors.append(float((found - expected).norm()))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.25)
    assert errors[1] < 0.1 * float(expected.norm())


@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(0.5), PredictorCorrector(1, 0.1)], ids=str)
def test_draws_have_the_moments_of_the_source(denoiser, sampler):
    """With the noise of the last scale on top; to five standard errors, and 5 % for the steps."""
    n = 4000
    rows = make_rows(3, n)
    x = MEAN + (WIDTHS**2 + sigma(1.0) ** 2).sqrt() * rows.normal(3, dtype=torch.float64)
    x = sampler.run(denoiser, x, rows, start=1.0, steps=200)
    width = (WIDTHS**2 + sigma(0.0) ** 2).sqrt()
    assert ((x.mean(dim=0) - MEAN).abs() < (5 / n**0.5 + 0.05) * width).all()
    assert ((x.std(dim=0) / width - 1).abs() < 5 / (2 * n) ** 0.5 + 0.05).all()


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_a_chain_is_its_row_alone(denoiser, x, name):
    """Whatever runs beside it; and its noise is new in every step."""
    sampler, index = SAMPLERS[name](), torch.tensor([3, 1])
    whole = sampler.run(denoiser, x, make_rows(4), start=1.0, steps=6)
    some = sampler.run(denoiser, x[index], make_rows(4)[index], start=1.0, steps=6)
    torch.testing.assert_close(some, whole[index])


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"name": "ddim", "eta": -0.1}, "DDIM.eta: found -0.1, expected a number not below 0"),
        ({"name": "predictor-corrector", "delta": 1.5}, "delta: found 1.5, expected a number not"),
        ({"name": "adams-bashforth", "order": 0}, "order: found 0, expected a number not below 1"),
        ({"name": "heun", "order": 2}, "Heun: found order, expected options out of none"),
        ("euler", "sampler: found 'euler', expected one of adams-bashforth, ancestral, ddim, heun"),
    ],
)
def test_what_cannot_be_is_refused(tree, message):
    with pytest.raises(InputError, match=message):
        Sampler.from_tree(tree)
