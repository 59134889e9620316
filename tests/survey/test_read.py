import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import (
    CCDData,
    Cutout2D,
    NDData,
    NDDataRef,
    StdDevUncertainty,
)
from astropy.wcs import WCS, Sip
from numpy.testing import assert_allclose, assert_array_equal

from astro_ddprism.errors import InputError
from astro_ddprism.survey import read_image, stack_bands
from astro_ddprism.survey.read import read_bands

SHAPE = (64, 64)


def test_zero_weight_nan_and_dq_are_masked(write, pixels):
    pixels[1, 2] = np.nan
    pixels[3, 4] = np.inf
    ivar = np.ones(SHAPE, np.float32)
    ivar[5, 6] = 0
    ivar[7, 8] = np.nan
    dq = np.zeros(SHAPE, np.int16)
    dq[9, 10] = 4
    dq[11, 12] = 1
    path = write(IVAR=ivar, DQ=dq)
    image = read_image(path)
    bad = {(1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12)}
    assert set(zip(*np.nonzero(image.mask[0]), strict=True)) == bad
    assert np.isinf(image.variance[image.mask]).all()
    image = read_image(path, bad_bits=4)
    assert set(zip(*np.nonzero(image.mask[0]), strict=True)) == bad - {(11, 12)}


def test_weight_is_an_inverse_variance_but_for_a_factor(tmp_path, header):
    rng = np.random.default_rng(1)
    weight = np.ones((256, 256))
    weight[:, 128:] = 4
    image = rng.normal(size=weight.shape) * 3 / np.sqrt(weight)
    path = tmp_path / "w.fits"
    fits.HDUList(
        [fits.PrimaryHDU(image, header), fits.ImageHDU(1000 * weight, name="WHT")]
    ).writeto(path)
    variance = read_image(path).variance[0]
    assert_allclose(variance[:, :128], 9, rtol=0.03)  # 65,536 pixels: 0.6 %; MAD and clipping
    assert_allclose(variance[:, 128:], 9 / 4, rtol=0.03)


def test_estimated_noise_and_background(ccd):
    ccd = CCDData(ccd.data + 50, unit=ccd.unit, wcs=ccd.wcs)
    image = read_image(ccd, estimate_noise=True)
    assert_allclose(np.sqrt(image.variance), 2, rtol=0.05)
    assert abs(image.data.mean() - 50) < 0.1  # a mean of 4,096 pixels: 0.03
    image = read_image(ccd, estimate_noise=True, subtract_background=True)
    assert abs(image.data.mean()) < 0.3


def test_saturation_from_the_header_and_as_an_option(ccd):
    ccd.data[20:23, 20:23] = 1000
    ccd.data[20, 23] = 200  # a shoulder, connected and over 5 % of the level
    ccd.data[40, 40] = 200  # no shoulder of anything
    assert not read_image(ccd).saturated.any()
    by_option = read_image(ccd, saturation=900)
    ccd.header["SATURATE"] = 900
    by_header = read_image(ccd)
    for image in (by_option, by_header):
        assert image.saturated[0, 18:25, 18:25].sum() >= 9
        assert image.mask[0, 20:23, 20:24].all()
        assert not image.mask[0, 40, 40]
        assert image.saturated.sum() < 60


def test_cube_of_bands(write, pixels):
    cube = np.stack([pixels, 2 * pixels])
    err = np.ones_like(cube)
    image = read_image(write(image=cube, ERR=err, MASK=np.eye(64, dtype=np.int16)))
    assert image.shape == (2, *SHAPE)
    assert image.names == ("band0", "band1")
    assert_array_equal(image.mask[0], image.mask[1])  # one plane serves all bands
    assert read_image(write(image=cube[None, :1], ERR=err[0])).shape == (1, *SHAPE)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("ELECTRONS/S", u.electron / u.s),
        ("counts", u.count),
        ("nanomaggy", u.uJy),
        ("ADU", u.adu),
        ("", u.dimensionless_unscaled),
        ("erg/s/cm2/Angstrom", u.erg / u.s / u.cm**2 / u.AA),
    ],
)
def test_units_as_headers_spell_them(write, header, text, unit):
    header["BUNIT"] = text
    assert read_image(write(ERR=np.ones(SHAPE))).unit == unit


def test_tiny_units_keep_their_noise(ccd):
    ccd.data = (ccd.data * 1e-20).astype(np.float32)
    ccd.uncertainty = None
    image = read_image(ccd, estimate_noise=True)
    assert_allclose(np.sqrt(image.variance), 2e-20, rtol=0.05)


# --- what cannot be used ------------------------------------------------------------------------


