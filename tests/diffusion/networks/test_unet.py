"""U-Nets: shapes of all kinds, and where the centre is."""

import pytest
import torch

from astro_ddprism.diffusion.networks.unet import UNet
from astro_ddprism.diffusion.random import seeded
from astro_ddprism.errors import InputError


def make(network, shape):
    with seeded(1, device=torch.device("cpu")):
        return network.build(shape, 2)


def inputs(shape, batch=3):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 2, *shape, generator=generator), torch.linspace(-2, 4, batch)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 7, 7), (2, 9, 12), (1, 5, 1)])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_shapes(shape, patch):
    network = make(UNet(channels=(8, 8), blocks=(1, 1), patch=patch, embedding=16), shape)
    assert network(*inputs(shape)).shape == (3, *shape)


def test_knows_the_centre():
    """The same blob at another place is another input; without the distance it would not be."""
    network = make(UNet(channels=(8,), blocks=(1,), patch=1, embedding=16), (1, 32, 32))
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
    radius = make(UNet(channels=(8,), blocks=(1,)), (1, n, n)).radius
    assert radius.min().item() * 8 == pytest.approx(centre * (2 if n % 2 == 0 else 1))
    assert torch.equal(radius, radius.flip(0))
    assert torch.equal(radius, radius.T)


def test_radius_is_not_a_weight():
    """It follows from the shape: files do not hold it."""
    assert "radius" not in make(UNet(), (1, 8, 8)).state_dict()


def test_what_cannot_be_built_is_refused():
    with pytest.raises(InputError, match=r"UNet\.blocks: found 1 for 2 channels, expected one for"):
        UNet(channels=(8, 16), blocks=(1,))
    with pytest.raises(InputError, match=r"UNet: found a source of shape \(5,\), expected an im"):
        UNet().build((5,), 2)
