from dataclasses import replace

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from numpy.testing import assert_allclose, assert_array_equal

from astro_ddprism import MultiViewDataset
from astro_ddprism.errors import InputError
from astro_ddprism.survey import mosaic, read_image
from astro_ddprism.survey.formats import base
from astro_ddprism.survey.formats import fits as fits_format
from astro_ddprism.survey.mosaic import Mosaic, describe_image, measure_stars, open_bands
from astro_ddprism.views.build import views_from_image


@pytest.fixture
def small_is_large(monkeypatch):
    monkeypatch.setattr(mosaic, "LARGE", 10_000)
    monkeypatch.setattr(mosaic, "WINDOW", 128)
    monkeypatch.setattr(mosaic, "MARGIN", 8)


@pytest.fixture(params=["plain", "compressed", "scaled"])
def path(request, field, tmp_path):
    """An image with noise, mask and exposure, none of them constant."""
    path, header = tmp_path / "mosaic.fits", field.image.wcs.to_header()
    header["BUNIT"] = "uJy"
    y, x = np.mgrid[:640, :640]
    planes = {
        "SCI": (np.round(1e4 * field.image.data) if request.param == "scaled" else
                field.image.data.astype("f4")),
        "ERR": 0.01 * (1 + x / 640 + y / 320).astype("f4"),
        "DQ": ((x + 3 * y) % 97 == 0).astype("i2"),
        "EXPOSURE": (100 + x).astype("f4"),
    }  # fmt: skip
    hdus = fits.HDUList([fits.PrimaryHDU()])
    for name, plane in planes.items():
        kind = fits.CompImageHDU if request.param == "compressed" else fits.ImageHDU
        options = {"compression_type": "GZIP_1"} if request.param == "compressed" else {}
        if name == "SCI" and request.param == "scaled":
            hdu = fits.ImageHDU(plane.astype("i4"), header, name=name)
            hdu.header["BSCALE"] = 1e-4
        else:
            hdu = kind(plane, header, name=name, **options)
        hdus.append(hdu)
    hdus.writeto(path)
    return path


def positions(image):
    return image.wcs.pixel_to_world([100, 320.3, 5, -20, 633], [100, 250, 300, 10, 638])


def test_cutouts_are_those_of_the_whole_image(path, small_is_large, monkeypatch):
    """At the edges, too; and no more pixels are read than around them."""
    whole = read_image(path, effective_gain="EXPOSURE")
    options = {"positions": positions(whole), "n_random": 0, "size": 16, "psf_fwhm": 1.0}
    options["max_masked_fraction"] = 0.9
    n_read = []

    def counted(hdu, name):
        data = read(hdu, name)
        n_read.append(data.size)
        return data

    read = fits_format.read_extension
    for module in (base, fits_format):
        monkeypatch.setattr(module, "read_extension", counted)
    found = views_from_image(path, effective_gain="EXPOSURE", **options)["galaxy"]
    assert max(n_read) <= 144**2 < whole.data.size / 15
    expected = views_from_image(whole, **options)["galaxy"]
    for name in ("data", "variance", "mask", "ids"):
        assert_array_equal(getattr(found, name), getattr(expected, name))
    assert_array_equal(found.effective_gain, expected.effective_gain)
    assert_array_equal(found.rejected["id"], ["3"])
    for one, other in zip(found.wcs, expected.wcs, strict=True):
        assert_array_equal(one.wcs.crpix, other.wcs.crpix)
    assert found.conditions.noise == pytest.approx(expected.conditions.noise.value, rel=0.3)


def test_all_of_it_is_read_where_it_is_needed(path, small_is_large):
    """For random positions, for many of them, and where only the whole image can tell."""
    image = open_bands(path, {})
    assert isinstance(image, Mosaic)
    assert image.shape == (1, 640, 640)
    assert_array_equal(image.load().data, read_image(path).data)
    assert not isinstance(open_bands(path, {"saturation": "auto"}), Mosaic)
    assert not isinstance(open_bands(path, {"mask": np.zeros((640, 640), int)}), Mosaic)
    where = image.wcs.pixel_to_world([100], [100])
    views = views_from_image(path, positions=where, n_random=3, size=16, psf_fwhm=1.0)
    assert len(views["random"]) == 3


