import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import CCDData, StdDevUncertainty
from numpy.testing import assert_allclose, assert_array_equal

from astro_ddprism.errors import InputError
from astro_ddprism.survey import read_image, read_positions
from astro_ddprism.survey.cutouts import cut_stamps
from astro_ddprism.survey.images import pixel_angle
from astro_ddprism.survey.stamps import stack_stamps


def square(wcs, value, n=8, unit="nJy"):
    sigma = StdDevUncertainty(np.full((n, n), 0.5))
    return read_image(CCDData(np.full((n, n), value), unit=unit, wcs=wcs, uncertainty=sigma))


def test_missing_images_are_masked(wcs):
    last = square(wcs, 2.0, unit="uJy")
    last.saturated[0, 3, 4] = True
    stamps = stack_stamps([square(wcs, 1.0), None, last])
    assert_array_equal(np.argwhere(stamps.saturated), [[2, 0, 3, 4]])
    assert stamps.shape == (1, 8, 8)
    assert_array_equal(stamps.mask.all(axis=(1, 2, 3)), [False, True, False])
    assert stamps.unit == u.nJy
    assert_allclose(stamps.data[2], 2000)
    assert_allclose(stamps.variance[2], 0.25e6)
    assert stamps.wcs[1] is None
    some = stamps[np.array([2, 1])]
    assert_array_equal(some.data, stamps.data[[2, 1]])
    assert some.wcs[1] is None


def test_missing_wcs_are_centred_on_their_positions(wcs):
    stamps = stack_stamps([None, square(wcs, 1.0)])
    places = wcs.pixel_to_world([500.0, 3.5], [20.0, 3.5])
    here, there = stamps.complete_wcs(places)
    assert there is stamps.wcs[1]
    assert_allclose(here.world_to_pixel(places[0]), (3.5, 3.5), atol=1e-6)
    assert_allclose(here.proj_plane_pixel_area(), wcs.proj_plane_pixel_area(), rtol=1e-6)


def test_images_that_do_not_belong_together(wcs):
    with pytest.raises(InputError, match="found no image for any of 2 observations"):
        stack_stamps([None, None])
    message = r"found shape \(1, 9, 9\) in nJy, expected \(1, 8, 8\) in nJy as in"
    with pytest.raises(InputError, match=message):
        stack_stamps([square(wcs, 1.0), square(wcs, 1.0, n=9)])
    with pytest.raises(InputError, match=r"in adu, expected .* in nJy"):
        stack_stamps([square(wcs, 1.0), square(wcs, 1.0, unit="adu")])


def test_cutouts_of_positions_that_an_image_may_not_show(ccd, wcs):
    image = read_image(ccd)
    image.mask[0, 40:, 40:] = True
    image.saturated[0, 28, 19] = True
    places = read_positions(wcs.pixel_to_world([20, 500, 50, 1], [30, 30, 50, 30]), wcs)
    stamps = cut_stamps(image, places, size=8)
    # On the image; off it; on its masked part; half off its edge.
    assert [one is not None for one in stamps.wcs] == [True, False, False, False]
    assert stamps.mask[1:].all()
    assert_array_equal(stamps.data[0, 0], image.data[0, 26:34, 16:24])
    assert_array_equal(np.argwhere(stamps.saturated), [[0, 0, 2, 3]])
    assert "3 of " in stamps.labels[3]
    half = cut_stamps(image, places, size=8, max_masked_fraction=0.5)
    assert half.wcs[3].world_to_pixel(places["sky_centroid"][3])[0] == pytest.approx(4, abs=1e-6)
    assert_allclose(pixel_angle(image).to_value(u.deg), 1e-4, rtol=1e-5)
