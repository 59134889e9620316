import copy
import pickle

import numpy as np
import pytest
from astropy import units as u

from astro_ddprism import InputError, View
from astro_ddprism.mixing import DenseMatrix, Identity
from astro_ddprism.posterior.grid import SourceGrid, SourceImages


def test_sources_in_a_frame_of_their_own(pairs):
    view, _ = pairs()
    grid = SourceGrid(view)
    assert grid.shape == (16, 16)
    assert grid.wcs is view.source_wcs
    assert grid.holds("galaxy")
    # Coordinates lie in the middle of frames, to the rounding of degrees.
    np.testing.assert_allclose(grid.positions, 7.5, atol=1e-6)


def test_resampled_sources_are_not_on_the_pixels_of_the_image(pairs):
    """Even where there are as many of them."""
    image = pairs()[0].images["fine"][[1, 2]]
    view = View(image.data, variance=1.0, mixing=image.mixing, wcs=image.wcs, unit="nJy")
    assert view.data.shape[-2:] == view.source_shapes["galaxy"][-2:]
    assert not SourceGrid(view).holds("galaxy")
    assert SourceGrid(image).holds("galaxy")
    assert SourceGrid(image).wcs is image.source_wcs


@pytest.mark.parametrize("n", [12, 13])
def test_matrices_are_believed(n):
    matrix = DenseMatrix(np.ones((12, n)), (n,) if n != 12 else (3, 4), (3, 4))
    view = View(np.ones((2, 3, 4)), variance=1.0, mixing={"a": matrix}, unit=u.nJy)
    assert SourceGrid(view).holds("a") == (n == 12)


N = 5


@pytest.fixture
def images(wcs):
    corners = [(3 * i, 2 * i) for i in range(N)]
    cutouts = [wcs[y : y + 12, x : x + 12] for x, y in corners]
    values = np.random.default_rng(0).normal(size=(3, N, 2, 12, 12))
    return SourceImages(values, u.nJy, cutouts, 1)


def place(wcs):
    """Where the first pixel is."""
    return wcs.pixel_to_world(0, 0)


@pytest.mark.parametrize(
    ("key", "rows", "first"),
    [
        (slice(None), [0, 1, 2, 3, 4], (0, 0)),
        ((slice(None), slice(1, 3)), [1, 2], (0, 0)),
        ((0, slice(None, None, -2)), [4, 2, 0], (0, 0)),
        ((slice(None), [4, 4, 1]), [4, 4, 1], (0, 0)),
        ((slice(None), np.array([True, False, False, True, False])), [0, 3], (0, 0)),
        (([2, 0],), [0, 1, 2, 3, 4], (0, 0)),
        ((slice(None), slice(None), 1), [0, 1, 2, 3, 4], (0, 0)),
        ((None, 1), [0, 1, 2, 3, 4], (0, 0)),
        ((..., slice(2, 9), slice(-4, None)), [0, 1, 2, 3, 4], (8, 2)),
        ((0, 3), 3, (0, 0)),
        ((0, np.int64(3), 1), 3, (0, 0)),
        ((slice(None), 2, ..., slice(5, 8)), 2, (5, 0)),
        # no image, or none that a WCS describes
        ((0, 3, 1, 5), None, None),
        ((..., slice(None, None, 2)), None, None),
        ((..., slice(None, None, -1)), None, None),
        ((0, [1, 2]), None, None),
        ((..., None), None, None),
        (([0, 1], [1, 2]), None, None),
        (np.zeros((3, N), dtype=bool), None, None),
        (True, None, None),
    ],
)
def test_parts_know_where_they_are(images, key, rows, first):
    part = images[key]
    np.testing.assert_array_equal(part.value, images.value[key])
    if rows is None:
        assert part.wcs is None
        return
    several = isinstance(rows, list)
    found, expected = (part.wcs, rows) if several else ([part.wcs], [rows])
    assert len(found) == len(expected)
    for one, row in zip(found, expected, strict=True):
        sky = images.wcs[row].pixel_to_world(*first)
        assert one.pixel_to_world(0, 0).separation(sky) < 1e-9 * u.deg
    if several:  # and parts of parts
        assert len(part[..., 3:, 3:].wcs) == len(rows)


def test_copies_and_units_know_where_they_are(images):
    for again in (
        images.copy(), copy.copy(images), copy.deepcopy(images), images.to(u.mJy),
        images.to(u.nmgy), pickle.loads(pickle.dumps(images)),
    ):  # fmt: skip
        assert [place(one).separation(place(w)).arcsec < 1e-9
                for one, w in zip(again.wcs, images.wcs, strict=True)] == [True] * N  # fmt: skip
        assert len(again[:, 1:3].wcs) == 2
    one = pickle.loads(pickle.dumps(images[0, 2]))
    assert one.wcs.wcs.compare(images.wcs[2].wcs)
    assert images.mean(axis=0).wcs is None
    assert images.sum().isscalar


@pytest.mark.parametrize("aperture", [1e9, 0.0, -1.0, np.nan, 30 * u.pix])
def test_apertures_that_cannot_be(aperture):
    view = View(np.ones((1, 1, 20, 20)), variance=1.0, mixing={"a": Identity((1, 20, 20))})
    with pytest.raises(
        InputError, match=r"aperture: found a radius of .* up to 28.28, the diagonal"
    ):
        SourceGrid(view).aperture_radius(aperture)