def test_no_wcs(write, header):
    for key in ("CTYPE1", "CTYPE2"):
        del header[key]
    with pytest.raises(InputError, match=r"image.fits.*no celestial WCS.*expected"):
        read_image(write(ERR=np.ones(SHAPE)))


def test_no_noise(write):
    with pytest.raises(InputError, match=r"image.fits, HDU SCI: found no noise.*ERR.*estimate"):
        read_image(write())


def test_unknown_unit(write, header):
    header["BUNIT"] = "furlongs per fortnight"
    path = write(ERR=np.ones(SHAPE))
    with pytest.raises(InputError, match=r"HDU SCI: found the unit 'furlongs"):
        read_image(path)
    assert read_image(path, unit="nJy").unit == u.nJy
    header["BUNIT"] = "mag"
    with pytest.raises(InputError, match="magnitudes"):
        read_image(write(ERR=np.ones(SHAPE)))


def test_all_masked(ccd):
    ccd.mask = np.ones(SHAPE, bool)
    with pytest.raises(InputError, match="all pixels are masked"):
        read_image(ccd)
    ccd.mask = None
    with pytest.raises(InputError, match="all pixels are masked"):
        read_image(ccd, ivar=np.zeros(SHAPE))


def test_shape_mismatch(write):
    with pytest.raises(InputError, match=r"HDU ERR: found shape \(9, 9\).*\(64, 64\)"):
        read_image(write(ERR=np.ones((9, 9))))
    with pytest.raises(InputError, match=r"mask: found shape \(9, 9\)"):
        read_image(write(ERR=np.ones(SHAPE)), mask=np.ones((9, 9), bool))
    with pytest.raises(InputError, match="found shape"):
        read_image(write(image=np.ones((2, 2, 64, 64), np.float32), ERR=np.ones(SHAPE)))


def test_a_negative_variance_condemns_its_pixel(write, caplog):
    """And an image of whose noise a tenth and more is negative: it is none."""
    noise = np.ones(SHAPE)
    noise[0, 0] = -1
    for name in ("ERR", "VAR", "IVAR", "WHT"):
        image = read_image(write(**{name: noise}))
        assert np.argwhere(image.mask[0]).tolist() == [[0, 0]]
        assert f"HDU {name}: 1 negative values" in caplog.text
        with pytest.raises(InputError, match=f"HDU {name}: found 2048 negative"):
            read_image(write(**{name: np.where(np.arange(64) < 32, -1.0, 1.0) * np.ones(SHAPE)}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ivar": "IVAR", "weight": "WHT"}, "ivar and weight"),
        ({"ivar": "IVAR", "estimate_noise": True}, "ivar and estimate_noise"),
        ({"ivar": "absent.fits"}, "ivar: found no file absent.fits"),
        ({"ivar": np.ones(SHAPE) * u.nJy}, "found a Quantity"),
        ({"ivar": 17}, "found no extension 17"),
        ({"saturation": "often"}, "saturation: found 'often'"),
        ({"saturation": -1}, "saturation: found -1"),
        ({"bad_bits": 1, "mask": np.full(SHAPE, 0.5)}, "mask of integers"),
        ({"bad_bits": 1, "mask": np.zeros(SHAPE, bool)}, "mask of integers"),
        ({"bad_bits": 1}, "found bad_bits and no mask"),
    ],
)
def test_options_that_cannot_be_used(write, options, message):
    with pytest.raises(InputError, match=message):
        read_image(write(ERR=np.ones(SHAPE)), **options)


def test_image_without_scatter(ccd):
    ccd.data[:] = 1
    with pytest.raises(InputError, match="does not scatter"):
        read_image(ccd, estimate_noise=True)


def test_parts_of_images(ccd):
    """NDData wraps the WCS of the whole; Cutout2D moves it."""
    image = NDDataRef(ccd.data, uncertainty=StdDevUncertainty(np.ones(SHAPE)), wcs=ccd.wcs)[5:, 7:]
    expected = ccd.wcs.pixel_to_world(17, 25)
    for part in (image, Cutout2D(ccd.data, (35.0, 34.0), (59, 57), wcs=ccd.wcs)):
        found = read_bands(part, {"estimate_noise": True})
        assert found.wcs.pixel_to_world(10, 20).separation(expected).arcsec < 1e-6
        assert_array_equal(found.data[0], ccd.data[5:, 7:])


