import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from numpy.testing import assert_allclose, assert_array_equal

from astro_ddprism.errors import InputError
from astro_ddprism.survey import read_image

SHAPE = (64, 64)


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
