import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.ndimage import convolve, shift

from astro_ddprism.errors import InputError
from astro_ddprism.survey import estimate_autocorrelation, estimate_noise


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


def brute_force_autocorrelation(residual, blank, max_lag):
    """Loops over lags and pairs."""
    n, (ny, nx) = max_lag, residual.shape
    result = np.zeros((2 * n + 1, 2 * n + 1))
    for dy, dx in np.ndindex(result.shape):
        pairs = [
            residual[y, x] * residual[y + dy - n, x + dx - n]
            for y in range(max(0, n - dy), ny - max(0, dy - n))
            for x in range(max(0, n - dx), nx - max(0, dx - n))
            if blank[y, x] and blank[y + dy - n, x + dx - n]
        ]
        result[dy, dx] = np.mean(pairs)
    return result / result[n, n]


def test_autocorrelation_is_the_mean_over_pairs():
    """To 2 % of the noise's correlation: the background and its boxes are the difference."""
    rng = np.random.default_rng(3)
    image = rng.normal(size=(65, 63))
    image = image + 0.6 * np.roll(image, 1, axis=1) - 0.3 * np.roll(image, (1, 1), axis=(0, 1))
    mask = rng.random(image.shape) < 0.2
    found = estimate_autocorrelation(
        10 + np.where(mask, np.nan, image), mask=mask, max_lag=2, box_size=64
    )
    expected = brute_force_autocorrelation(image - image[~mask].mean(), ~mask, 2)
    assert_allclose(found, expected, atol=0.02)
    assert_allclose(found, found[::-1, ::-1], rtol=0, atol=1e-15)
    assert found[2, 2] == 1


@pytest.mark.parametrize("offset", [(0.3, 0.2), (0.5, 0.5)])
def test_autocorrelation_of_resampled_noise(offset):
    """Bilinear interpolation of white noise, beside galaxies and bad pixels."""
    rng = np.random.default_rng(4)
    image = shift(rng.normal(size=(514, 514)), offset, order=1)[1:-1, 1:-1]
    image *= np.linspace(1, 2, 512)  # deeper on one side than on the other
    mask = rng.random(image.shape) < 0.02
    y, x = np.mgrid[:512, :512]
    for cx, cy in rng.uniform(0, 512, (100, 2)):
        image += 30 * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / 2**2)
    image[mask] = 1e6
    found = estimate_autocorrelation(image, mask=mask, max_lag=3)
    rows, columns = ([f * (1 - f), f**2 + (1 - f) ** 2, f * (1 - f)] for f in offset)
    expected = np.pad(np.outer(rows, columns), 2) / (rows[1] * columns[1])
    # 200,000 blank pixels: 0.002 of noise; the rest is what the detection takes for objects.
    assert_allclose(found, expected, atol=0.015)


def test_noise_that_is_as_smooth_as_objects():
    """Its bumps are no objects: oversampled noise is not clipped."""
    kernel = np.array([1, 2, 2, 1])
    white = np.random.default_rng(6).normal(size=(515, 515))
    image = convolve(white, np.outer(kernel, kernel) / 10)[2:-1, 2:-1]
    expected = np.array([1, 4, 8, 10, 8, 4, 1]) / 10
    found = estimate_autocorrelation(image, max_lag=3, box_size=256)
    assert_allclose(found, np.outer(expected, expected), atol=0.02)
    assert_allclose(np.median(estimate_noise(image, box_size=256)[1]), 1, rtol=0.02)


def test_too_few_pairs():
    image = np.random.default_rng(5).normal(size=(32, 32))
    with pytest.raises(InputError, match=r"found \d+ pairs .* up to 3, expected at least 1000"):
        estimate_autocorrelation(image)
    for max_lag in (0, 1.5, "3"):
        with pytest.raises(InputError, match="max_lag: found"):
            estimate_autocorrelation(image, max_lag=max_lag)
