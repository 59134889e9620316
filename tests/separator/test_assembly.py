"""What is built for sources of which shape."""

import pytest
import torch

from astro_ddprism import DiffusionSourceSeparator
from astro_ddprism.diffusion.networks.mlp import MLP
from astro_ddprism.diffusion.networks.unet import UNet
from astro_ddprism.errors import InputError
from astro_ddprism.separator.assembly import Assembly

SHAPES = {"sky": (1, 8, 8), "galaxy": (1, 8, 8), "wide": (1, 8, 12), "spectrum": (5,)}


def assemble(**parameters):
    separator = DiffusionSourceSeparator(**parameters)
    return Assembly(
        separator, SHAPES, {"sky": 50.0, "galaxy": 40.0}, lambda _: 1.0, torch.device("cpu")
    )


def test_networks_follow_the_shape():
    assembly = assemble(network_options={})
    names = {"sky": "unet", "galaxy": "unet", "wide": "unet", "spectrum": "mlp"}
    assert assembly.networks() == (names, {})
    assert isinstance(assembly.denoiser("wide", 2.0).backbone, UNet)
    denoiser = assembly.denoiser("spectrum", 2.0)
    assert isinstance(denoiser.backbone, MLP)
    assert denoiser.data_scale == 2
    assert isinstance(assemble(network="mlp").denoiser("sky", 1.0).backbone, MLP)


def test_noise_scales():
    """Those of several sources reach as far as the largest, of a posterior ten times as far."""
    assembly = assemble(sigma_min=0.2)
    top = torch.ones(())
    for sources, expected in ((["sky"], 50), (["galaxy"], 40), (["galaxy", "sky"], 50)):
        _, sigma = assembly.schedule(sources)(top)
        assert sigma == pytest.approx(expected)
    assert assembly.denoiser("galaxy", 1.0).schedule.sigma_max == 40
    assert assembly.schedule(["wide"]).sigma_max == 100  # not known yet
    _, sigma = assembly.posterior(("sky", "galaxy"), 1.0).schedule(top)
    assert sigma == pytest.approx(500)
    _, sigma = assembly.schedule(["sky"])(0 * top)
    assert sigma == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (("sky", "galaxy"), True),
        (("sky",), False),
        (("sky", "wide"), False),
        (("spectrum", "spectrum"), False),
    ],
)
def test_images_of_one_shape_are_amortized(sources, expected):
    assert assemble(posterior="amortized").amortizes(sources) is expected
    assert not assemble().amortizes(sources)


def test_posteriors_have_options_of_their_own():
    network, own = {"channels": (4, 8)}, {"channels": (6, 8)}
    assembly = assemble(network_options=network, posterior_options=own)
    assert assembly.posterior_options() == {"channels": [6, 8]}
    assert assembly.networks()[1] == {"channels": [4, 8]}
    assert assemble(network_options=network).posterior_options() == {"channels": [4, 8]}
    count = [
        sum(p.numel() for p in network.parameters())
        for network in (
            assembly.posterior(("sky", "galaxy"), 1.0),
            assemble(network_options=network).posterior(("sky", "galaxy"), 1.0),
        )
    ]
    assert count[0] > count[1]


def test_symmetries():
    assembly = assemble(symmetries={"galaxy": ["flips"], "wide": []})
    assert assembly.symmetries("sky") == ("rotations", "flips")
    assert assembly.symmetries("galaxy") == ("flips",)
    assert assembly.symmetries("wide") == assembly.symmetries("spectrum") == ()
    with pytest.raises(InputError, match=r"symmetries\['wide'\]: \['flips'\] .* square image"):
        assemble(symmetries={"wide": ["flips"]}).symmetries("wide")


def test_networks_that_cannot_be_built():
    assembly = assemble(network_options={"depth": 3})
    with pytest.raises(InputError, match="network_options: no unet for the source 'sky' of shape"):
        assembly.denoiser("sky", 1.0)
    with pytest.raises(InputError, match="network_options: no unet for the posterior of sky, gal"):
        assembly.posterior(("sky", "galaxy"), 1.0)
