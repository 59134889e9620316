"""Symmetric templates of galaxies whose truth is known."""

import galsim
import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from astro_ddprism.diffusion import scratch
from astro_ddprism.diffusion.learning import templates as templates_module
from astro_ddprism.diffusion.learning.templates import symmetric_templates
from astro_ddprism.diffusion.scratch import Drawn


def templates_of(light):
    """The templates; those of the images that are said to be clean."""
    templates, clean = symmetric_templates(light)
    assert len(templates) == int(clean.sum())
    assert clean.shape == (len(light),)
    return templates


NOISE = 0.5  # of posterior draws, in units of that of the observation


def draw(profile, size, x=0.0, y=0.0):
    """A profile, so far from pixel ``size // 2``."""
    step = 0.5 - size % 2 / 2
    seen = galsim.Convolve(profile, galsim.Moffat(beta=3, fwhm=3.2))
    return seen.shift(step + x, step + y).drawImage(nx=size, ny=size, scale=1).array


def galaxies(n, size=24, flux=2000.0, seed=0, offset=0.0):
    """Galaxies of many shapes, anywhere in pixel ``size // 2`` plus an offset, (n, size, size)."""
    rng = np.random.default_rng(seed)
    images = []
    for k in range(n):
        profile = galsim.Sersic(
            (1.0, 2.5)[k % 2], half_light_radius=rng.uniform(1.5, 3.5), trunc=20
        )
        profile = profile.withFlux(flux).shear(
            q=rng.uniform(0.4, 1), beta=rng.uniform(0, 180) * galsim.degrees
        )
        x, y = rng.uniform(-0.5, 0.5, 2) if offset == 0 else (offset, offset)
        images.append(draw(profile, size, x, y))
    return np.array(images)


def noisy(images, seed=1):
    noise = np.random.default_rng(seed).normal(0, NOISE, images.shape)
    return torch.as_tensor(images + noise, dtype=torch.float32)


def fluxes(templates):
    return templates.sum(dim=(-2, -1)).squeeze(1).numpy()


@pytest.mark.parametrize(("size", "offset"), [(24, 0.0), (25, 0.0), (24, -0.5)])
def test_isolated_galaxies_stay_as_they_are(size, offset):
    """Cutouts of even and odd sizes, and frames, whose middle is between pixels.

    What is lost is the faint outskirts: several per cent of the light in the cutout, and no pixel
    is off by more than a tenth of the peak and the noise.
    """
    truth = galaxies(20, size, offset=offset)
    templates = templates_of(noisy(truth[:, None]))
    assert templates.shape == (20, 1, size, size)
    ratio = fluxes(templates) / truth.sum(axis=(1, 2))
    assert 0.93 < np.median(ratio) < 1
    assert ratio.min() > 0.85
    error = np.abs(templates[:, 0].numpy() - truth).max(axis=(1, 2))
    assert (error < 0.1 * truth.max(axis=(1, 2)) + 4 * NOISE).all()


@pytest.mark.parametrize(("distance", "most"), [(4, 0.8), (5, 0.6), (7, 0.3), (9, 0.2)])
def test_neighbours_are_removed(distance, most):
    """Of a neighbour with a fifth of the galaxy's light, in the median of the images that are kept.

    What is as bright as the galaxy's own outskirts stays: most of a neighbour at 4 pixels. The
    farther out it is, the more images are left out, and the less is left in the others.
    """
    truth = galaxies(12)
    angles = np.random.default_rng(2).uniform(0, 2 * np.pi, 12)
    profile = galsim.Gaussian(sigma=0.5, flux=400)
    neighbours = [draw(profile, 24, distance * np.cos(a), distance * np.sin(a)) for a in angles]
    noise = noisy(0 * truth)[:, None, None]
    left = []
    for x, neighbour, eta in zip(truth, neighbours, noise, strict=True):
        alone, both = (
            templates_of(eta + torch.as_tensor(light, dtype=torch.float32))
            for light in (x, x + neighbour)
        )
        assert len(alone) == 1
        left += [float((image - alone[0]).sum()) / 400 for image in both]
    assert len(left) >= 2
    assert -0.05 < np.median(left) < most