def test_bands_and_instruments(path, small_is_large):
    whole = read_image(path)
    options = {"positions": positions(whole), "n_random": 0, "size": 16}
    options["max_masked_fraction"] = 0.9
    both = views_from_image([path, path], psf_fwhm=1.0, **options)["galaxy"]
    assert both.data.shape[1] == 2
    assert_array_equal(both.data[:, 0], both.data[:, 1])
    several = MultiViewDataset.from_image({"a": str(path), "b": str(path)}, **options)["galaxy"]
    assert_array_equal(several.images["b"].data, both.data[:, :1])
    assert several.rejected["id"].tolist() == ["3"]


def test_sky_and_weights_are_measured_around_the_positions(tmp_path, small_is_large, monkeypatch):
    """Noise of 2 on a sky of 10, whose weight is 3 times too large."""
    monkeypatch.setattr(mosaic, "MARGIN", 128)
    rng = np.random.default_rng(0)
    path = tmp_path / "sky.fits"
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10, "CRVAL2": 20,
                          "CRPIX1": 1, "CRPIX2": 1, "CDELT1": -1e-4, "CDELT2": 1e-4})  # fmt: skip
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(rng.normal(10, 2, (1024, 1024)), header, name="SCI"),
            fits.ImageHDU(np.full((1024, 1024), 0.75), name="WHT")]  # fmt: skip
    fits.HDUList(hdus).writeto(path)
    image = open_bands(path, {"subtract_background": True})
    assert isinstance(image, Mosaic)
    part = image.planes(slice(500, 516), slice(0, 16))
    assert_allclose(part["variance"], 4, rtol=0.06)
    assert abs(part["data"].mean()) < 0.5


def test_stars_are_measured_on_a_sample(field, small_is_large, tmp_path, caplog):
    caplog.set_level("INFO", logger="astro_ddprism")
    whole = read_image(field.image)
    typical, stars = measure_stars(whole)
    assert typical.shape == (1, 128, 128 * 8)
    assert stars is not None
    faint = replace(whole, data=whole.data / 100)
    assert measure_stars(faint)[0].shape == (1, 128, 128 * 4)  # more windows would not tell
    assert "windows of 128 x 128 pixels" in caplog.text
    noise = np.median(np.sqrt(whole.variance[~whole.mask]))
    assert np.median(np.sqrt(typical.variance[~typical.mask])) == pytest.approx(noise, rel=0.05)
    empty = mosaic.Mosaic.__new__(mosaic.Mosaic)
    empty.__dict__.update(shape=(1, 512, 512), filename="empty.fits", names=("r",), unit=u.Jy)
    full = np.ones((1, 128, 128), bool)
    empty.planes = lambda *_: {"mask": full}
    with pytest.raises(InputError, match=r"empty.fits: found no data in up to 48 windows"):
        measure_stars(empty)


def test_a_large_image_is_described_by_parts_of_it(path, small_is_large, monkeypatch):
    """And so is one that cannot be used as it is."""
    n_read = []

    def counted(hdu, name):
        data = read(hdu, name)
        n_read.append(data.size)
        return data

    read = fits_format.read_extension
    for module in (base, fits_format):
        monkeypatch.setattr(module, "read_extension", counted)
    lines = describe_image(path)
    assert lines[:3] == [
        "flux: HDU SCI, format fits",
        "unit: uJy",
        "noise: HDU ERR, standard deviation",
    ]
    share = float(lines[-1].removeprefix("masked: ").partition("%")[0])
    assert share == pytest.approx(100 / 97, rel=0.1)
    with fits.open(path, mode="update") as hdus:
        hdus["ERR"].name = "OTHER"
    lines = describe_image(path)
    assert lines[0] == "flux: HDU SCI, format fits"
    assert "cannot be used as it is: " in lines[-1]
    assert max(n_read) <= 144**2
