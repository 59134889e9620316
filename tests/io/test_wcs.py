import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import NDDataRef
from astropy.wcs import WCS, DistortionLookupTable, Sip
from numpy.testing import assert_allclose

from astro_ddprism.errors import InputError
from astro_ddprism.io.wcs import celestial_wcs, pack_wcs, unpack_wcs
from astro_ddprism.survey.cutouts import shifted


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


def distorted(kind):
    """A WCS of 96 x 96 pixels with distortions of some pixels, and its header."""
    header = fits.Header({
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0,
        "CRPIX1": 48.5, "CRPIX2": 48.5, "CD1_1": -1e-4, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 1e-4,
        "CUNIT1": "deg", "CUNIT2": "deg",
    })  # fmt: skip
    if kind == "SIP":
        header.update({"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2,
                       "B_ORDER": 2, "A_2_0": 2e-4, "B_0_2": -1e-4})  # fmt: skip
    elif kind == "TPV":
        header.update({"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "PV1_1": 1.0, "PV2_1": 1.0,
                       "PV1_4": 5.0, "PV2_4": -3.0})  # fmt: skip
    wcs = WCS(header)
    if kind == "CPDIS":
        y, x = np.mgrid[:9, :9].astype("f4") - 4
        where = (5, 5), (48.5, 48.5), (12, 12)
        wcs.cpdis1 = DistortionLookupTable(0.05 * x**2, *where)
        wcs.cpdis2 = DistortionLookupTable(0.04 * x * y, *where)
    return wcs, header


@pytest.mark.parametrize("kind", ["SIP", "TPV", "CPDIS"])
def test_cutouts_of_distorted_images_keep_the_sky(kind):
    """Every pixel of a cutout is where astropy has that pixel of the whole, also after storing."""
    wcs, _ = distorted(kind)
    plain = WCS(naxis=2)
    plain.wcs.ctype, plain.wcs.crval, plain.wcs.crpix = (
        ["RA---TAN", "DEC--TAN"],
        (150, 2),
        (48.5, 48.5),
    )
    plain.wcs.cd = np.diag([-1e-4, 1e-4])
    y, x = np.mgrid[:10, :10]
    there = wcs.pixel_to_world(x + 70, y + 20)
    off = np.hypot(*(np.array(plain.world_to_pixel(there)) - [x + 70, y + 20]))
    assert off.max() > 0.05
    one = shifted(celestial_wcs(wcs, "image"), 70, 20, (10, 10))
    (back,) = unpack_wcs(pack_wcs([one]))
    for found in (one, back):
        error = found.pixel_to_world(x, y).separation(there).max()
        assert error.deg / 1e-4 < (0.05 if kind == "CPDIS" else 1e-6)
        assert_allclose(found.world_to_pixel(found.pixel_to_world(3, 4)), [3, 4], atol=1e-3)


def test_left_over_sip_is_dropped_with_a_word(caplog):
    _, header = distorted("SIP")
    header.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"})
    wcs = celestial_wcs(WCS(header), "image.fits")
    _, plain = distorted("none")
    assert_allclose(wcs.all_pix2world([[5, 80]], 0), WCS(plain).all_pix2world([[5, 80]], 0))
    assert "image.fits: found SIP coefficients, which the axes RA---TAN" in caplog.text


@pytest.mark.parametrize("kind", ["none", "SIP"])
def test_parts_of_images(kind):
    wcs, header = distorted(kind)
    part = NDDataRef(np.zeros((96, 96)), wcs=wcs)[20:90, 30:80][5:, 1:]
    found = celestial_wcs(part.wcs, "image")
    assert_allclose(found.all_pix2world([[3, 4]], 0), wcs.all_pix2world([[34, 29]], 0), rtol=1e-12)
    if kind == "none":
        header.update({"CTYPE3": "FREQ", "CRVAL3": 1e9, "CD3_3": 1e6, "CRPIX3": 1})
        cube = NDDataRef(np.zeros((4, 96, 96)), wcs=WCS(header, naxis=3))
        for some in (cube[2, 25:, 31:], cube[1:3, 25:, 31:]):
            found = celestial_wcs(some.wcs, "image")
            assert_allclose(found.all_pix2world([[3, 4]], 0), wcs.all_pix2world([[34, 29]], 0))


def test_what_is_no_celestial_wcs():
    wcs, _ = distorted("CPDIS")
    with pytest.raises(InputError, match="image: found a part of an image with distortion tables"):
        celestial_wcs(NDDataRef(np.zeros((96, 96)), wcs=wcs)[5:, 5:].wcs, "image")
    with pytest.raises(InputError, match="image: found a WCS of type str"):
        celestial_wcs("wcs", "image")
    with pytest.raises(InputError, match="image: found no celestial WCS"):
        celestial_wcs(None, "image")
