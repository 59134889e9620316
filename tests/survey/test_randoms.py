import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable
from numpy.testing import assert_array_equal

from astro_ddprism.errors import InputError
from astro_ddprism.survey import place_randoms, read_image

# --- random positions ---------------------------------------------------------------------------


@pytest.fixture
def image(ccd):
    mask = np.zeros((64, 64), bool)
    mask[:, 40:] = True
    ccd.mask = mask
    return read_image(ccd)


def test_randoms_lie_where_cutouts_can_be(image):
    found = place_randoms(image, 300, size=8, max_masked_fraction=0.25, seed=1)
    assert len(found) == 300
    x, y = np.array(found["x"]), np.array(found["y"])
    assert len(set(zip(x, y, strict=True))) == 300
    assert x.min() == 4  # the cutout takes pixels x - 4 ... x + 3
    assert x.max() == 38  # columns 34 ... 41: two of eight masked
    assert y.min() == 4
    assert y.max() == 60
    sky = image.wcs.pixel_to_world(x, y)
    assert sky.separation(found["sky_centroid"]).max() < 1e-6 * u.arcsec
    again = place_randoms(image, 300, size=8, max_masked_fraction=0.25, seed=1)
    assert_array_equal(again["x"], x)
    other = place_randoms(image, 300, size=8, max_masked_fraction=0.25, seed=2)
    assert not np.array_equal(other["x"], x)


def test_randoms_are_uniform(image):
    found = place_randoms(image, 1500, max_masked_fraction=0)
    quarter = [np.sum((found["x"] < 20) == a) for a in (True, False)]
    assert abs(quarter[0] - 750) < 4 * np.sqrt(375)


def test_randoms_keep_a_distance(image):
    avoid = QTable({"x": [10.2, 30.0, -5.0, np.nan], "y": [10.0, 50.0, 3.0, 1.0]})
    for distance in (12, 12 * u.pix, 12 * 0.36 * u.arcsec):
        found = place_randoms(image, 200, avoid=avoid, min_distance=distance, max_masked_fraction=0)
        away = np.hypot(found["x"] - avoid["x"][:2, None], found["y"] - avoid["y"][:2, None])
        assert away.min() >= 11.5  # the position was rounded to a pixel
    outside = QTable({"x": [-50.0], "y": [3.0]})
    assert len(place_randoms(image, 5, avoid=outside, min_distance=9)) == 5


def test_no_room(image):
    with pytest.raises(InputError, match=r"found 0 pixels where a random cutout of 50 x 50"):
        place_randoms(image, 10, size=50, max_masked_fraction=0)
    with pytest.raises(InputError, match=r"expected at least 5000"):
        place_randoms(image, 5000)
    with pytest.raises(InputError, match="found 0 random positions"):
        place_randoms(image, 0)
    with pytest.raises(InputError, match="no positions to avoid"):
        place_randoms(image, 5, min_distance=3)
    with pytest.raises(InputError, match="expected pixels or an angle"):
        place_randoms(image, 5, avoid=QTable({"x": [1.0], "y": [1.0]}), min_distance=3 * u.m)


# --- beside detections ----------------------------------------

OBJECTS = QTable({"x": [10.2, 30.0, -5.0], "y": [10.0, 50.0, 3.0]})


def distance_from_objects(found):
    x, y = (np.round(np.array(OBJECTS[name][:2])) for name in "xy")
    return np.hypot(found["x"] - x[:, None], found["y"] - y[:, None]).min(axis=0)


@pytest.mark.parametrize(("fraction", "n_crowded"), [(0.25, 50), (1.0, 200), (0.001, 0)])
def test_some_randoms_lie_beside_objects(image, fraction, n_crowded):
    """The last of them, 2.5 to 10 pixels away; the others anywhere; no two at one pixel."""
    found = place_randoms(
        image, 200, avoid=OBJECTS, crowded_fraction=fraction, max_masked_fraction=0, seed=4
    )
    assert len(found) == 200
    assert len(set(zip(found["x"], found["y"], strict=True))) == 200
    assert found["id"].tolist() == [f"random-{i}" for i in range(200)]
    distance = distance_from_objects(found)
    beside = (distance >= 2.5) & (distance <= 10)
    assert beside[200 - n_crowded :].all()
    # 600 of the 64 x 40 pixels lie beside the two objects on the image.
    anywhere = 200 - n_crowded
    expected = anywhere * 600 / (64 * 40)
    assert abs(beside[:anywhere].sum() - expected) < 5 * np.sqrt(expected) + 0.1 * expected + 1e-9
    again = place_randoms(
        image, 200, avoid=OBJECTS, crowded_fraction=fraction, max_masked_fraction=0, seed=4
    )
    assert_array_equal(again["x"], found["x"])


def test_crowded_randoms_fill_all_directions(image):
    found = place_randoms(image, 280, avoid=OBJECTS[:1], crowded_fraction=1.0, seed=5)
    dx, dy = found["x"] - 10, found["y"] - 10
    for side in (dx > 0, dx < 0, dy > 0, dy < 0):
        assert 110 < side.sum() < 170  # a half, to 2.5 standard deviations


def test_randoms_without_crowds_are_what_they_were(image):
    """No other random numbers: pixels as numpy's generator chooses them."""
    found = place_randoms(image, 50, max_masked_fraction=0, avoid=OBJECTS, seed=6)
    pixels = np.flatnonzero(~image.mask[0])
    y, x = np.unravel_index(np.random.default_rng(6).choice(pixels, 50, replace=False), (64, 64))
    assert_array_equal(found["x"], x)
    assert_array_equal(found["y"], y)


def test_a_distance_may_be_kept_beside_objects(image):
    found = place_randoms(
        image, 60, avoid=OBJECTS, crowded_fraction=0.5, min_distance=6, max_masked_fraction=0
    )
    distance = distance_from_objects(found)
    assert distance.min() >= 6
    assert (distance[30:] <= 10).all()


def test_no_room_beside_objects(image):
    for fraction in (-0.1, 1.5, np.nan):
        with pytest.raises(
            InputError, match=f"crowded_fraction: found {fraction}, expected a part"
        ):
            place_randoms(image, 5, avoid=OBJECTS, crowded_fraction=fraction)
    with pytest.raises(InputError, match="crowded_fraction: found no positions to avoid"):
        place_randoms(image, 5, crowded_fraction=0.5)
    with pytest.raises(InputError, match=r"pixels beside detections .* expected at least 900"):
        place_randoms(image, 1000, avoid=OBJECTS, crowded_fraction=0.9)
    outside = QTable({"x": [-50.0], "y": [3.0]})
    with pytest.raises(InputError, match="found 0 pixels beside detections"):
        place_randoms(image, 10, avoid=outside, crowded_fraction=0.5)