def test_sip_is_kept(ccd):
    a = np.zeros((3, 3))
    a[2, 0] = 1e-6
    wcs = ccd.wcs.deepcopy()
    wcs.wcs.ctype = "RA---TAN-SIP", "DEC--TAN-SIP"
    wcs.sip = Sip(a, a, None, None, wcs.wcs.crpix)
    image = read_image(NDData(ccd.data, uncertainty=StdDevUncertainty(np.ones(SHAPE)), wcs=wcs))
    assert isinstance(image.wcs, WCS)
    assert image.wcs.sip is not None


def test_effective_gain(write, header, tmp_path):
    """A number, a keyword, an extension, a file and arrays, in electrons per nJy."""
    header["GAIN"] = 4.0
    exposure = np.full(SHAPE, 4.0)
    exposure[0, 0] = 0
    path = write(header=header, ERR=np.ones(SHAPE), EXPOSURE=exposure)
    own = tmp_path / "own.fits"
    fits.PrimaryHDU(exposure).writeto(own)
    for gain in (4.0, 4, "GAIN", [4.0], 4e3 * u.electron / u.uJy):
        image = read_image(path, effective_gain=gain)
        assert image.effective_gain.shape == (1, *SHAPE)
        assert_allclose(image.effective_gain, 4)
        assert not image.mask.any()
    for gain in ("EXPOSURE", "exposure", own, str(own), exposure, exposure * u.electron / u.nJy):
        image = read_image(path, effective_gain=gain)
        assert_array_equal(image.effective_gain[0], exposure)
        assert_array_equal(image.mask[0], exposure == 0)
    assert read_image(path).effective_gain is None


@pytest.mark.parametrize(
    ("gain", "message"),
    [
        (-1.0, "effective_gain: found -1.0, expected a positive number"),
        (np.nan, "effective_gain: found nan"),
        ([1.0, 2.0], "found 2 numbers, expected one for each of 1 bands"),
        (2 * u.s, "found unit s, expected one like electron / nJy"),
        ("OFTEN", "effective_gain: found no keyword, no extension and no file OFTEN"),
        ("FILTER", "keyword FILTER: found 'r', expected a number"),
        (-np.ones(SHAPE), "effective_gain: found .* negative values"),
        (np.ones((3, 3)), r"effective_gain: found shape \(3, 3\)"),
    ],
)
def test_gains_that_cannot_be_used(write, gain, message):
    with pytest.raises(InputError, match=message):
        read_image(write(ERR=np.ones(SHAPE)), effective_gain=gain)


def test_gains_of_bands(ccd):
    """Flux in units a thousand times as large stands for a thousand times as many electrons."""
    r = read_image(ccd, name="r", effective_gain=2.0)
    i = CCDData(
        ccd.data / 1000, unit="uJy", wcs=ccd.wcs,
        uncertainty=StdDevUncertainty(ccd.uncertainty.array / 1000),
    )  # fmt: skip
    both = stack_bands([r, read_image(i, effective_gain=5e3), read_image(ccd)])
    assert_allclose(both.effective_gain[:, 0, 0], [2, 5, np.inf])


def test_zero_points(write, header):
    """A pixel value of 1 has the AB magnitude 23.9 where it is a microjansky."""
    del header["BUNIT"]
    header["MAGZERO"] = 23.9 + 2.5
    path = write(image=np.eye(64, dtype=np.float32), header=header, RMS=np.full(SHAPE, 2.0))
    for zero_point in (26.4, "26.4", "MAGZERO"):
        image = read_image(path, zero_point=zero_point)
        assert image.unit == u.uJy
        assert_allclose(image.data[0, 3, 3], 0.1, rtol=1e-3)
        assert_allclose(np.sqrt(image.variance[0, 3, 3]), 0.2, rtol=1e-3)
    # Two electrons for a pixel value of 1 are twenty for a microjansky.
    image = read_image(path, zero_point=26.4, effective_gain=2)
    assert_allclose(image.effective_gain, 20, rtol=1e-3)
    for wrong in ("MAGZPT", np.nan):
        with pytest.raises(InputError, match=r"image\.fits.*zero_point: found .*keyword"):
            read_image(path, zero_point=wrong)
    for unit in ("nJy", "nmgy"):
        with pytest.raises(InputError, match=f"found a zero point and the unit {unit}"):
            read_image(path, zero_point=26.4, unit=unit)


def test_files_are_known_by_their_names(write, ccd):
    path = write(RMS=np.full(SHAPE, 2.0))
    one = read_image(path)
    assert one.files == ("image.fits",)
    assert stack_bands([one, one]).files == ("image.fits",)
    assert read_image(ccd).files == ()
    ccd.meta["FILENAME"] = "folder/tile.fits"
    assert read_image(ccd).files == ("tile.fits",)
