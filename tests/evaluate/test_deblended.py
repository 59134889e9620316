import numpy as np
import pytest
from astropy import units as u

from astro_ddprism.errors import InputError
from astro_ddprism.evaluate.deblended import deblended_aperture_flux
from astro_ddprism.simulate.profiles import MoffatRenderer

RADIUS = 5.0


def add(image, x, y, flux):
    stamp, (x0, y0) = MoffatRenderer(2.4).stamp(x, y, size=32)
    image[y0 : y0 + 32, x0 : x0 + 32] += flux * stamp


@pytest.fixture(scope="module")
def scene():
    """Sixty objects on a grid, every second one with a neighbour of its own flux 6 pixels away."""
    rng = np.random.default_rng(0)
    image, positions = np.zeros((400, 600)), []
    for i in range(60):
        x, y = 30 + 60 * (i % 10) + rng.random(), 30 + 60 * (i // 10) + rng.random()
        add(image, x, y, 300.0)
        if i % 2:
            add(image, x + 6, y, 300.0)
        positions.append((x, y))
    return image + rng.normal(size=image.shape), np.array(positions)


@pytest.mark.parametrize("unit", [1, 1e-30 * u.W / u.m**2])
def test_neighbours_are_taken_out(scene, unit):
    image, positions = scene
    flux = deblended_aperture_flux(
        image * unit, np.ones_like(image) * unit, positions, RADIUS, kernel=np.ones((3, 3))
    )
    blended = np.arange(60) % 2 == 1
    # Noise in the aperture is 9; a star has 2 % of its light beyond it. The observed aperture
    # holds 80 more of a neighbour 6 pixels away.
    for method, tolerance in (("mask", 25), ("correct", 25), ("segment", 25)):
        values = flux[method] / unit
        assert np.median(np.abs(values[~blended] - 295)) < 12, method
        assert np.median(np.abs(values[blended] - 295)) < tolerance, method


def test_without_a_segment_there_is_no_flux(scene):
    image, positions = scene
    flux = deblended_aperture_flux(image, np.ones_like(image), [(60.0, 60.0), positions[0]], RADIUS)
    assert np.isnan(flux["mask"]).tolist() == [True, False]


def test_masked_pixels_are_left_out(scene):
    image, positions = scene
    mask = np.zeros(image.shape, dtype=bool)
    mask[:, int(positions[0, 0]) + 4] = True
    bad = np.where(mask, 1e6, image)
    flux = deblended_aperture_flux(bad, np.ones_like(image), positions[:1], RADIUS, mask=mask)
    assert abs(flux["correct"][0] - 295) < 40


def test_a_blank_image_is_refused():
    with pytest.raises(InputError, match="found nothing"):
        deblended_aperture_flux(np.zeros((50, 50)), np.ones((50, 50)), [(25, 25)], RADIUS)
