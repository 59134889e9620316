"""Multilayer perceptrons: shapes, and their Jacobian in closed form."""

import pytest
import torch

from astro_ddprism.diffusion.jacobian import linearize
from astro_ddprism.diffusion.networks.mlp import MLP
from astro_ddprism.diffusion.random import seeded


def make(network, shape):
    with seeded(1, device=torch.device("cpu")):
        return network.build(shape, 2)


def inputs(shape, batch=3):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 2, *shape, generator=generator), torch.linspace(-2, 4, batch)


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (1, 4, 4)])
@pytest.mark.parametrize("depth", [0, 2])
def test_shapes(shape, depth):
    network = make(MLP(width=16, depth=depth, embedding=16), shape)
    assert network(*inputs(shape)).shape == (3, *shape)


def randomized(network):
    """No weight where it was born: normalizations begin as if they had none."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return network


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3)])
@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("shared", [False, True], ids=["each", "shared"])
def test_pullback_is_that_of_automatic_differentiation(shape, depth, shared):
    """In closed form, for several vectors at once, at one noise scale for all or one each."""
    network = randomized(make(MLP(width=16, depth=depth, embedding=16), shape)).double()
    features, log_sigma = (part.double() for part in inputs(shape))
    if shared:
        log_sigma = log_sigma[:1]
    v = torch.randn(4, 3, *shape, generator=torch.Generator().manual_seed(4)).double()
    expected, expected_pullback = linearize.dispatch(object)(network, features, log_sigma)
    value, pullback = linearize(network, features, log_sigma)
    torch.testing.assert_close(value, expected)
    for _ in range(2):  # and the vectors are left as they were
        torch.testing.assert_close(pullback(v), expected_pullback(v))


def test_pullback_of_any_layout():
    """Vectors come as parts of longer ones."""
    network = make(MLP(width=16, embedding=16), (5,))
    _, pullback = linearize(network, *inputs((5,)))
    v = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(5)).permute(2, 1, 0)[..., 1:6]
    torch.testing.assert_close(pullback(v), pullback(v.contiguous()))


def test_pullback_in_bfloat16():
    network = make(MLP(width=64), (5,))
    features, log_sigma = inputs((5,))
    v = torch.ones(2, 3, 5)
    _, pullback = linearize(network, features, log_sigma)
    expected = pullback(v)
    value, pullback = linearize(network.bfloat16(), features.bfloat16(), log_sigma.bfloat16())
    found = pullback(v.bfloat16())
    assert value.dtype == found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.1)
