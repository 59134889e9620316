"""The dihedral group of a square image, and its subgroups."""

import numpy as np
import pytest
import torch

from astro_ddprism.diffusion.learning.symmetries import (
    SYMMETRIES,
    orbit,
    random_transform,
    random_transform_about_pixel,
    symmetries_of,
)
from astro_ddprism.diffusion.random import seeded
from astro_ddprism.errors import InputError

GROUPS = {(): 1, ("flips",): 2, ("rotations",): 4, ("rotations", "flips"): 8}


def images(n=2, bands=1, size=3):
    return torch.arange(float(n * bands * size**2)).reshape(n, bands, size, size)


@pytest.mark.parametrize(("symmetries", "order"), GROUPS.items())
def test_orbit(symmetries, order):
    x = images()
    copies = orbit(x, symmetries).unflatten(0, (order, 2))
    assert torch.equal(copies[0], x)
    distinct = {tuple(copy.flatten().tolist()) for copy in copies[:, 0]}
    assert len(distinct) == order
    # A group: the orbit of a copy holds the same images.
    for copy in copies[:, :1]:
        again = orbit(copy, symmetries)
        assert {tuple(a.flatten().tolist()) for a in again} == distinct


def test_against_numpy():
    x = images(n=1, bands=2)
    found = {a.numpy().tobytes() for a in orbit(x, SYMMETRIES)}
    expected = {
        np.ascontiguousarray(np.rot90(y, k, axes=(-2, -1))).tobytes()
        for y in (x[0].numpy(), x[0].numpy()[..., ::-1])
        for k in range(4)
    }
    assert found == expected


@pytest.mark.parametrize(("symmetries", "order"), GROUPS.items())
def test_random_transform(symmetries, order):
    """Every element of the group, equally often, each image by its own."""
    n = 4000
    x = images(n=1).expand(n, -1, -1, -1)
    with seeded(1, device=torch.device("cpu")):
        y = random_transform(x, symmetries)
    assert y.shape == x.shape
    _, counts = torch.unique(y.flatten(1), dim=0, return_counts=True)
    assert len(counts) == order
    expected = n / order
    assert ((counts - expected).abs() < 5 * np.sqrt(expected)).all()


def test_bands_stay_together():
    x = images(n=50, bands=2)
    x[:, 1] = -x[:, 0]
    with seeded(2, device=torch.device("cpu")):
        y = random_transform(x, SYMMETRIES)
    assert torch.equal(y[:, 1], -y[:, 0])


def test_flips_of_images_that_are_not_square():
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert torch.equal(orbit(x, ("flips",))[1:], x.flip(-1))
    assert random_transform(x, ("flips",)).shape == x.shape


@pytest.mark.parametrize("size", [6, 7])
def test_about_the_pixel_of_the_position(size):
    """Light in pixel n // 2 stays there, and its neighbours stay beside it."""
    x = torch.zeros(64, 2, size, size)
    x[:, :, size // 2, size // 2] = 2.0
    x[:, :, size // 2 - 1, size // 2] = 1.0
    with seeded(1, device=torch.device("cpu")):
        turned = random_transform_about_pixel(x, ("rotations", "flips"))
    assert turned.shape == x.shape
    assert (turned[:, :, size // 2, size // 2] == 2).all()
    beside = turned[:, 0] == 1
    assert (beside.sum(dim=(1, 2)) == 1).all()
    assert sorted(map(tuple, beside.any(dim=0).nonzero().tolist())) == sorted(
        (size // 2 + j, size // 2 + i) for j, i in ((-1, 0), (1, 0), (0, -1), (0, 1))
    )


def test_square_images_are_symmetric_unless_told_otherwise():
    shapes = {"a": (1, 6, 6), "b": (2, 6, 7), "c": (5,), "d": (1, 4, 4)}
    found = symmetries_of({"d": ["flips"]}, shapes)
    assert found == {"a": ("rotations", "flips"), "b": (), "c": (), "d": ("flips",)}
    assert symmetries_of(None, {"a": (1, 6, 6)}) == {"a": SYMMETRIES}
    with pytest.raises(InputError, match=r"symmetries\['b'\]: \['flips'\] of a source of shape"):
        symmetries_of({"b": ("flips",)}, shapes)
