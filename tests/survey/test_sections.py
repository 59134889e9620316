"""Large images in sections: what is found and cut out is that of the whole."""

import numpy as np
import pytest
from astropy import units as u

from astro_ddprism import MultiViewDataset
from astro_ddprism.simulate.population import simulate_field
from astro_ddprism.survey import mosaic, sections
from astro_ddprism.survey.detection import detect_objects
from astro_ddprism.survey.mosaic import open_image
from astro_ddprism.survey.read import read_image
from astro_ddprism.survey.sections import SectionedImage, find_in_sections

DETECTION = {"min_snr": 8, "reject_stars": False, "min_contrast": 0}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("field") / "tile.fits"
    simulate_field((384, 320), seed=5, star_density=1 / u.arcmin**2).image.write(path)
    return path


@pytest.fixture
def sectioned(path, monkeypatch):
    """Six sections of 128 pixels."""
    monkeypatch.setattr(sections, "SIDE", 128)
    monkeypatch.setattr(sections, "MARGIN", 64)
    monkeypatch.setattr(mosaic, "LARGE", 10_000)
    monkeypatch.setattr(mosaic, "WINDOW", 128)
    return SectionedImage(open_image([(path, {})]))


def test_sections_are_the_image(sectioned, path):
    whole, seen = read_image(path), np.zeros(sectioned.shape[1:], dtype=int)
    for rows, columns in sectioned.sections():
        seen[rows, columns] += 1
        planes = sectioned.planes(rows, columns)
        np.testing.assert_array_equal(planes["data"], whole.data[:, rows, columns])
        section, (x, y) = sectioned.section(rows, columns)
        ny, nx = section.shape[1:]
        np.testing.assert_array_equal(section.mask, whole.mask[:, y : y + ny, x : x + nx])
    assert (seen == 1).all()
    wide = sectioned.planes(slice(0, 384), slice(10, 300))  # more than a section and its margin
    np.testing.assert_array_equal(wide["data"], whole.data[:, :, 10:300])


def test_objects_are_those_of_the_whole_image_each_once(sectioned, path):
    galaxies, found = find_in_sections(sectioned, detection=DETECTION)
    expected = detect_objects(read_image(path))
    places = [np.column_stack([t["x"], t["y"]]) for t in (found, expected)]
    bright = np.asarray(expected["snr"]) > 10
    apart = np.linalg.norm(places[0][:, None] - places[1][bright], axis=2)
    assert np.mean(apart.min(axis=0) < 0.5) > 0.97
    own = np.linalg.norm(places[0][:, None] - places[0], axis=2) + 9 * np.eye(len(found))
    assert own.min() > sections.NEAR
    assert len(set(found["id"])) == len(found)
    sky = sectioned.wcs.world_to_pixel(galaxies["sky_centroid"])
    np.testing.assert_allclose(sky, [galaxies["x"], galaxies["y"]], atol=1e-6)
    assert set(expected.colnames) == set(found.colnames)


def test_cutouts_of_sections_are_those_of_the_whole(sectioned, path):
    galaxies, _ = find_in_sections(sectioned, detection=DETECTION)
    options = {"size": 16, "n_random": 0, "psf_fwhm": 0.85, "detection": DETECTION}
    view = MultiViewDataset.from_image(path, **options)["galaxy"]
    whole = MultiViewDataset.from_image(read_image(path), positions=galaxies, **options)["galaxy"]
    assert view.ids.tolist() == whole.ids.tolist()
    np.testing.assert_array_equal(view.data, whole.data)
    np.testing.assert_array_equal(view.variance, whole.variance)
    np.testing.assert_array_equal(view.mask, whole.mask)
