import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import Cutout2D, NDData, StdDevUncertainty
from astropy.table import QTable
from astropy.wcs import Sip
from numpy.testing import assert_allclose, assert_array_equal

from astro_ddprism.errors import InputError
from astro_ddprism.survey import cut_out, read_image
from astro_ddprism.survey.cutouts import masked_fraction_map
from astro_ddprism.views.build import views_from_image


@pytest.fixture
def image(ccd):
    return read_image(ccd)


def at(image, x, y, ids=None):
    x, y = np.array(x, float), np.array(y, float)
    return QTable(
        {
            "id": np.arange(len(x)).astype(str) if ids is None else ids,
            "x": x,
            "y": y,
            "sky_centroid": image.wcs.pixel_to_world(x, y),
        }
    )


@pytest.mark.parametrize("size", [8, 9])
def test_pixels_and_sky_agree_with_the_image(image, size):
    positions = at(image, [20.4, 31.6, 12], [30, 25.3, 40.49])
    cutouts = cut_out(image, positions, size=size)
    assert cutouts.data.shape == (3, 1, size, size)
    for i, (x, y) in enumerate([(20, 30), (32, 25), (12, 40)]):
        assert cutouts.data[i, 0, size // 2, size // 2] == image.data[0, y, x]
        corner = cutouts.wcs[i].pixel_to_world(0, size - 1)
        there = image.wcs.pixel_to_world(x - size // 2, y - size // 2 + size - 1)
        assert corner.separation(there) < 1e-6 * u.arcsec
    reference = Cutout2D(image.data[0], (20, 30), 9, wcs=image.wcs)  # odd: both centred alike
    if size == 9:
        assert_array_equal(cutouts.data[0, 0], reference.data)
        assert_allclose(cutouts.wcs[0].wcs.crpix, reference.wcs.wcs.crpix)
    assert_array_equal(cutouts.ids, ["0", "1", "2"])
    assert cutouts.coordinates.separation(positions["sky_centroid"]).max() < 1e-9 * u.arcsec


def test_sip_moves_along(ccd):
    a = np.zeros((3, 3))
    a[2, 0], a[0, 2] = 2e-3, -1e-3
    wcs = ccd.wcs.deepcopy()
    wcs.wcs.ctype = "RA---TAN-SIP", "DEC--TAN-SIP"
    wcs.sip = Sip(a, a, None, None, wcs.wcs.crpix)
    image = read_image(NDData(ccd.data, uncertainty=StdDevUncertainty(np.ones((64, 64))), wcs=wcs))
    cutouts = cut_out(image, at(image, [20, 50], [30, 12]), size=16)
    for wcs, x0, y0 in zip(cutouts.wcs, (12, 42), (22, 4), strict=True):
        here, there = wcs.pixel_to_world(3, 5), image.wcs.pixel_to_world(x0 + 3, y0 + 5)
        assert here.separation(there) < 1e-6 * u.arcsec


def test_a_mask_that_leaves_no_cutout_is_named(ccd):
    """With its bits: those that are no defects may be the reason."""
    mask = np.zeros((64, 64), dtype=np.int32)
    mask[:, ::2] = 4
    image = read_image(ccd, mask=mask)
    told = r"1 have over 20% .*; mask: .*bad \(set: 4 50.00%\); masked: 50.00% of the pixels: mask"
    with pytest.raises(InputError, match=told):
        cut_out(image, at(image, [31], [21]), size=8)


def test_pixels_off_the_image_are_masked(image):
    cutouts = cut_out(image, at(image, [2, 62], [30, 63]), size=8, max_masked_fraction=0.6)
    assert cutouts.mask[0, 0, :, :2].all()
    assert not cutouts.mask[0, 0, :, 2:].any()
    assert_array_equal(cutouts.data[0, 0, :, 2:], image.data[0, 26:34, :6])
    assert np.isinf(cutouts.variance[0, 0, :, :2]).all()
    assert cutouts.mask[1, 0, 5:].all()
    here, there = cutouts.wcs[0].pixel_to_world(4, 4), image.wcs.pixel_to_world(2, 30)
    assert here.separation(there) < 1e-6 * u.arcsec


def test_saturated_pixels_stay_known(ccd):
    ccd.data[20:23, 30:33] = 1000
    image = read_image(ccd, saturation=900)
    cutouts = cut_out(image, at(image, [31, 10], [21, 50]), size=8, max_masked_fraction=0.9)
    assert_array_equal(cutouts.saturated[0], image.saturated[:, 17:25, 27:35])
    assert cutouts.saturated[0, 0, 3:6, 3:6].all()
    assert not cutouts.saturated[1].any()
    views = views_from_image(image, size=8, positions=image.wcs.pixel_to_world([31], [21]),
                             n_random=0, max_masked_fraction=0.9)  # fmt: skip
    assert_array_equal(views["galaxy"].saturated, cutouts.saturated[:1])


def test_rejected_positions_are_told(image, caplog):
    caplog.set_level("WARNING", logger="astro_ddprism")
    positions = at(image, [30, -3, 500, 1, np.nan], [30, 30, 30, 1, 3], ids=list("abcde"))
    cutouts = cut_out(image, positions, size=16, max_masked_fraction=0.2)
    assert cutouts.ids.tolist() == ["a"]
    assert cutouts.rejected["id"].tolist() == ["b", "c", "d", "e"]
    assert cutouts.rejected["reason"].tolist() == [
        "off the image", "off the image", "masked", "no position",
    ]  # fmt: skip
    assert "4 of 5 positions rejected: 3 off the image, 1 masked: b, c, d, e" in caplog.text


def test_no_position_on_the_image(image):
    with pytest.raises(InputError, match=r"none of the 2 positions.*2 are off.*64 x 64 pixels"):
        cut_out(image, at(image, [-9, 99], [3, 3]), size=8)


@pytest.mark.parametrize("size", [0, -1, 65, 2.5])
def test_sizes_that_do_not_fit(image, size):
    with pytest.raises(InputError, match=r"size: found .* from 1 to 64"):
        cut_out(image, at(image, [30], [30]), size=size)


def test_masked_fraction_by_brute_force():
    mask = np.random.default_rng(0).random((2, 20, 23)) < 0.3
    for size in (5, 6):
        fraction = masked_fraction_map(mask, size)
        for y in range(20):
            for x in range(23):
                y0, x0 = y - size // 2, x - size // 2
                if y0 < 0 or x0 < 0 or y0 + size > 20 or x0 + size > 23:
                    assert np.isnan(fraction[y, x])
                else:
                    expected = mask[:, y0 : y0 + size, x0 : x0 + size].mean()
                    assert_allclose(fraction[y, x], expected)
    assert np.isnan(masked_fraction_map(mask, 21)).all()
