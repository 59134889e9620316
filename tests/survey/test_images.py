import numpy as np
import pytest
from astropy.nddata import (
    CCDData,
    NDData,
    StdDevUncertainty,
)
from numpy.testing import assert_allclose

from astro_ddprism.errors import InputError
from astro_ddprism.survey import read_image, stack_bands

SHAPE = (64, 64)


<<<<<<< HEAD
@pytest.fixture
def pixels():
    return np.random.default_rng(0).normal(0, 2, SHAPE).astype(np.float32)


@pytest.fixture
def header(wcs):
    header = wcs.to_header()
    header["BUNIT"] = "nJy"
    header["FILTER"] = "r"
    return header


@pytest.fixture
def write(tmp_path, pixels, header):
    """A FITS file with an image and further extensions; returns its path."""

    def write(name="image.fits", image=pixels, header=header, **extensions):
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, header, name="SCI")]
        hdus += [fits.ImageHDU(plane, name=key) for key, plane in extensions.items()]
        path = tmp_path / name
        fits.HDUList(hdus).writeto(path, overwrite=True)
        return path

    return write


@pytest.mark.parametrize(
    ("name", "value"),
    [("ERR", 3.0), ("SIGMA", 3.0), ("VAR", 9.0), ("VARIANCE", 9.0), ("IVAR", 1 / 9), ("rms", 3.0)],
)
def test_noise_extensions_are_found_by_name(write, pixels, name, value):
    image = read_image(write(**{name: np.full(SHAPE, value, np.float32)}))
    assert image.shape == (1, *SHAPE)
    assert image.unit == u.nJy
    assert image.names == ("r",)
    assert_allclose(image.variance, 9, rtol=1e-6)
    assert_array_equal(image.data[0], pixels)
    assert not image.mask.any()


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


def test_options_name_extensions_and_files(write, tmp_path):
    err = np.full(SHAPE, 3.0)
    path = write(
        MYNOISE=err, OTHER=err**2, JUNK=(np.arange(SHAPE[0] * SHAPE[1]) == 0).reshape(SHAPE) * 1
    )
    for options in (
        {"uncertainty": "MYNOISE"},
        {"uncertainty": 2},
        {"variance": "other"},
        {"ivar": 1 / err**2},
    ):
        assert_allclose(read_image(path, **options).variance, 9)
    image = read_image(path, uncertainty="MYNOISE", mask="JUNK")
    assert image.mask.sum() == 1
    own = tmp_path / "own.fits"
    fits.PrimaryHDU(1 / err**2).writeto(own)
    assert_allclose(read_image(path, ivar=own).variance, 9)
    assert_allclose(read_image(path, ivar=str(own)).variance, 9)


def test_ccddata_files_and_their_uncertainty_types(tmp_path, pixels, wcs):
    for kind, value in ((StdDevUncertainty, 3), (VarianceUncertainty, 9), (InverseVariance, 1 / 9)):
        ccd = CCDData(pixels, unit="nJy", wcs=wcs, uncertainty=kind(np.full(SHAPE, value, float)))
        ccd.mask = pixels > 5
        path = tmp_path / f"{kind.__name__}.fits"
        ccd.write(path)
        for source in (ccd, path):
            image = read_image(source)
            assert_allclose(image.variance[~image.mask], 9)
            assert_array_equal(image.mask[0], pixels > 5)
            assert image.unit == u.nJy


def test_uncertainty_in_another_unit(ccd):
    ccd.uncertainty = StdDevUncertainty(np.full(SHAPE, 0.002), unit=u.uJy)
    assert_allclose(read_image(ccd).variance, 4)
    ccd = NDData(ccd.data, unit=u.nJy, wcs=ccd.wcs)
    ccd.uncertainty = InverseVariance(np.full(SHAPE, 0.25e6), unit=u.uJy**-2)
    assert_allclose(read_image(ccd).variance, 4)
    image = read_image(ccd, effective_gain=3630.780548 * u.electron / u.nmgy)
    assert_allclose(image.effective_gain, 1, rtol=1e-6)


