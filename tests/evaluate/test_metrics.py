from itertools import permutations

import numpy as np
import pytest
from astropy import units as u
from photutils.aperture import CircularAperture, aperture_photometry
from scipy.stats import norm

from astro_ddprism.errors import InputError
from astro_ddprism.evaluate.metrics import (
    best_permutation,
    interval_coverage,
    median_absolute_error,
    psnr,
    residual_std,
)
from astro_ddprism.posterior.apertures import aperture_flux, aperture_weights


def test_aperture_flux_is_photutils():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 4, 2, 24, 20)) * u.uJy
    positions = rng.uniform(8, 12, size=(4, 2))
    radii = np.array([2.0, 3.5, 5.0, 6.0])
    flux = aperture_flux(images, radii, positions)
    assert flux.shape == (3, 4, 2)
    for n in range(4):
        table = aperture_photometry(images[1, n, 1], CircularAperture(positions[n], radii[n]))
        np.testing.assert_allclose(flux[1, n, 1].value, table["aperture_sum"][0].value, rtol=1e-12)
    default = aperture_flux(images.value, 3.0)
    here = aperture_flux(images.value, 3.0, [(10, 12)] * 4)
    np.testing.assert_array_equal(default, here)


def test_aperture_may_reach_over_the_edge():
    weights = aperture_weights([(0.0, 0.0), (-50.0, 5.0), (5.0, 5.0)], 3.0, (11, 11))
    # About a quarter, about a corner pixel's centre; nothing; all.
    assert weights[0].sum() == pytest.approx(np.pi * 9 / 4 + 3 + 0.25, rel=5e-3)
    assert weights[1].sum() == 0
    assert weights[2].sum() == pytest.approx(np.pi * 9)
    with pytest.raises(InputError, match="radius"):
        aperture_weights([(0.0, 0.0)], 0.0, (11, 11))


@pytest.mark.parametrize("n_samples", [8, 16, 64])
@pytest.mark.parametrize("level", [0.5, 0.68])
def test_coverage_of_honest_samples_is_their_level(n_samples, level):
    draws = np.random.default_rng(1).normal(size=(n_samples + 1, 20_000)) * u.uJy
    coverage = interval_coverage(draws[1:], draws[0], level)
    assert coverage == pytest.approx(level, abs=0.03 if n_samples < 16 else 0.015)


def test_coverage_of_errors_half_as_large():
    rng = np.random.default_rng(2)
    coverage = interval_coverage(0.5 * rng.normal(size=(64, 20_000)), rng.normal(size=20_000))
    assert coverage == pytest.approx(2 * norm.cdf(norm.ppf(0.84) / 2) - 1, abs=0.02)


@pytest.mark.parametrize("level", [0.0, 1.0, 68])
def test_coverage_refuses_impossible_levels(level):
    with pytest.raises(InputError, match="level"):
        interval_coverage(np.zeros((16, 3)), np.zeros(3), level)


def test_coverage_refuses_too_few_samples():
    with pytest.raises(InputError, match="samples: found 4"):
        interval_coverage(np.zeros((4, 3)), np.zeros(3))


def test_residual_std_leaves_out_masked_pixels():
    residual = np.array([[3.0, -4.0], [np.nan, 0.0]], dtype=np.float32)
    assert residual_std(residual) == pytest.approx(np.sqrt(25 / 3))


def test_errors_keep_their_unit():
    error = median_absolute_error([1, 2, 9] * u.uJy, [1.5e-3, 2e-3, 3e-3] * u.mJy)
    assert error == 0.5 * u.uJy
    truth = [[1.0, 0.0], [2.0, 0.0]] * u.uJy
    np.testing.assert_allclose(
        psnr(truth + 0.1 * u.uJy, truth, axis=1), [20, 20 + 20 * np.log10(2)]
    )
    assert psnr(truth, truth) == np.inf


def test_exchangeable_sources():
    """The order of the least error of each observation, by all permutations."""
    rng = np.random.default_rng(6)
    truth, estimate = rng.normal(size=(2, 3, 40, 2, 4))
    found = best_permutation(estimate * u.uJy, truth * u.uJy)
    assert found.unit == u.uJy
    for i in range(40):
        orders = [estimate[list(order), i] for order in permutations(range(3))]
        best = min(orders, key=lambda x, i=i: ((x - truth[:, i]) ** 2).sum())
        np.testing.assert_array_equal(found[:, i].value, best)
    shuffled = truth[rng.permuted(np.tile(np.arange(3), (40, 1)), axis=1).T, np.arange(40)]
    np.testing.assert_array_equal(best_permutation(shuffled, truth), truth)
    with pytest.raises(InputError, match=r"estimate: found shape \(3, 40, 2, 4\), expected \(2"):
        best_permutation(estimate, truth[:2])
