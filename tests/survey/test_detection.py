import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.nddata import CCDData, StdDevUncertainty

from astro_ddprism.survey import (
    detect_galaxies,
    detect_objects,
    read_image,
    select_galaxies,
    stack_bands,
)


def match(found, truth, radius=3):
    """Index of the brightest true object within some pixels of each found one; -1 without."""
    distance = np.hypot(
        np.asarray(found["x"])[:, None] - np.asarray(truth["x"]),
        np.asarray(found["y"])[:, None] - np.asarray(truth["y"]),
    )
    flux = np.where(distance < radius, truth["flux"].value, -1)
    return np.where(flux.max(axis=1) > 0, flux.argmax(axis=1), -1)


def test_bright_objects_are_found_where_they_are(objects, field):
    truth = field.catalog[:]
    inside = (truth["x"] > 5) & (truth["x"] < 634) & (truth["y"] > 5) & (truth["y"] < 634)
    bright = truth[inside & (truth["magnitude"] < 23 * u.mag) & (truth["magnitude"] > 19 * u.mag)]
    x, y = np.round(bright["x"]).astype(int), np.round(bright["y"]).astype(int)
    bright = bright[~field.image.mask[y, x]]
    nearest = np.hypot(
        np.asarray(bright["x"])[:, None] - objects["x"],
        np.asarray(bright["y"])[:, None] - objects["y"],
    ).min(axis=1)
    assert len(bright) > 30
    assert np.mean(nearest < 2) > 0.9  # the rest are blended


def test_positions_on_the_sky(objects, image):
    sky = image.wcs.pixel_to_world(objects["x"], objects["y"])
    assert isinstance(objects["sky_centroid"], SkyCoord)
    assert sky.separation(objects["sky_centroid"]).max() < 1e-6 * u.arcsec


def test_hardly_a_galaxy_is_noise(objects, field):
    galaxies = select_galaxies(objects)
    assert np.mean(match(galaxies, field.catalog) >= 0) > 0.98
    kept = select_galaxies(objects, min_snr=30)
    found = match(kept, field.catalog)
    # what is left of the stars is blended with something
    assert np.mean(field.catalog["kind"][found] == "galaxy") > 0.9


def test_counts_add_up(objects):
    galaxies = select_galaxies(objects, min_snr=8, max_flux=20 * u.uJy)
    counts = {key: value for key, value in galaxies.meta.items() if key.startswith("n_")}
    assert counts.pop("n_objects") == len(objects)
    assert sum(counts.values()) == len(objects) - len(galaxies)
    assert counts["n_star"] > 0
    assert counts["n_edge"] > 0
    assert counts["n_flux"] > 0


def test_saturated_objects_are_flagged(ccd):
    y, x = np.mgrid[:64, :64]
    for cx, cy, height in ((16, 20, 5000), (45, 40, 300)):
        ccd.data += height * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / 6)
    ccd.data = np.minimum(ccd.data, 1000)
    objects = detect_objects(read_image(ccd, saturation=1000))
    assert len(objects) == 2
    assert sorted(objects["saturated"]) == [False, True]
    (galaxy,) = select_galaxies(objects, reject_stars=False)
    assert galaxy["x"] == pytest.approx(45, abs=0.3)


def test_a_step_of_the_sky_is_no_galaxy(wcs):
    rng = np.random.default_rng(0)
    pixels = rng.normal(0, 1, (64, 64))
    pixels[:, 20:30] += 1.5
    y, x = np.mgrid[:64, :64]
    pixels += 30 * np.exp(-0.5 * ((x - 45) ** 2 + (y - 40) ** 2) / 6)
    image = read_image(
        CCDData(pixels, unit="nJy", wcs=wcs, uncertainty=StdDevUncertainty(np.ones((64, 64))))
    )
    galaxies = detect_galaxies(image, threshold=1.0)
    assert galaxies.meta["n_objects"] > 1
    assert len(galaxies) == 1
    assert galaxies["x"][0] == pytest.approx(45, abs=0.5)


def test_bands_are_detected_together(ccd):
    y, x = np.mgrid[:64, :64]
    source = 3.0 * np.exp(-0.5 * ((x - 30) ** 2 + (y - 35) ** 2) / 9)
    rng = np.random.default_rng(7)
    bands = []
    for name in "grizy":
        pixels = source + rng.normal(0, 2, (64, 64))
        bands.append(
            read_image(
                CCDData(
                    pixels,
                    unit="nJy",
                    wcs=ccd.wcs,
                    uncertainty=StdDevUncertainty(np.full((64, 64), 2.0)),
                ),
                name=name,
            )
        )
    objects = detect_objects(stack_bands(bands))
    best = objects[np.argmax(objects["snr"])]
    assert np.hypot(best["x"] - 30, best["y"] - 35) < 1.5
    assert best["flux"].unit == u.nJy


def test_masked_pixels_are_not_read(ccd):
    y, x = np.mgrid[:64, :64]
    ccd.data += 100 * np.exp(-0.5 * ((x - 30) ** 2 + (y - 35) ** 2) / 9)
    mask = np.zeros((64, 64), bool)
    mask[10:20, 50:60] = True
    ccd.mask = mask
    before = detect_objects(read_image(ccd))
    ccd.data[mask] = 1e7
    after = detect_objects(read_image(ccd))
    ccd.data[mask] = np.nan
    nan = detect_objects(read_image(ccd))
    for other in (after, nan):
        np.testing.assert_array_equal(before["flux"], other["flux"])
        np.testing.assert_array_equal(before["x"], other["x"])