def test_estimated_noise_and_background(ccd):
    ccd = CCDData(ccd.data + 50, unit=ccd.unit, wcs=ccd.wcs)
    image = read_image(ccd, estimate_noise=True)
    assert_allclose(np.sqrt(image.variance), 2, rtol=0.05)
    assert abs(image.data.mean() - 50) < 0.1  # a mean of 4,096 pixels: 0.03
    image = read_image(ccd, estimate_noise=True, subtract_background=True)
    assert abs(image.data.mean()) < 0.3


def test_compressed_image(tmp_path, pixels, header):
    path = tmp_path / "image.fits.fz"
    fits.HDUList(
        [
            fits.PrimaryHDU(),
            fits.CompImageHDU(pixels, header, name="SCI", quantize_level=16),
            fits.CompImageHDU(np.ones(SHAPE, np.float32), name="ERR"),
        ]
    ).writeto(path)
    image = read_image(path)
    assert_allclose(image.data[0], pixels, atol=0.2)
    assert_allclose(image.variance, 1)


def test_gzipped_and_headers_in_the_first_extension(tmp_path, pixels, header):
    path = tmp_path / "image.fits.gz"
    del header["FILTER"]
    primary = fits.PrimaryHDU()
    primary.header["FILTER"], primary.header["SATURATE"] = "z", 7.0
    hdus = [fits.ImageHDU(pixels, header, name="SCI"), fits.ImageHDU(np.ones(SHAPE), name="ERR")]
    fits.HDUList([primary, *hdus]).writeto(path)
    image = read_image(path)
    assert image.names == ("z",)
    assert_array_equal(image.saturated[0] & (pixels >= 7), pixels >= 7)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"image\.fits\.gz"):
        read_image(path)


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
        ("nanomaggy", u.nmgy),
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


def test_no_wcs_in_nddata(ccd):
    with pytest.raises(InputError, match="no celestial WCS"):
        read_image(NDData(ccd.data, uncertainty=ccd.uncertainty))


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


def test_truncated_file(write):
    path = write(ERR=np.ones(SHAPE))
    whole = path.read_bytes()
    for part in (0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(InputError, match=r"image.fits: the file is truncated"):
            read_image(path)


def test_truncated_compressed_file(tmp_path, pixels, header):
    path = tmp_path / "image.fits.fz"
    fits.CompImageHDU(pixels, header, name="SCI").writeto(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match=r"image\.fits\.fz"):
        read_image(path, estimate_noise=True)


def test_not_fits(tmp_path):
    path = tmp_path / "notes.fits"
    path.write_text("no image")
    with pytest.raises(InputError, match=r"notes.fits: not a FITS file"):
        read_image(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"notes.fits"):
        read_image(path)
    with pytest.raises(InputError, match="found a folder"):
        read_image(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "absent.fits")


def test_table_where_an_image_should_be(tmp_path):
    path = tmp_path / "table.fits"
    table = fits.BinTableHDU.from_columns([fits.Column("a", "E", array=[1.0])], name="CAT")
    table.writeto(path)
    with pytest.raises(InputError, match=r"found no image.*1 CAT \(table\)"):
        read_image(path)
    with pytest.raises(InputError, match=r"HDU CAT: found a table, expected an image"):
        read_image(path, hdu="CAT")
    with pytest.raises(InputError, match="found no extension 'SCI'"):
        read_image(path, hdu="SCI")


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


def test_negative_variance(write):
    noise = np.ones(SHAPE)
    noise[0, 0] = -1
    for name in ("ERR", "VAR", "IVAR", "WHT"):
        with pytest.raises(InputError, match=f"HDU {name}: found 1 negative"):
            read_image(write(**{name: noise}))


def test_negative_uncertainty_in_nddata(ccd):
    for kind in (StdDevUncertainty, VarianceUncertainty):
        ccd.uncertainty = kind(np.full(SHAPE, -1.0))
        with pytest.raises(InputError, match="4096 negative"):
            read_image(ccd)


def test_unknown_uncertainty(ccd):
    ccd.uncertainty = UnknownUncertainty(np.ones(SHAPE))
    with pytest.raises(InputError, match="UnknownUncertainty"):
        read_image(ccd)


def test_uncertainty_of_another_kind_of_unit(ccd):
    image = NDData(ccd.data, unit=u.nJy, wcs=ccd.wcs)
    image.uncertainty = VarianceUncertainty(np.ones(SHAPE), unit=u.nJy**2)
    with pytest.raises(InputError, match="found an uncertainty in nJy2"):
        read_image(image, unit=u.m)


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
        ({"bad_bits": 1, "mask": np.zeros(SHAPE)}, "mask of integers"),
    ],
)
def test_options_that_cannot_be_used(write, options, message):
    with pytest.raises(InputError, match=message):
        read_image(write(ERR=np.ones(SHAPE)), **options)