def falls_outwards(image, where):
    """Brute force: no pixel is brighter than all of its neighbours closer to the centre."""
    ny, nx = image.shape
    y, x = np.mgrid[:ny, :nx]
    radius = np.hypot(y - ny // 2, x - nx // 2)
    for j, i in np.argwhere(where):
        near = (np.abs(y - j) <= 1) & (np.abs(x - i) <= 1) & (radius < radius[j, i] - 1e-6)
        if image[j, i] > image[near].max() + 1e-6:
            return False
    return True


@pytest.mark.parametrize("size", [24, 25])
def test_templates_fall_outwards(size):
    """Outside of the core, where structure may be added, and beside light in a corner."""
    light = noisy(galaxies(6, size)[:, None])
    light[:, :, 1, 1] += 20
    kept = light.clone()
    templates = templates_of(light)
    assert torch.equal(light, kept)
    assert len(templates) > 3
    y, x = np.mgrid[:size, :size] - size // 2
    outside = np.hypot(y, x) > 8
    for template, image in zip(templates[:, 0].numpy(), light[:, 0].numpy(), strict=False):
        assert falls_outwards(template, outside)
        assert not falls_outwards(image, outside)
        assert template.min() >= -4 * NOISE


def test_faint_templates_are_smooth():
    """An expansion holds little of the draws' noise, so that it may be made brighter."""
    truth = galaxies(20, flux=150)
    for seed in (1, 2):
        templates = templates_of(noisy(truth[:, None], seed))
        assert len(templates) == 20
        image = templates[:, 0].numpy()
        scale = (image * truth).sum(axis=(1, 2)) / np.square(truth).sum(axis=(1, 2))
        error = image - scale[:, None, None] * truth
        assert 0.8 < np.median(scale) < 1.05
        assert np.median(error.std(axis=(1, 2))) < 0.25 * NOISE


def test_faint_galaxies_have_the_outskirts_of_bright_ones():
    """A third of the outskirts is lost in the noise, or half of that if bright ones tell of it."""
    truth = galaxies(60, flux=150)
    faint, bright = noisy(truth[:, None]), noisy(galaxies(60, flux=4000, seed=1)[:, None])
    alone, beside = templates_of(faint), templates_of(torch.cat([faint, bright]))
    assert len(alone) == 60
    assert len(beside) == 120
    y, x = np.mgrid[:24, :24] - 12
    wings = np.hypot(y, x) > 6
    parts = [
        image[..., wings].sum(axis=-1) / image.sum(axis=(-2, -1))
        for image in (truth, alone[:, 0].numpy(), beside[:60, 0].numpy())
    ]
    expected, without, found = (np.median(part) for part in parts)
    assert without < 0.7 * expected
    assert 0.8 * expected < found < 1.05 * expected
    # The bright ones are what they are.
    torch.testing.assert_close(beside[60:], templates_of(bright))
    # So is a band in which none is bright.
    factors = torch.tensor([1, 0.1])[:, None, None]
    both = templates_of(factors * torch.cat([faint, bright])[:, [0, 0]])
    torch.testing.assert_close(both[:, :1], beside, rtol=1e-4, atol=1e-3)
    alone = templates_of(0.1 * bright)
    torch.testing.assert_close(both[60:, 1:], alone, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("bands", [1, 2])
def test_what_is_no_galaxy_is_left_out(bands):
    """Noise, neighbours alone, and galaxies beside something as bright."""
    galaxy = galaxies(1, flux=1000)[0]
    other = draw(galsim.Gaussian(sigma=0.5, flux=1000), 24, 5, -4)
    blank = np.zeros((24, 24))
    light = np.stack([blank, galaxy, other, galaxy + other, 0.02 * galaxy, galaxy], axis=0)
    light = np.repeat(light[:, None], bands, axis=1)
    templates = templates_of(noisy(light))
    assert len(templates) == 2
    ratio = templates.sum(dim=(-2, -1)).numpy() / galaxy.sum()
    np.testing.assert_allclose(ratio, 0.93, atol=0.07)
    assert templates_of(noisy(light[[0, 2]])).shape == (0, bands, 24, 24)


def test_every_band_must_be_clean():
    """A neighbour in one band spoils the image; a band in which the galaxy is faint does not."""
    galaxy = galaxies(1)[0]
    other = draw(galsim.Gaussian(sigma=0.5, flux=1500), 24, 5, -4)
    bands = [(galaxy, galaxy), (galaxy, galaxy + other), (galaxy, 0 * galaxy), (other, other)]
    templates = templates_of(noisy(np.array(bands)))
    assert len(templates) == 2
    assert templates[1, 0].sum() > 0.9 * galaxy.sum()
    assert templates[1, 1].sum().abs() < 0.03 * galaxy.sum()


def test_a_fit_without_end_leaves_its_image_out(monkeypatch):
    """As scipy's active sets may have by rounding; the other images stay as they are."""
    light, fits = noisy(galaxies(5)[:, None]), []

    def endless(matrix, values, **options):
        fits.append(1)
        if len(fits) == 8:  # one in the second image
            raise RuntimeError("Maximum number of iterations reached.")
        return nnls(matrix, values, **options)

    expected = templates_of(light)
    monkeypatch.setattr(templates_module, "nnls", endless)
    found = templates_of(light)
    assert len(expected) == 5
    torch.testing.assert_close(found, expected[[0, 2, 3, 4]])


def test_bands_do_not_mix():
    """Colours stay: of light that is the same but for a factor, so are the templates' bands."""
    galaxy = torch.as_tensor(galaxies(3)[:, None], dtype=torch.float32)
    both = templates_of(torch.cat([galaxy, 0.5 * galaxy], dim=1))
    for band, factor in enumerate((1.0, 0.5)):
        alone = templates_of(factor * galaxy)
        torch.testing.assert_close(both[:, band], alone[:, 0], rtol=1e-4, atol=1e-3)


def test_templates_do_not_depend_on_how_many_are_looked_at_at_a_time(monkeypatch):
    """Also where they, and the light, lie in files; profiles are those of all images."""
    light = noisy(galaxies(30, flux=500.0)[:, None])
    whole, clean = symmetric_templates(light)
    monkeypatch.setattr(templates_module, "AT_A_TIME", 7)
    monkeypatch.setattr(scratch, "MOST_IN_MEMORY", 0)
    parts, own = symmetric_templates(Drawn([(30, lambda index: light[index])], light.shape[1:]))
    assert isinstance(parts, Drawn)
    assert torch.equal(own, clean)
    torch.testing.assert_close(parts[:], whole, rtol=1e-4, atol=1e-3)
