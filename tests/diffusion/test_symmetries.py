"""The dihedral group of a square image, and its subgroups."""

import numpy as np
import pytest
import torch

from astro_ddprism.diffusion.random import seeded
from astro_ddprism.diffusion.symmetries import SYMMETRIES, orbit, random_transform

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