def test_image_without_scatter(ccd):
    ccd.data[:] = 1
    with pytest.raises(InputError, match="does not scatter"):
        read_image(ccd, estimate_noise=True)


def test_distortion_tables_and_foreign_wcs(ccd):
    from astropy.wcs import DistortionLookupTable
    from astropy.wcs.wcsapi import SlicedLowLevelWCS

    wcs = ccd.wcs.deepcopy()
    table = np.zeros((4, 4), np.float32)
    wcs.cpdis1 = DistortionLookupTable(table, (1, 1), (1, 1), (10, 10))
    image = NDData(ccd.data, uncertainty=StdDevUncertainty(np.ones(SHAPE)), wcs=wcs)
    with pytest.raises(InputError, match="distortion tables"):
        read_image(image)
    sliced = SlicedLowLevelWCS(ccd.wcs, (slice(0, 64), slice(0, 64)))
    image = NDData(ccd.data, uncertainty=StdDevUncertainty(np.ones(SHAPE)), wcs=sliced)
    with pytest.raises(InputError, match=r"expected astropy.wcs.WCS"):
        read_image(image)


=======
>>>>>>> be6b631 (Let the tests of survey, psf, views and simulate mirror their modules)
# --- bands --------------------------------------------------------------------------------------


def test_stack_converts_units_and_keeps_names(ccd):
    r = read_image(ccd, name="r")
    i = read_image(
        CCDData(
            ccd.data / 1000,
            unit="uJy",
            wcs=ccd.wcs,
            uncertainty=StdDevUncertainty(ccd.uncertainty.array / 1000),
        ),
        name="i",
    )
    both = stack_bands([r, i])
    assert both.shape == (2, *SHAPE)
    assert both.names == ("r", "i")
    assert_allclose(both.data[1], both.data[0], rtol=1e-6)
    assert_allclose(both.variance[1], both.variance[0], rtol=1e-6)
    assert stack_bands([r, r]).names == ("band0", "band1")


def test_bands_on_different_grids(ccd):
    image = read_image(ccd)
    moved = ccd.wcs.deepcopy()
    moved.wcs.crpix += (0.5, 0)
    with pytest.raises(InputError, match=r"pixel grid that is up to 0.5 pixels off"):
        stack_bands([image, read_image(NDData(ccd.data, uncertainty=ccd.uncertainty, wcs=moved))])
    with pytest.raises(InputError, match=r"found \(32, 64\) pixels, expected the \(64, 64\)"):
        stack_bands([image, read_image(ccd[:32])])
    adu = CCDData(ccd.data, unit="adu", wcs=ccd.wcs, uncertainty=StdDevUncertainty(np.ones(SHAPE)))
    with pytest.raises(InputError, match="found the unit adu"):
        stack_bands([image, read_image(adu)])
    with pytest.raises(InputError, match="found none"):
        stack_bands([])
