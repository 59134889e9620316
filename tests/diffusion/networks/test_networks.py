"""Backbones: shapes, precision, gradients, and what they can tell apart."""

import pytest
import torch

from astro_ddprism.diffusion.jacobian import linearize
from astro_ddprism.diffusion.networks.base import BACKBONES
from astro_ddprism.diffusion.networks.mlp import MLP
from astro_ddprism.diffusion.networks.unet import UNet
from astro_ddprism.diffusion.random import seeded


def make(cls, shape, **options):
    with seeded(1, device=torch.device("cpu")):
        return cls(shape, 2, **options)


def inputs(shape, batch=3):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 2, *shape, generator=generator), torch.linspace(-2, 4, batch)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 7, 7), (2, 9, 12), (1, 5, 1)])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_unet_shapes(shape, patch):
    network = make(UNet, shape, channels=(8, 8), blocks=(1, 1), patch=patch, embedding=16)
    assert network(*inputs(shape)).shape == (3, *shape)


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (1, 4, 4)])
@pytest.mark.parametrize("depth", [0, 2])
def test_mlp_shapes(shape, depth):
    network = make(MLP, shape, width=16, depth=depth, embedding=16)
    assert network(*inputs(shape)).shape == (3, *shape)


@pytest.mark.parametrize("name", BACKBONES)
def test_bfloat16(name):
    network = make(BACKBONES[name], (1, 8, 8))
    features, log_sigma = inputs((1, 8, 8))
    with torch.no_grad():
        expected = network(features, log_sigma)
        found = network.bfloat16()(features.bfloat16(), log_sigma.bfloat16())
    assert found.dtype == torch.bfloat16
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("name", BACKBONES)
def test_gradients_reach_everything(name):
    network = make(BACKBONES[name], (1, 7, 8))
    features, log_sigma = inputs((1, 7, 8))
    features.requires_grad_()
    network(features, log_sigma).square().sum().backward()
    for parameter in network.parameters():
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.any()
    assert (features.grad != 0).all(dim=0).all()


@pytest.mark.parametrize("name", BACKBONES)
def test_noise_scale_matters(name):
    network = make(BACKBONES[name], (1, 8, 8))
    features, log_sigma = inputs((1, 8, 8))
    assert not torch.allclose(network(features, log_sigma), network(features, log_sigma + 1))


@pytest.mark.parametrize("name", BACKBONES)
def test_images_do_not_mix(name):
    network = make(BACKBONES[name], (1, 8, 8))
    features, log_sigma = inputs((1, 8, 8))
    alone = network(features[1:2], log_sigma[1:2])
    torch.testing.assert_close(network(features, log_sigma)[1:2], alone, rtol=1e-4, atol=1e-5)


def test_unet_knows_the_centre():
    """The same blob at another place is another input; without the distance it would not be."""
    network = make(UNet, (1, 32, 32), channels=(8,), blocks=(1,), patch=1, embedding=16)
    blob = torch.zeros(2, 2, 1, 32, 32)
    blob[0, :, :, 15:17, 15:17] = blob[1, :, :, 11:13, 11:13] = 1  # both far from the edges

    def answers():
        y = network(blob, torch.zeros(2)).detach()
        return y[0, 0, 14:18, 14:18], y[1, 0, 10:14, 10:14]

    centred, shifted = answers()
    assert (centred - shifted).abs().max() > 1e-3
    network.radius.zero_()
    torch.testing.assert_close(*answers())


@pytest.mark.parametrize(("n", "centre"), [(7, 0.0), (8, 0.5**1.5)])
def test_distance_is_from_the_middle_of_the_array(n, centre):
    radius = make(UNet, (1, n, n), channels=(8,), blocks=(1,)).radius
    assert radius.min().item() * 8 == pytest.approx(centre * (2 if n % 2 == 0 else 1))
    assert torch.equal(radius, radius.flip(0))
    assert torch.equal(radius, radius.T)


def test_radius_is_not_a_weight():
    """It follows from the shape: files do not hold it."""
    assert "radius" not in make(UNet, (1, 8, 8)).state_dict()


@pytest.mark.parametrize("name", BACKBONES)
def test_one_noise_scale_for_all(name):
    network = make(BACKBONES[name], (1, 8, 8))
    features, log_sigma = inputs((1, 8, 8))
    expected = network(features, log_sigma[1].expand(3))
    torch.testing.assert_close(network(features, log_sigma[1:2]), expected, rtol=1e-4, atol=1e-5)


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
def test_mlp_pullback_is_that_of_automatic_differentiation(shape, depth, shared):
    """In closed form, for several vectors at once, at one noise scale for all or one each."""
    network = randomized(make(MLP, shape, width=16, depth=depth, embedding=16)).double()
    features, log_sigma = (part.double() for part in inputs(shape))
    if shared:
        log_sigma = log_sigma[:1]
    v = torch.randn(4, 3, *shape, generator=torch.Generator().manual_seed(4)).double()
    expected, expected_pullback = linearize.dispatch(object)(network, features, log_sigma)
    value, pullback = linearize(network, features, log_sigma)
    torch.testing.assert_close(value, expected)
    for _ in range(2):  # and the vectors are left as they were
        torch.testing.assert_close(pullback(v), expected_pullback(v))


def test_mlp_pullback_of_any_layout():
    """Vectors come as parts of longer ones."""
    network = make(MLP, (5,), width=16, embedding=16)
    _, pullback = linearize(network, *inputs((5,)))
    v = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(5)).permute(2, 1, 0)[..., 1:6]
    torch.testing.assert_close(pullback(v), pullback(v.contiguous()))


def test_mlp_pullback_in_bfloat16():
    network = make(MLP, (5,), width=64)
    features, log_sigma = inputs((5,))
    v = torch.ones(2, 3, 5)
    _, pullback = linearize(network, features, log_sigma)
    expected = pullback(v)
    value, pullback = linearize(network.bfloat16(), features.bfloat16(), log_sigma.bfloat16())
    found = pullback(v.bfloat16())
    assert value.dtype == found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.1)
