import numpy as np
import pytest
from astropy.wcs import WCS, DistortionLookupTable, Sip

from astro_ddprism.io.wcs import pack_wcs, unpack_wcs


def tile():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [129.12345678901234, -1.9876543210987654]
    wcs.wcs.cd = np.array([[-5 / 9, 1e-4 / 7], [1e-5 / 3, 5 / 9]]) * 1e-4
    wcs.wcs.crpix = [1000 / 3, 2000 / 7]
    wcs.wcs.radesys = "FK5"
    wcs.wcs.equinox = 1999.5
    wcs.wcs.mjdobs = 56789.123456789
    wcs.wcs.fix()  # as WCS(header) does
    return wcs


def sip(wcs, seed=0):
    rng = np.random.default_rng(seed)
    a, b, ap, bp = rng.normal(size=(4, 4, 4)) * 1e-7 / 3
    wcs.sip = Sip(a, b, ap, bp, wcs.wcs.crpix)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    return wcs


def cutouts(wcs, n):
    return [wcs[7 * i : 7 * i + 32, 11 * i : 11 * i + 48] for i in range(n)]


def assert_same(found, expected):
    assert len(found) == len(expected)
    x, y = np.meshgrid([-10.3, 0.0, 31.7], [-3.0, 12.5, 50.0])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.all_pix2world(x, y, 0), other.all_pix2world(x, y, 0))
        assert one.wcs.compare(other.wcs)
        assert one.pixel_shape == other.pixel_shape
        assert one.wcs.radesys == other.wcs.radesys


@pytest.mark.parametrize("make", [tile, lambda: sip(tile())])
def test_cutouts_of_a_tile_share_one_header(make):
    wcs = make()
    wcs.wcs.set()
    wcs.pixel_shape = (5000, 4000)
    expected = cutouts(wcs, 20)
    node = pack_wcs(expected)
    assert len(node["headers"]) == 1
    assert_same(unpack_wcs(node), expected)
    assert unpack_wcs(node)[3].pixel_shape == (48, 32)


def test_sip_is_kept_to_the_last_bit():
    expected = cutouts(sip(tile()), 3) + cutouts(sip(tile(), seed=1), 3)
    node = pack_wcs(expected)
    assert len(node["headers"]) == 2
    for one, other in zip(unpack_wcs(node), expected, strict=True):
        for name in ("a", "b", "ap", "bp", "crpix"):
            np.testing.assert_array_equal(getattr(one.sip, name), getattr(other.sip, name))
        sky = other.pixel_to_world(3, 4)
        np.testing.assert_array_equal(one.world_to_pixel(sky), other.world_to_pixel(sky))


def test_each_its_own_header():
    expected = []
    for i, ctype in enumerate(["TAN", "ZPN", "CAR", "TAN"]):
        wcs = tile()
        wcs.wcs.ctype = [f"RA---{ctype}", f"DEC--{ctype}"]
        wcs.wcs.crval = [1.1 * i, 0.0]
        if ctype == "ZPN":
            wcs.wcs.set_pv([(2, 1, 1.0), (2, 3, 42 / 3.1)])
        wcs.wcs.set()
        expected.append(wcs)
    galactic = tile()
    galactic.wcs.ctype = ["GLON-TAN", "GLAT-TAN"]
    galactic.wcs.set()
    expected.append(galactic)
    node = pack_wcs([*expected, expected[0]])
    assert len(node["headers"]) == 5
    assert_same(unpack_wcs(node), [*expected, expected[0]])


def test_alternative_wcs():
    header = tile().to_header(key="A")
    wcs = WCS(header, key="A")
    (again,) = unpack_wcs(pack_wcs([wcs]))
    np.testing.assert_array_equal(again.all_pix2world(3, 4, 0), wcs.all_pix2world(3, 4, 0))
    assert again.wcs.alt == " "


def test_results_are_independent():
    one, two = unpack_wcs(pack_wcs([tile(), tile()]))
    one.wcs.crval = [0, 0]
    assert two.wcs.crval[0] == tile().wcs.crval[0]


def test_what_no_header_says_is_kept_whole():
    wcs = tile()
    table = np.full((8, 8), 0.25, np.float32)
    wcs.cpdis1 = DistortionLookupTable(table, (0, 0), (0, 0), (100, 100))
    assert list(pack_wcs([tile(), wcs])) == ["whole"]
    bounded = tile()
    bounded.pixel_bounds = [(0, 10), (0, 20)]
    node = pack_wcs([bounded])
    assert unpack_wcs(node) == [bounded]
