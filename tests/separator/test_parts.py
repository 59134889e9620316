"""What parts build for sources of which shape."""

import numpy as np
import pytest
import torch

from astro_ddprism.diffusion.learning.symmetries import symmetries_of
from astro_ddprism.diffusion.posteriors.base import Priors
from astro_ddprism.diffusion.priors.build import build_denoiser, default_network
from astro_ddprism.errors import InputError
from astro_ddprism.separator import parts
from astro_ddprism.separator.parts import (
    MLP,
    Amortized,
    ExactMixture,
    Execution,
    MomentMatching,
    NoiseSchedule,
    UNet,
)

SHAPES = {"sky": (1, 8, 8), "galaxy": (1, 8, 8), "wide": (1, 8, 12), "spectrum": (5,)}


def shapes(*sources):
    return {source: SHAPES[source] for source in sources}


@pytest.fixture
def priors():
    return Priors(NoiseSchedule(0.2, 100.0), sigma_max={"sky": 50.0, "galaxy": 40.0})


def test_networks_follow_the_shape(priors):
    networks = {source: default_network(shape) for source, shape in SHAPES.items()}
    assert networks == {"sky": UNet(), "galaxy": UNet(), "wide": UNet(), "spectrum": MLP()}
    for source, shape in SHAPES.items():
        denoiser = build_denoiser(networks[source], shape, priors.schedule(source), 2.0)
        assert denoiser.data_scale == 2
        x = torch.zeros(3, *shape)
        assert denoiser(x, torch.tensor(0.5)).mean.shape == x.shape


def test_noise_scales(priors):
    """Those of several sources reach as far as the largest, of a posterior ten times as far."""
    top, bottom = torch.ones(()), torch.zeros(())
    for sources, expected in ((["sky"], 50), (["galaxy"], 40), (["galaxy", "sky"], 50)):
        _, sigma = priors.schedule(*sources)(top)
        assert sigma == pytest.approx(expected)
        _, sigma = priors.schedule(*sources)(bottom)
        assert sigma == pytest.approx(0.2)
    assert priors.schedule("wide").sigma_max == 100  # not known yet
    both = shapes("sky", "galaxy")
    learned = Amortized().build(both, 1.0, priors.schedule(*both), Execution("cpu"))
    _, sigma = learned.schedule(top)
    assert sigma == pytest.approx(500)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (("sky", "galaxy"), True),
        (("sky",), False),
        (("sky", "wide"), False),
        (("spectrum",), False),
    ],
)
def test_images_of_one_shape_are_amortized(sources, expected):
    method, other = Amortized(), MomentMatching()
    assert method.handles(shapes(*sources)) is expected
    assert method.method_for(shapes(*sources)) == (method if expected else other)
    assert other.method_for(shapes(*sources)) is other


def test_vectors_of_few_numbers_are_drawn_from_mixtures(priors):
    method = ExactMixture()
    assert method.handles(shapes("spectrum"))
    assert not method.handles(shapes("sky"))
    assert method.method_for(shapes("spectrum"), priors) == MomentMatching()  # no mixture yet


def test_networks_of_posteriors(priors):
    count = [
        sum(
            np.prod(p.shape)
            for p in Amortized(network=UNet(channels))
            .build(shapes("sky", "galaxy"), 1.0, priors.schedule("sky"), Execution("cpu"))
            .parameters()
        )
        for channels in ((4, 8), (6, 8))
    ]
    assert count[0] < count[1]


def test_symmetries():
    found = symmetries_of({"galaxy": ("flips",), "wide": ()}, SHAPES)
    assert found == {
        "sky": ("rotations", "flips"), "galaxy": ("flips",), "wide": (), "spectrum": (),
    }  # fmt: skip
    with pytest.raises(InputError, match=r"symmetries\['wide'\]: \['flips'\] .* square image"):
        symmetries_of({"wide": ("flips",)}, SHAPES)


def test_every_part_is_found_by_its_name():
    """And its table, all defaults written out, is the part again."""
    for registry in (parts.NETWORKS, parts.SAMPLERS, parts.SOLVERS, parts.POSTERIORS):
        own = [name for name in registry if registry[name].__module__.startswith("astro_ddprism")]
        assert len(own) > 1
        for name in own:
            part = registry[name]()
            assert part.from_tree(name) == part.from_tree(part.to_tree()) == part
            assert part.to_tree()["name"] == name
            assert type(part).__name__ in parts.__all__
