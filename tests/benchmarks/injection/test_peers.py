import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("galsim")
pytest.importorskip("sep")

from benchmarks.injection import peers as injection_peers
from benchmarks.injection.blends import deblended_segments, worst_blends
from benchmarks.injection.peers import (
    PeerResults,
    fit_by_scarlet2,
    measure_by_peers,
    measure_by_scarlet2,
    nearest,
    peaks_of,
    taken,
)
from benchmarks.injection.scene import Measurement

STAND_IN = """
import sys
import numpy as np

_, source, target = sys.argv[1:]
with np.load(source) as file:
    data, centres = file["data"], file["centres"]
yy, xx = np.mgrid[:64, :64]
near = [np.hypot(yy - c[0, 0], xx - c[0, 1]) < 6 for c in centres]
flux = np.array([d[n].sum() for d, n in zip(data, near)])
number = np.isfinite(centres[:, :, 0]).sum(1)
np.savez(target, flux=flux, model=np.where(near, data, 0), seconds=1.0 * number)
"""


@pytest.fixture(scope="module")
def measured(scene):
    return {one.name: one for one in measure_by_peers(scene)}


def test_isolated_galaxies_are_measured_right(measured, scene):
    """Within a few of their errors, after the light that each method is known to lose."""
    catalog = scene.catalog
    alone = (catalog["neighbours"] < 0.01) & (catalog["magnitude"] < 22)
    assert alone.sum() >= 3
    assert list(measured) == ["aperture", "photutils, Kron", "photutils, segment", "SEP"]
    for name, lost in (("aperture", 0.15), ("photutils, Kron", 0.07), ("SEP", 0.08)):
        ratio = measured[name].flux[alone] / catalog["flux"][alone]
        np.testing.assert_allclose(ratio, 1 - lost, atol=0.16)
    assert all(one.time_per_object > 0 for one in measured.values())


def test_aperture_holds_all_light_in_it(measured, scene):
    """Of the galaxy and of what the field had there."""
    for k in range(scene.n_passes):
        image = scene.image_of(k).data[0]
        yy, xx = np.mgrid[: image.shape[0], : image.shape[1]]
        for i in scene.rows(k):
            x, y = scene.catalog["x"][i], scene.catalog["y"][i]
            distance = np.hypot(xx - x, yy - y)
            part = np.clip(scene.settings.aperture + 0.5 - distance, 0, 1)
            rough = np.sum(part * image)
            assert measured["aperture"].flux[i] == pytest.approx(rough, rel=0.03)


def test_nearest():
    centroids = np.array([[0.0, 0.0], [np.nan, 1.0], [5.0, 0.0]])
    matched = nearest(centroids, np.array([[1.0, 0.0], [2.6, 0.0], [9.0, 0.0]]), 3.0)
    np.testing.assert_array_equal(matched, [0, 2, -1])
    np.testing.assert_array_equal(taken([1.0, 2.0, 3.0], matched), [1, 3, np.nan])


def test_results_are_kept(scene, measured, tmp_path):
    path = tmp_path / "peers.npz"
    results = PeerResults(images={"xy": np.eye(2)})
    results.add(*measured.values(), Measurement("some", [1.0, np.nan], 2.0, [True, False]))
    results.write(path, scene.fingerprint())
    again = PeerResults.read(path, scene.fingerprint())
    assert list(again.measurements) == list(results.measurements)
    for name, one in results.measurements.items():
        np.testing.assert_array_equal(again.measurements[name].flux, one.flux)
        np.testing.assert_array_equal(again.measurements[name].asked, one.asked)
        assert again.measurements[name].time_per_object == one.time_per_object
    np.testing.assert_array_equal(again.images["xy"], np.eye(2))
    other = scene.fingerprint()
    other["sums"] = other["sums"] | {"x": other["sums"]["x"] + 1}
    with pytest.raises(ValueError, match=r"found x = .*another scene"):
        PeerResults.read(path, other)
    with pytest.raises(ValueError, match="found n = 20, expected 21"):
        PeerResults.read(path, scene.fingerprint() | {"n": 21})


def test_cutouts_for_scarlet2(scene, monkeypatch):
    """What goes to the other interpreter and comes back; an aperture stands in for scarlet2."""
    run = subprocess.run

    def with_stand_in(command, **options):
        python, _, *files = command
        return run([python, "-c", STAND_IN, "script", *files], **options)

    monkeypatch.setattr(injection_peers.subprocess, "run", with_stand_in)
    image = scene.image_of(0)
    rows = scene.rows(0)[:3]
    xy = np.column_stack([scene.catalog["x"][rows], scene.catalog["y"][rows]])
    # At the first galaxy a peak that is the galaxy itself and one that is not; one further away.
    peaks = np.array([xy[0] + [1, 0], xy[0] + [0, 5], xy[1] + [40, 0]])
    flux, models, seconds = fit_by_scarlet2(sys.executable, image, scene.psf, xy, peaks)
    np.testing.assert_array_equal(seconds, [2, 1, 1])
    assert models.shape == (3, 64, 64)
    for i, (x, y) in enumerate(np.rint(xy).astype(int)):
        middle = models[i, 30:35, 30:35]
        np.testing.assert_allclose(middle, image.data[0, y - 2 : y + 3, x - 2 : x + 3], rtol=1e-5)
    np.testing.assert_allclose(models.sum(axis=(1, 2)), flux, rtol=1e-5)
    asked = np.zeros(len(scene.catalog), dtype=bool)
    asked[[rows[1], scene.rows(1)[0]]] = True
    measurement = measure_by_scarlet2(scene, sys.executable, asked)
    np.testing.assert_array_equal(np.isfinite(measurement.flux), asked)
    np.testing.assert_allclose(measurement.flux[rows[1]], flux[1])


def test_peaks_are_at_the_galaxies(scene):
    bright = scene.rows(0)[scene.catalog["magnitude"][scene.rows(0)] < 21.5]
    peaks = peaks_of(scene.image_of(0), scene.settings.first_row)
    for i in bright:
        x, y = scene.catalog["x"][i], scene.catalog["y"][i]
        assert np.hypot(*(peaks - [x, y]).T).min() < 2


def test_worst_blends(scene):
    xy, degree = worst_blends(scene, 3)
    assert len(xy) == 3
    assert (np.diff(degree) <= 0).all()
    assert (degree <= 2).all()
    assert degree[-1] > 0
    assert (xy[:, 1] >= scene.settings.first_row).all()
    segments = deblended_segments(scene, xy)
    for image, (x, y) in zip(segments, np.rint(xy).astype(int), strict=True):
        assert image[16, 16] == pytest.approx(scene.image.data[0, y, x])
        assert 5 <= np.count_nonzero(image) < 400
