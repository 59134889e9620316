"""Light under other conditions, against Gaussians whose answers are known."""

import math

import numpy as np
import pytest
import torch

from astro_ddprism.diffusion.random import seeded
from astro_ddprism.diffusion.variety import Variety, centroids
from astro_ddprism.errors import InputError

CPU = torch.device("cpu")
SIZE = 32


def gaussian(variances, centres, size=SIZE):
    """Circular Gaussians of unit flux, one of each variance, at (y, x)."""
    axis = torch.arange(size, dtype=torch.float64)
    centres = torch.as_tensor(centres, dtype=torch.float64).expand(len(variances), 2)
    y, x = ((axis - c[:, None]).square() for c in centres.T)
    variances = torch.as_tensor(variances, dtype=torch.float64)[:, None, None]
    images = torch.exp(-0.5 * (y[:, :, None] + x[:, None]) / variances) / (2 * math.pi * variances)
    return images[:, None].float()


def moments(images):
    """Flux, centroid (y, x) and mean variance of an axis, of the whole images."""
    light = images[:, 0].double()
    axis = torch.arange(light.shape[-1], dtype=torch.float64)
    flux = light.sum(dim=(1, 2))
    y, x = (light.sum(dim=k) @ axis / flux for k in (2, 1))
    yy, xx = (light.sum(dim=k) @ axis.square() / flux for k in (2, 1))
    return flux, torch.stack([y, x], dim=1), (yy - y**2 + xx - x**2) / 2


def variance_of(fwhm):
    return torch.as_tensor(fwhm).square() / (8 * math.log(2))


def test_stars_under_another_seeing():
    """Wider by convolution, exactly; sharper in larger pixels, to what interpolation leaves."""
    own, asked = torch.full((5,), 2.7), torch.tensor([4.5, 3.2, 2.7, 2.4, 2.0])
    stars = 7 * gaussian(variance_of(own), (SIZE // 2, SIZE // 2))
    seen = Variety(seeing=(2.0, 4.5)).seen(stars, own, asked)
    expected = 7 * gaussian(variance_of(asked), (SIZE // 2, SIZE // 2))
    error = (seen - expected).abs().amax(dim=(1, 2, 3)) / expected.amax(dim=(1, 2, 3))
    assert (error[:3] < 1e-4).all()
    assert (error[3:] < 0.03).all()
    torch.testing.assert_close(moments(seen)[0], torch.full((5,), 7.0).double(), rtol=0.02, atol=0)


def test_light_that_goes_on_beyond_the_edge():
    """An even sky stays as it is; in pixels that are larger, each holds more of it."""
    sky = torch.ones(2, 1, SIZE, SIZE)
    seen = Variety(seeing=(2.0, 4.5)).seen(sky, torch.full((2,), 3.0), torch.tensor([4.0, 2.0]))
    torch.testing.assert_close(seen[0], sky[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen[1], 2.25 * sky[1], rtol=1e-4, atol=1e-4)


def test_templates_take_other_shapes():
    """They stay in their pixel, evenly, and keep their flux; half of them their size."""
    n = 400
    own = variance_of(torch.full((n,), 3.0))
    galaxies = gaussian(own, (SIZE // 2 + 0.3, SIZE // 2 - 0.2))
    with seeded(1, device=CPU):
        seen = Variety(shapes=True).seen(galaxies, own, None, centroids(galaxies))
    flux, centre, size = moments(seen)
    np.testing.assert_allclose(flux, 1, rtol=5e-3)
    offset = (centre - SIZE // 2).numpy()
    assert (np.abs(offset) < 0.52).all()
    for axis in offset.T:  # the mean and the variance of an even distribution
        assert abs(axis.mean()) < 4 / np.sqrt(12 * n)
        assert axis.var() == pytest.approx(1 / 12, rel=0.2)
    grown = (size / own[0]).numpy() - 1
    assert 0.45 < (grown < 0.05).mean() < 0.72  # those that grow a little among them
    assert grown.max() > 0.3
    assert grown.min() > -0.01


def test_templates_are_turned():
    """By any angle: the direction of an elongated one is anywhere."""
    axis = torch.arange(SIZE) - SIZE // 2
    bar = torch.exp(-axis[:, None].square() / 40.0 - axis.square() / 4.0)[None, None]
    bars = bar.expand(300, 1, SIZE, SIZE)
    with seeded(2, device=CPU):
        seen = Variety(shapes=True).seen(bars, torch.ones(300), None, centroids(bars))
    light = seen[:, 0] / seen.sum(dim=(1, 2, 3))[:, None, None]
    y, x = moments(seen)[1].T.float()
    dy, dx = axis + SIZE // 2 - y[:, None], axis + SIZE // 2 - x[:, None]
    skew = 2 * torch.einsum("nyx,ny,nx->n", light, dy, dx)
    stretch = torch.einsum("nyx,ny->n", light, dy.square()) - torch.einsum(
        "nyx,nx->n", light, dx.square()
    )
    angle = torch.atan2(skew, stretch).numpy() / 2
    counts, _ = np.histogram(angle, 6, (-np.pi / 2, np.pi / 2))
    assert counts.min() > 50 - 4 * np.sqrt(50)
    assert torch.hypot(skew, stretch).min() > 0.9 * (20 - 2)  # the difference of its variances


def test_what_stays_as_it_is():
    x = torch.randn(3, 2, 8, 8)
    assert Variety().seen(x, None, None) is x
    assert Variety(shapes=True).seen(x, None, None) is x  # no template
    assert not Variety(depth=(0.5, 2), masks=1).changes_light
    depth, seeing = Variety().conditions(4, CPU)
    assert depth.tolist() == [1, 1, 1, 1]
    assert seeing is None


def test_conditions_are_even_in_the_logarithm():
    with seeded(3, device=CPU):
        depth, seeing = Variety(depth=(0.5, 2.0), seeing=(2.0, 4.5)).conditions(4000, CPU)
    for found, low, high in ((depth, 0.5, 2.0), (seeing, 2.0, 4.5)):
        place = (found.log() - math.log(low)) / math.log(high / low)
        assert place.min() >= 0
        assert place.max() <= 1
        assert float(place.mean()) == pytest.approx(0.5, abs=4 / math.sqrt(12 * 4000))


def test_centroids():
    where = torch.tensor([[16.4, 15.7], [15.6, 16.0], [16.0, 16.45]])
    galaxies = torch.cat([gaussian([v], c) for v, c in zip((1.5, 4.0, 9.0), where, strict=True)])
    torch.testing.assert_close(centroids(galaxies), where, atol=0.02, rtol=0)


@pytest.mark.parametrize("options", [{"depth": (2.0, 1.0)}, {"depth": (1.0,)}, {"seeing": (3.0,)}])
def test_refused(options):
    with pytest.raises(InputError, match=r"Variety\.(depth|seeing): found .*, expected two"):
        Variety(**options)
