"""With a stand-in for a separator, which knows the truth."""

import json

import numpy as np
import pytest
import torch
from astropy.io import fits

pytest.importorskip("galsim")
pytest.importorskip("sep")

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset, PosteriorSamples
from astro_ddprism.separator.parts import Amortized, Chains, Training, UNet, WarmStart
from benchmarks.injection import study as injection
from benchmarks.injection.figures import (
    calibration,
    classes_of,
    conservation,
    corrected_ratios,
    coverage_rows,
    report,
    summarise,
)
from benchmarks.injection.scene import Measurement
from benchmarks.injection.separation import centroids_of, measure_by_separation

ERROR = 0.05  # relative, of the stand-in's fluxes


class StandIn:
    """Its estimate of a galaxy is off by as much as its samples scatter, or by a part of that."""

    device_ = torch.device("cpu")

    def __init__(self, scene, width=1.0):
        self.scene, self.width = scene, width
        self.rng = np.random.default_rng(0)

    def sample(self, view, n_samples, seed):
        assert seed in {0, 1}  # one for each image
        assert view.ids.tolist() == [str(i) for i in range(len(view))]
        # A view does not tell which galaxies it holds; its place in the image does.
        catalog = self.scene.catalog
        x, y = self.scene.image.wcs.world_to_pixel(view.coordinates)
        distance = np.hypot(catalog["x"] - x[:, None], catalog["y"] - y[:, None])
        rows = np.asarray(distance).argmin(axis=1)
        truth = self.scene.truth[rows][:, None]
        centre = 1 + ERROR * self.rng.normal(size=(len(rows), 1, 1, 1))
        spread = 1 + self.width * ERROR * self.rng.normal(size=(n_samples, len(rows), 1, 1, 1))
        galaxy = truth * (centre + spread - 1)
        los = np.broadcast_to(view.data, galaxy.shape) - galaxy
        return PosteriorSamples({"los": los, "galaxy": galaxy}, view)


@pytest.fixture(scope="module")
def separation(scene):
    return measure_by_separation(scene, StandIn(scene), 16)


def test_every_galaxy_is_in_its_row(separation, scene):
    catalog = scene.catalog
    np.testing.assert_allclose(separation.flux / catalog["flux_aperture"], 1, atol=5 * ERROR)
    assert separation.flux_samples.shape == (16, len(catalog))
    for k in range(2):
        rows = scene.rows(k)
        np.testing.assert_allclose(
            separation.images["observed"][rows], scene.view_of(k).data[:, 0], rtol=1e-6
        )
    # The stand-in's galaxies are where the true ones are.
    offset = np.column_stack([catalog[axis] - np.rint(catalog[axis]) for axis in "xy"])
    expected = centroids_of(scene.truth, offset)
    np.testing.assert_allclose(separation.centroids.mean(axis=0), expected, atol=1e-3)
    assert np.abs(expected).max() < 0.2


def test_conservation(separation):
    found = conservation(separation)
    assert abs(found["total_over_observed_minus_one"]) < 1e-5  # the stand-in loses nothing
    assert found["median_chi2"] < 1e-6
    assert 0 < found["noise_of_total"] < 0.05
    separation.model = separation.model * 1.01
    found = conservation(separation)
    separation.model = separation.model / 1.01
    assert found["total_over_observed_minus_one"] == pytest.approx(0.01, rel=1e-3)


def test_centroids_of_a_gaussian():
    """Under a window of width 3, a Gaussian of width s is moved by 9 / (9 + s²) of its offset."""
    y, x = np.mgrid[:32, :32] - 16.0
    blob = np.exp(-((x - 1.2) ** 2 + (y + 0.7) ** 2) / 2 / 2.0**2)
    images = np.stack([blob, 5 * blob])[:, None]
    found = centroids_of(images, np.array([[0.2, -0.2]]))
    np.testing.assert_allclose(found, 9 / 13 * np.array([[[1.0, -0.5]]] * 2), atol=1e-3)
    np.testing.assert_array_equal(centroids_of(np.zeros((1, 8, 8)), np.zeros((1, 2))), [[0, 0]])


def test_summary_of_a_constant_loss(scene):
    """It is corrected; neighbours are not."""
    catalog = scene.catalog
    classes = classes_of(catalog)
    assert classes["isolated"].any()
    assert classes["blended"].any()
    flux = 0.8 * np.asarray(catalog["flux"])
    flux[classes["blended"]] *= 1.5
    missed = np.flatnonzero(classes["blended"])[0]
    flux[missed] = np.nan
    method = Measurement("some", flux, 0.25)
    figures = summarise(method, scene)
    assert figures["correction"] == pytest.approx(0.8)
    assert figures["isolated"]["bias"] == pytest.approx(0)
    assert figures["isolated"]["n"] == classes["isolated"].sum()
    assert figures["blended"]["bias"] == pytest.approx(0.5)
    assert figures["blended"]["n_missed"] == 1
    assert figures["blended"]["outlier_fraction"] == 1
    assert figures["blended"]["time_per_object_s"] == 0.25
    assert "coverage_68" not in figures["blended"]
    counts = {by: sum(row["n"] for row in figures["bins"] if row["by"] == by)
              for by in ("magnitude", "blending")}  # fmt: skip
    assert counts["blending"] == ((catalog["magnitude"] <= 24) & (catalog["magnitude"] >= 19)).sum()
    assert counts["magnitude"] == np.sum((catalog["neighbours"] < 0.01)
                                         | (catalog["neighbours"] > 0.1))  # fmt: skip
    ratios = corrected_ratios(method, scene)
    np.testing.assert_allclose(ratios[classes["isolated"]], 1)
    assert np.isnan(ratios[missed])


