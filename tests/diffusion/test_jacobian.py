"""Values and pullbacks against the Jacobian, written down."""

import pytest
import torch
from azula.denoise import Denoiser, DiracPosterior
from torch import nn

from astro_ddprism.diffusion.jacobian import linearize


def check(function, x, *arguments, value):
    """The pullback of a stack of vectors is the transposed Jacobian times each."""
    found, pullback = linearize(function, x, *arguments)
    assert not found.requires_grad
    torch.testing.assert_close(found, value(x))
    jacobian = torch.func.jacrev(value)(x).reshape(*found.shape, *x.shape)
    generator = torch.Generator().manual_seed(1)
    v = torch.randn(3, *found.shape, dtype=x.dtype, generator=generator)
    expected = torch.tensordot(v, jacobian, dims=found.ndim)
    for _ in range(2):  # as often as one likes
        products = pullback(v)
        assert not products.requires_grad
        torch.testing.assert_close(products, expected)
    torch.testing.assert_close(pullback(v[:1]), expected[:1])


@pytest.fixture
def x():
    return torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_module(x):
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    check(module, x, value=module)


def test_further_arguments(x):
    t = torch.tensor([[1.0], [2.0], [-1.0]], dtype=torch.float64)
    check(lambda x, t: (t * x).sin(), x, t, value=lambda x: (t * x).sin())


def test_denoiser(x):
    """A denoiser's value is its estimate."""

    class Halving(Denoiser):
        def forward(self, x_t, t):
            return DiracPosterior(mean=x_t.square() * t)

    check(Halving(), x, 0.5, value=lambda x: x.square() / 2)


def test_frozen_weights_and_no_grad(x):
    """E-steps run without gradients, on networks whose weights have none."""
    module = nn.Linear(4, 2).double().requires_grad_(False)
    with torch.no_grad():
        value, pullback = linearize(module, x)
        products = pullback(torch.ones_like(value)[None])
    torch.testing.assert_close(products[0], module.weight.sum(dim=0).expand(3, 4))
