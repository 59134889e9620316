"""Which pixels simulated observations lose: every way, at the target too, and never too many."""

import pytest
import torch
from scipy.ndimage import label

from astro_ddprism.diffusion.masks import MOST, lost_pixels
from astro_ddprism.diffusion.random import seeded

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def lost():
    """Of 3,000 images of two bands."""
    with seeded(1, device=CPU):
        return lost_pixels(3000, (2, 32, 32), CPU)


def test_how_many(lost):
    """From none to as many as the limit, all of the range; the centre in about one of ten."""
    part = lost.float().mean(dim=(2, 3))
    assert part.max() <= MOST
    counts = torch.histc(part, bins=8, min=0.0, max=MOST) / part.numel()
    assert (counts > 0.005).all()
    assert 0.05 < (part == 0).float().mean() < 0.25
    assert 0.05 < lost[:, :, 16, 16].float().mean() < 0.2


def test_every_way(lost):
    """Columns, rows, trails, edges, holes at the centre and single pixels occur, each in some."""
    image = lost[:, 0]
    columns, rows = (image.all(dim=axis).sum(dim=1) for axis in (1, 2))
    for full in (columns, rows):
        assert ((full > 0) & (full < 5)).float().mean() > 0.01
    edges = torch.stack([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]]).all(dim=2)
    assert (edges.float().mean(dim=1) > 0.01).all()
    assert image[:, 14:19, 14:19].flatten(1).all(dim=1).float().mean() > 0.003
    patches = torch.tensor([label(one)[1] for one in image[:300].numpy()])
    assert (patches > 20).float().mean() > 0.1  # single pixels
    assert ((patches > 0) & (patches < 4)).float().mean() > 0.2


def test_bands(lost):
    same = (lost[:, 0] == lost[:, 1]).flatten(1).all(dim=1).float().mean()
    assert 0.45 < same < 0.65  # half, and where both lose nothing


def test_a_seed_repeats_them(lost):
    with seeded(1, device=CPU):
        assert torch.equal(lost_pixels(3000, (2, 32, 32), CPU), lost)
