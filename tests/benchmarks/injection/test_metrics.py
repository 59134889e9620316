import numpy as np
import pytest
from scipy.stats import chisquare, median_abs_deviation

from benchmarks.injection.metrics import (
    bootstrap_error,
    correct_by,
    flux_statistics,
    rank_statistics,
    ranks_of,
    tarp_coverage,
    tarp_ranks,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_flux_statistics(rng):
    ratio = rng.normal(1.05, 0.1, 40_000)
    found = flux_statistics(ratio)
    assert found["bias"] == pytest.approx(0.05, abs=2e-3)
    assert found["scatter"] == pytest.approx(median_abs_deviation(ratio, scale="normal"), rel=1e-4)
    assert found["scatter_of_all"] == found["scatter"]
    # Above 1.2 lie 6.68 %, below 0.8 lie 0.62 % of this distribution.
    assert found["outlier_fraction"] == pytest.approx(0.0730, abs=4e-3)


def test_what_is_missing_is_an_outlier():
    ratio = np.array([1.0, 1.02, 0.9, np.nan, np.nan])
    found = flux_statistics(ratio)
    assert found["bias"] == 0
    assert found["scatter"] == pytest.approx(1.4826 * 0.02)
    assert found["scatter_of_all"] == pytest.approx(1.4826 * 0.1)
    assert found["outlier_fraction"] == pytest.approx(0.4)
    assert flux_statistics(np.array([1.0, np.nan, np.nan]))["scatter_of_all"] == np.inf
    nothing = flux_statistics(np.full(3, np.nan))
    assert np.isnan(nothing["bias"])
    assert nothing["outlier_fraction"] == 1


def test_correction_is_of_the_reference_alone():
    ratio = np.array([0.8, 0.9, np.nan, 1.0, 5.0])
    reference = np.array([True, True, True, True, False])
    np.testing.assert_allclose(correct_by(ratio, reference), ratio / 0.9)
    assert np.isnan(correct_by(ratio, np.zeros(5, bool))).all()


def test_bootstrap_error_of_a_mean(rng):
    values = rng.normal(size=400)
    errors = bootstrap_error(lambda rows: {"mean": values[rows].mean()}, 400, n_bootstrap=2000)
    assert errors["mean"] == pytest.approx(values.std() / 20, rel=0.1)
    assert bootstrap_error(dict, 0) == {}


def test_ranks(rng):
    samples = rng.normal(size=(5, 30))
    truth = rng.normal(size=30)
    expected = [sum(s < t for s in column) for column, t in zip(samples.T, truth, strict=True)]
    np.testing.assert_array_equal(ranks_of(samples, truth), expected)
    equal = ranks_of(np.zeros((4, 5000)), np.zeros(5000))
    assert chisquare(np.bincount(equal, minlength=5)).pvalue > 1e-3


@pytest.mark.parametrize(("name", "sign"), [("slope", -0.6), ("curvature", 0.5)])
def test_rank_statistics_measure_a_density(rng, name, sign):
    """Ranks drawn from a density with a known slope or curvature."""
    u = (np.arange(17) + 0.5) / 17
    shape = {"slope": u - 0.5, "curvature": (3 * (2 * u - 1) ** 2 - 1) / 2}[name]
    density = 1 + sign * (shape - shape.mean())
    ranks = rng.choice(17, 100_000, p=density / density.sum())
    found = rank_statistics(ranks, 16)
    assert found[name] == pytest.approx(sign, abs=4 * found[f"{name}_error"])
    other = "curvature" if name == "slope" else "slope"
    assert abs(found[other]) < 4 * found[f"{other}_error"]
    assert found["p_value"] < 1e-10


def test_rank_statistics_of_uniform_ranks(rng):
    rows = [rank_statistics(rng.integers(9, size=200), 8) for _ in range(400)]
    for name in ("slope", "curvature"):
        values = np.array([row[name] for row in rows])
        assert values.std() == pytest.approx(rows[0][f"{name}_error"], rel=0.12)
        assert abs(values.mean()) < 4 * values.std() / 20
    histogram = rows[0]["histogram"]
    assert len(histogram) == 9
    assert rows[0]["chi2"] == pytest.approx(chisquare(histogram).statistic)
    assert rows[0]["p_value"] == pytest.approx(chisquare(histogram).pvalue)


def make_posterior(rng, n, shift=0.0, width=1.0, n_samples=16):
    """Truths in three dimensions and draws of their posterior, wrong by a shift and a width."""
    centre = rng.normal(size=(n, 3)) * [100, 1, 0.1]
    scale = np.array([10, 0.3, 0.02]) * rng.uniform(0.5, 2, (n, 1))
    truth = centre + scale * rng.normal(size=(n, 3))
    draws = rng.normal(size=(n_samples, n, 3))
    return centre + scale * (shift + width * draws), truth


def test_tarp_of_a_right_posterior(rng):
    samples, truth = make_posterior(rng, 4000)
    coverage = tarp_coverage(tarp_ranks(samples, truth, n_references=3), 16)
    assert coverage["largest_deviation"] < 0.025
    assert coverage["p_value"] > 0.01
    assert coverage["expected_coverage"][0] == 0
    assert coverage["expected_coverage"][-1] == 1


@pytest.mark.parametrize("wrong", [{"width": 0.5}, {"width": 2.0}, {"shift": 1.0}])
def test_tarp_finds_what_is_wrong(rng, wrong):
    samples, truth = make_posterior(rng, 2000, **wrong)
    coverage = tarp_coverage(tarp_ranks(samples, truth), 16)
    assert coverage["largest_deviation"] > 0.05
    assert coverage["p_value"] < 1e-3


def test_tarp_does_not_know_units(rng):
    samples, truth = make_posterior(rng, 50)
    units = np.array([1e-11, 3.0, 1e5])
    np.testing.assert_array_equal(
        tarp_ranks(samples * units, truth * units), tarp_ranks(samples, truth)
    )
