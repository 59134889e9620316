import numpy as np
import pytest
from scipy.spatial.distance import pdist


def test_galaxies_are_where_they_may_be(scene):
    catalog, settings = scene.catalog, scene.settings
    assert len(catalog) == settings.n
    assert scene.n_passes == 2
    ny, nx = scene.image.shape[1:]
    assert catalog["y"].min() >= settings.first_row
    assert catalog["y"].max() <= ny - 1 - settings.edge
    assert catalog["x"].min() >= settings.edge
    assert catalog["x"].max() <= nx - 1 - settings.edge
    for k in range(2):
        rows = scene.rows(k)
        xy = np.column_stack([catalog["x"][rows], catalog["y"][rows]])
        assert pdist(xy).min() >= settings.separation
        objects = np.column_stack([scene.objects["x"], scene.objects["y"]])
        distance = np.linalg.norm(xy[:, None] - objects, axis=-1).min(axis=1)
        assert (distance[catalog["near"][rows]] <= settings.near[1]).all()
    assert catalog["near"].sum() == settings.n / 2


def test_light_is_where_the_catalog_says(scene):
    """Of images and truth: flux and centroid; the photon noise is that of the gain."""
    catalog, settings = scene.catalog, scene.settings
    np.testing.assert_allclose(-2.5 * np.log10(catalog["flux"]), catalog["magnitude"])
    assert (catalog["flux_cutout"] >= settings.in_cutout * catalog["flux"]).all()
    assert (catalog["flux_cutout"] <= 1.001 * catalog["flux"]).all()
    pulls = []
    for k in range(2):
        added = scene.image_of(k).data[0] - scene.image.data[0]
        for i in scene.rows(k):
            x, y = (int(np.rint(catalog[axis][i])) for axis in "xy")
            here = added[y - 16 : y + 16, x - 16 : x + 16].astype(float)
            truth = scene.truth[i]
            bright = truth * scene.gain > 50
            pulls.append((here - truth)[bright] / np.sqrt(truth[bright] / scene.gain))
            core = truth[8:25, 8:25]
            place = [np.sum(core * axis) / core.sum() for axis in np.mgrid[-8:9, -8:9]]
            expected = [catalog["y"][i] - y, catalog["x"][i] - x]
            np.testing.assert_allclose(place, expected, atol=0.12)
    pulls = np.concatenate(pulls)
    assert pulls.std() == pytest.approx(1, abs=5 / np.sqrt(2 * len(pulls)))
    assert abs(pulls.mean()) < 5 / np.sqrt(len(pulls))


def test_view_is_cut_at_the_galaxies(scene):
    for k in range(2):
        view, rows = scene.view_of(k), scene.rows(k)
        assert view.sources == ("los", "galaxy")
        assert view.data.shape == (len(rows), 1, 32, 32)
        image = scene.image_of(k)
        for i, cutout in zip(rows, view.data[:, 0], strict=True):
            x, y = (int(np.rint(scene.catalog[axis][i])) for axis in "xy")
            expected = image.data[0, y - 16 : y + 16, x - 16 : x + 16]
            np.testing.assert_allclose(cutout, expected, rtol=1e-5)


def test_neighbours_are_what_the_image_held(scene):
    """With a hard-edged aperture and a plain threshold in place of the scene's own."""
    catalog = scene.catalog
    sigma = np.sqrt(np.median(scene.image.variance))
    yy, xx = np.mgrid[: scene.image.shape[1], : scene.image.shape[2]]
    rough = []
    for row in catalog:
        inside = np.hypot(xx - row["x"], yy - row["y"]) < scene.settings.aperture
        light = scene.image.data[0][inside]
        rough.append(light[light > 3 * sigma].sum() / row["flux_aperture"])
    rough, found = np.array(rough), np.asarray(catalog["neighbours"])
    strong = found > 0.3
    assert strong.any()
    np.testing.assert_allclose(rough[strong], found[strong], rtol=0.3)
    assert rough[found == 0].max() < 0.3


def test_fingerprint_tells_scenes_apart(scene):
    import copy

    other = copy.copy(scene)
    other.catalog = scene.catalog.copy()
    other.catalog["x"][0] += 1
    assert other.fingerprint() != scene.fingerprint()