def test_not_asked_is_not_missed(scene):
    isolated = classes_of(scene.catalog)["isolated"]
    asked = np.zeros(len(isolated), dtype=bool)
    asked[np.flatnonzero(isolated)[:2]] = True
    flux = np.where(asked, scene.catalog["flux"], np.nan)
    figures = summarise(Measurement("some", flux, 1.0, asked), scene)
    assert figures["isolated"]["n"] == 2
    assert figures["isolated"]["n_missed"] == 0
    assert figures["blended"]["n"] == 0


def test_coverage_and_ranks(scene):
    """Right error bars, and such that are far too small."""
    rows = {}
    for width in (1.0, 0.1):
        one = measure_by_separation(scene, StandIn(scene, width), 40)
        method, calibrated = summarise(one, scene), calibration(one, scene)
        rows[width] = (method["isolated"]["coverage_68"], calibrated["all"])
        low, high = np.quantile(one.flux_samples, [0.16, 0.84], axis=0)
        truth = scene.catalog["flux_aperture"]
        overall, isolated, blended = coverage_rows(calibrated)
        assert [row["class"] for row in (overall, isolated, blended)] == list(calibrated)
        assert overall["coverage_68"] == pytest.approx(np.mean((truth > low) & (truth < high)))
        assert isolated["coverage_68"] == method["isolated"]["coverage_68"]
        assert blended["slope"] == calibrated["blended"]["ranks"]["flux"]["slope"]
    assert rows[1.0][0] > 0.4
    assert rows[0.1][0] < 0.35
    assert abs(rows[1.0][1]["ranks"]["flux"]["curvature"]) < 3 * 0.5
    assert rows[0.1][1]["ranks"]["flux"]["curvature"] > 1.2
    assert rows[0.1][1]["n"] == len(scene.catalog)


def test_the_whole_study(simulated_tile, cosmos, tmp_path):
    """From the command line, with a model that has learned next to nothing."""
    tile, _ = simulated_tile
    options = {"estimate_noise": True, "saturation": "auto", "unit": "mgy"}
    views = MultiViewDataset.from_image(tile, **options, n_random=20)
    views = MultiViewDataset({name: view[:20] for name, view in views.items()})
    model, out, peers = (tmp_path / name for name in ("model.asdf", "out.json", "peers.npz"))
    network = UNet(channels=(4, 8), embedding=8)
    separator = DiffusionSourceSeparator(
        device="cpu",
        progress=False,
        network=network,
        posterior=Amortized(network=network, n_images=64),
        warm_start=WarmStart(rank=4, iterations=1),
        training=Training(n_first_images=32),
        chains=Chains(n_steps=2),
        n_em_iterations=0,
    )
    separator.fit(views).write(model)
    (tmp_path / "docs" / "_static").mkdir(parents=True)
    arguments = ["--model", model, "--tile", tile, "--cosmos", cosmos, "--out", out, "--n", "10",
                 "--first-row", "200", "--samples", "2", "--device", "cpu",
                 "--docs", tmp_path / "docs"]  # fmt: skip
    arguments = [str(argument) for argument in arguments]
    injection.main([*arguments, "--peers-out", str(peers)])
    record = json.loads(out.read_text())
    assert record["configuration"]["n"] == 10
    names = [method["name"] for method in record["figures"]["methods"]]
    assert names == ["astro-ddprism", "aperture", "photutils, Kron", "photutils, segment", "SEP"]
    ours = record["figures"]["methods"][0]
    expected = {"bias", "scatter", "outlier_fraction", "time_per_object_s", "coverage_95"}
    assert set(ours["isolated"]) >= expected
    assert ours["isolated"]["coverage_95"] is None  # two samples do not tell
    (cost,) = record["figures"]["one_object"]
    assert cost["n_samples"] == 16
    assert 0 < cost["network_s"] == pytest.approx(cost["time_s"] / cost["ratio"])
    assert len(list((tmp_path / "docs" / "_static").glob("injection_*.png"))) == 4
    # What the peers said is taken as it is.
    injection.main([*arguments[:-2], "--peers-in", str(peers)])
    again = json.loads(out.read_text())
    assert again["figures"]["methods"][1:] == record["figures"]["methods"][1:]
    assert any(line.startswith("astro-ddprism") for line in report(again["figures"]))
    assert fits.getdata(tile).shape == (420, 420)
