import numpy as np
from numpy.testing import assert_allclose

from astro_ddprism.survey import find_saturation
from astro_ddprism.survey.saturation import grow_saturated


def star_field(level, n=60, seed=0):
    rng = np.random.default_rng(seed)
    image = np.zeros((400, 400))
    y, x = np.mgrid[:400, :400]
    for cx, cy, flux in zip(
        *rng.uniform(20, 380, (2, n)), 10 ** rng.uniform(2.5, 5, n), strict=True
    ):
        image += flux * (1 + ((x - cx) ** 2 + (y - cy) ** 2) / 2.5) ** -3.0
    return np.minimum(image, level) + rng.normal(size=image.shape)


def test_the_level_is_found():
    level = find_saturation(star_field(8000.0), 1.0)
    assert_allclose(level, 8000, rtol=0.01)


def test_no_saturated_star_no_level():
    assert find_saturation(star_field(np.inf), 1.0) is None
    assert find_saturation(np.random.default_rng(0).normal(size=(64, 64)), 1.0) is None


def test_masked_pixels_are_not_read():
    image = star_field(8000.0)
    mask = image > 4000
    assert find_saturation(np.where(mask, np.nan, image), 1.0, mask=mask) is None


def test_growth():
    image = np.zeros((41, 41))
    image[20, 20] = 1000
    image[20, 21:25] = 100  # a shoulder over 5 %
    image[5, 5] = 900  # bright, not saturated
    grown = grow_saturated(image, 1000.0)
    assert grown[20, 18:27].all()
    assert not grown[5, 5]
    assert not grown[:16].any()
    assert not grow_saturated(image, 2000.0).any()
