"""The study of total fluxes, on a simulated field, with a separator that errs as it is told."""

from types import SimpleNamespace

import numpy as np
import pytest

from astro_ddprism import PosteriorSamples
from benchmarks.injection.scene import SceneSettings, make_scene
from benchmarks.totals.study import APART, APERTURES, PointSources, measure, summarise


@pytest.fixture(scope="module")
def points(cosmos, simulated_tile):
    """Point sources in two passes over the last rows of a simulated field."""
    settings = SceneSettings(
        n=12, n_per_pass=6, first_row=60, magnitudes=(19.0, 23.0), near=APART, gain=1e10,
        saturated=20.0,
    )  # fmt: skip
    return make_scene(simulated_tile[0], cosmos, settings, catalog=PointSources)


def test_point_sources_are_as_the_psf(points):
    """All of the flux is there, and none is wider than the PSF."""
    flux = np.asarray(points.catalog["flux"])
    np.testing.assert_allclose(points.truth.sum(axis=(1, 2)), flux, rtol=0.02)
    assert (points.catalog["galaxy"] == -1).all()
    peak = points.truth.max(axis=(1, 2)) / flux
    assert (peak > 0.3 * points.psf.max()).all()
    assert (peak < 1.2 * points.psf.max()).all()


def test_fluxes_over_the_truth(points):
    """A separator that finds nine tenths of the light, and wings that are none."""
    passes = iter(range(points.n_passes))

    class Separator:
        def sample(self, view, n_samples, **_):
            rows = points.rows(next(passes))
            light = np.repeat(0.9 * points.truth[rows][np.newaxis, :, np.newaxis], n_samples, 0)
            light[..., 0, 0] += 0.2 * points.truth[rows].sum(axis=(1, 2))[:, np.newaxis]
            samples = {s: light if s == "galaxy" else 0 * light for s in view.sources}
            return PosteriorSamples(samples, view)

    ratios = measure(Separator(), points, 2)
    np.testing.assert_allclose(ratios["total"], 1.1, rtol=1e-5)
    for radius in APERTURES:
        np.testing.assert_allclose(ratios[str(radius)], 0.9, rtol=1e-5)


def test_figures(points):
    """Of many sources: those with neighbours are left out, and the bins are those of magnitude."""
    rng, n = np.random.default_rng(0), 4000
    magnitude, near = rng.uniform(19, 23, n), rng.random(n) < 0.3
    catalog = {"magnitude": magnitude, "neighbours": np.where(near, 0.5, 0.0)}
    total = np.where(near, 9.0, 1.0 + 0.01 * magnitude + rng.normal(0, 0.05, n))
    ratios = {"total": total} | {str(radius): np.full(n, 0.98) for radius in APERTURES}
    rows = summarise("point", SimpleNamespace(catalog=catalog), ratios)
    assert [row["magnitude"] for row in rows] == ["19 to 23", "19 to 20", "20 to 21", "21 to 22",
                                                  "22 to 23"]  # fmt: skip
    assert rows[0]["n"] == np.sum(~near) == sum(row["n"] for row in rows[1:])
    for row, middle in zip(rows, (21, 19.5, 20.5, 21.5, 22.5), strict=True):
        assert row["bias"] == pytest.approx(0.01 * middle, abs=4 * row["bias_error"])
        assert row["bias_6"] == pytest.approx(-0.02)
    assert rows[1]["scatter"] == pytest.approx(0.05, rel=0.15)
    assert rows[1]["bias_error"] == pytest.approx(1.2533 * 0.05 / np.sqrt(rows[1]["n"]), rel=0.15)
