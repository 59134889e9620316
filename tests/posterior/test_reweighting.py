"""Fluxes under another prior, against closed forms and integrals."""

import numpy as np
import pytest
from astropy import units as u

from astro_ddprism import PosteriorSamples, View
from astro_ddprism.errors import InputError
from astro_ddprism.mixing import Identity
from astro_ddprism.posterior.catalog import QUANTILES, statistics
from astro_ddprism.posterior.reweighting import (
    flux_under_prior,
    flux_weights,
    log_uniform,
    power_law,
    weighted_statistics,
)


@pytest.mark.parametrize("slope", [-0.3, 0.4, 0.6])
def test_log_normal_posteriors(slope):
    """Under 1 / F a log-normal posterior; a power law shifts it and keeps its width."""
    rng, mean, width = np.random.default_rng(1), np.array([2.0, -1.0]), 0.3
    flux = np.exp(rng.normal(mean, width, (200_000, 2)))
    found = weighted_statistics(flux, flux_weights(flux, power_law(slope)))
    middle = mean - 2.5 * slope * width**2
    np.testing.assert_allclose(found["p50"], np.exp(middle), rtol=5e-3)
    np.testing.assert_allclose(found["p84"], np.exp(middle + 0.99446 * width), rtol=1e-2)
    expected = np.exp(middle + width**2 / 2)
    np.testing.assert_allclose(found[""], expected, rtol=5e-3)
    np.testing.assert_allclose(found["error"], expected * np.sqrt(np.expm1(width**2)), rtol=2e-2)
    # The mean square of log-normal weights over the square of their mean.
    share = np.exp(-((2.5 * slope * width) ** 2))
    np.testing.assert_allclose(found["n_effective"], 200_000 * share, rtol=0.05)


def test_a_flux_with_noise():
    """Draws under 1 / F in a range, of a flux seen with noise; integrals of the other posterior."""
    grid = np.geomspace(0.5, 100, 20_001)
    noise, seen = 1.0, 4.0
    likelihood = np.exp(-((grid - seen) ** 2) / 2 / noise**2)  # on a grid that is 1 / F dense
    draws = np.random.default_rng(2).choice(grid, 100_000, p=likelihood / likelihood.sum())
    weights = flux_weights(draws, power_law(0.5), sampled_under=log_uniform)
    found = weighted_statistics(draws, weights)
    other = likelihood * grid**-1.25
    assert found[""] == pytest.approx(np.average(grid, weights=other), rel=5e-3)
    cumulative = np.cumsum(other) / other.sum()
    for name, level in QUANTILES.items():
        assert found[name] == pytest.approx(np.interp(level, cumulative, grid), rel=1e-2)


def test_equal_weights_change_nothing():
    values = np.random.default_rng(3).normal(size=(13, 4))
    weights = flux_weights(np.exp(values), log_uniform)
    np.testing.assert_allclose(weights, 1 / 13)
    found, expected = weighted_statistics(values, weights), statistics(values, QUANTILES)
    np.testing.assert_allclose(found.pop("n_effective"), 13)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10)


def test_fluxes_that_cannot_be():
    flux = np.array([[-1.0, -1.0], [2.0, 0.0], [4.0, -3.0]])
    weights = flux_weights(
        flux, lambda f: np.where(f < 3, -np.inf, 0.0), sampled_under=np.zeros_like
    )
    np.testing.assert_array_equal(weights[:, 0], [0, 0, 1])
    assert np.isnan(weights[:, 1]).all()
    found = weighted_statistics(flux, weights)
    assert found[""][0] == 4
    assert all(np.isnan(value[1]) for value in found.values())
    with pytest.raises(InputError, match=r"log_prior: found values of shape .*NaN"):
        flux_weights(flux, lambda f: np.full_like(f, np.nan))
    with pytest.raises(InputError, match="sampled_under: found fluxes that cannot"):
        flux_weights(flux, log_uniform, sampled_under=lambda f: np.where(f < 3, -np.inf, 0.0))


def test_of_posterior_samples():
    """Bands have priors of their own; the aperture's flux goes with the weights of the total."""
    rng = np.random.default_rng(4)
    flux = np.exp(rng.normal(1, 0.2, (3000, 2, 2)))
    light = np.zeros((3000, 2, 2, 9, 9))
    light[..., 4, 4], light[..., 0, 0] = 0.75 * flux, 0.25 * flux
    operator = Identity((2, 9, 9))
    view = View(np.zeros((2, 2, 9, 9)), variance=1.0, unit="uJy", mixing={"galaxy": operator})
    samples = PosteriorSamples({"galaxy": light}, view)
    table = flux_under_prior(samples, "galaxy", power_law(0.6))
    inside = flux_under_prior(samples, "galaxy", power_law(0.6), aperture=2)
    for band in range(2):
        expected = np.exp(1 - 1.5 * 0.2**2)
        np.testing.assert_allclose(
            table[f"flux_p50_{band + 1}"].to_value(u.uJy), expected, rtol=0.02
        )
        np.testing.assert_allclose(inside[f"flux_{band + 1}"], 0.75 * table[f"flux_{band + 1}"])
    assert list(table["id"]) == list(view.ids)
