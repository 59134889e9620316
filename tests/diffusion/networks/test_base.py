"""What every backbone does: precision, gradients, and what it can tell apart."""

import pytest
import torch

from astro_ddprism.diffusion.networks.base import NETWORKS, Network
from astro_ddprism.diffusion.networks.unet import UNet
from astro_ddprism.diffusion.random import seeded
from astro_ddprism.errors import InputError


def make(network, shape):
    with seeded(1, device=torch.device("cpu")):
        return network.build(shape, 2)


def inputs(shape, batch=3):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 2, *shape, generator=generator), torch.linspace(-2, 4, batch)


@pytest.mark.parametrize("name", NETWORKS.names())
def test_bfloat16(name):
    network = make(NETWORKS[name](), (1, 8, 8))
    features, log_sigma = inputs((1, 8, 8))
    with torch.no_grad():
        expected = network(features, log_sigma)
        found = network.bfloat16()(features.bfloat16(), log_sigma.bfloat16())
    assert found.dtype == torch.bfloat16
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("name", NETWORKS.names())
def test_gradients_reach_everything(name):
    network = make(NETWORKS[name](), (1, 7, 8))
    features, log_sigma = inputs((1, 7, 8))
    features.requires_grad_()
    network(features, log_sigma).square().sum().backward()
    for parameter in network.parameters():
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.any()
    assert (features.grad != 0).all(dim=0).all()


@pytest.mark.parametrize("name", NETWORKS.names())
def test_noise_scale_matters(name):
    network = make(NETWORKS[name](), (1, 8, 8))
    features, log_sigma = inputs((1, 8, 8))
    assert not torch.allclose(network(features, log_sigma), network(features, log_sigma + 1))


@pytest.mark.parametrize("name", NETWORKS.names())
def test_images_do_not_mix(name):
    network = make(NETWORKS[name](), (1, 8, 8))
    features, log_sigma = inputs((1, 8, 8))
    alone = network(features[1:2], log_sigma[1:2])
    torch.testing.assert_close(network(features, log_sigma)[1:2], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS.names())
def test_one_noise_scale_for_all(name):
    network = make(NETWORKS[name](), (1, 8, 8))
    features, log_sigma = inputs((1, 8, 8))
    expected = network(features, log_sigma[1].expand(3))
    torch.testing.assert_close(network(features, log_sigma[1:2]), expected, rtol=1e-4, atol=1e-5)


def test_networks_are_found_by_their_names():
    assert Network.from_tree({"name": "unet", "patch": 4}) == UNet(patch=4)
    with pytest.raises(InputError, match="network: found 'transformer', expected one of"):
        Network.from_tree("transformer")
