import numpy as np
import pytest
from numpy.testing import assert_allclose

from astro_ddprism.errors import InputError
from astro_ddprism.survey import estimate_noise


def test_objects_and_bad_pixels_do_not_count():
    rng = np.random.default_rng(0)
    image = rng.normal(5, 2, (256, 256))
    y, x = np.mgrid[:256, :256]
    for cx, cy in rng.uniform(0, 256, (60, 2)):
        image += 60 * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / 3**2)
    mask = rng.random(image.shape) < 0.02
    image[mask] = 1e6
    image[0, :9] = np.nan
    background, noise = estimate_noise(image, mask=mask)
    assert_allclose(np.median(noise), 2, rtol=0.02)
    assert_allclose(np.median(background), 5, atol=0.1)


def test_noise_that_varies():
    sigma = np.linspace(1, 3, 512)
    image = np.random.default_rng(1).normal(0, 1, (512, 512)) * sigma
    noise = estimate_noise(image)[1].mean(axis=0)
    assert_allclose(noise[64:-64], sigma[64:-64], rtol=0.06)


def test_integers():
    counts = np.random.default_rng(2).poisson(100, (128, 128))
    background, noise = estimate_noise(counts)
    assert_allclose(noise.mean(), 10, rtol=0.03)
    assert_allclose(background.mean(), 100, rtol=0.01)


def test_no_sky():
    image = np.random.default_rng(0).normal(size=(64, 64))
    mask = np.ones((64, 64), bool)
    mask[0, :50] = False
    with pytest.raises(InputError, match="sky cannot be measured: 99%"):
        estimate_noise(image, mask=mask)
