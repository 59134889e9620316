"""Surface brightness, options of the unit, stretches, complex pixels."""

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, NDData, StdDevUncertainty
from numpy.testing import assert_allclose

from astro_ddprism import View
from astro_ddprism.errors import InputError
from astro_ddprism.mixing import Identity
from astro_ddprism.survey import read_image

SHAPE = (64, 64)
AREA = (1e-4 * u.deg).to_value(u.rad) ** 2  # of the pixels of the fixture wcs


@pytest.fixture
def write(tmp_path, wcs):
    def write(pixels, **keywords):
        header = fits.Header({**wcs.to_header(), **keywords})
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(pixels, header, name="SCI")]
        hdus.append(fits.ImageHDU(np.full(SHAPE, 0.01), name="ERR"))
        fits.HDUList(hdus).writeto(tmp_path / "a.fits", overwrite=True)
        return tmp_path / "a.fits"

    return write


@pytest.fixture
def pixels():
    return np.random.default_rng(0).normal(3, 0.01, SHAPE)


@pytest.mark.parametrize(
    ("keywords", "factor", "unit", "tolerance"),
    [
        ({"BUNIT": "MJy/sr"}, 1e12 * AREA, "uJy", 1e-6),
        ({"BUNIT": "MJy/sr", "PIXAR_SR": 1.02 * AREA}, 1.02e12 * AREA, "uJy", 1e-6),
        ({"BUNIT": "MJy/sr", "PIXAR_SR": 4 * AREA}, 1e12 * AREA, "uJy", 1e-6),  # resampled since
        ({"BUNIT": "nJy/arcsec2"}, 1e-3 * 0.36**2, "uJy", 1e-6),
        ({"BUNIT": "counts/s/arcsec**2"}, 0.36**2, "ct / s", 1e-6),
    ],
)
def test_surface_brightness_becomes_flux(write, pixels, keywords, factor, unit, tolerance):
    image = read_image(write(pixels, **keywords))
    assert image.unit == u.Unit(unit)
    assert_allclose(image.data[0], pixels * factor, rtol=tolerance)
    assert_allclose(np.sqrt(image.variance), 0.01 * factor, rtol=tolerance)
    assert any("times the area of a pixel" in line for line in image.provenance)


@pytest.mark.parametrize(
    ("stated", "given", "message"),
    [
        ("MJy/sr", "uJy", "MJy/sr.*a surface brightness, and the option unit, uJy"),
        ("Jy/beam", "uJy", "whole beam"),
        ("mag", "uJy", "no magnitudes"),
        ("mag/arcsec2", None, "no magnitudes"),
    ],
)
def test_what_an_option_does_not_make_right(write, pixels, stated, given, message):
    with pytest.raises(InputError, match=message):
        read_image(write(pixels, BUNIT=stated), unit=given)


def test_an_option_replaces_a_unit_with_that_of_its_noise(pixels, wcs):
    ccd = CCDData(pixels, unit="adu", wcs=wcs, uncertainty=StdDevUncertainty(np.full(SHAPE, 0.01)))
    image = read_image(ccd, unit="nJy")
    assert image.unit == u.nJy
    assert_allclose(image.variance, 1e-4)


def test_an_asinh_is_undone(write, pixels):
    """Pan-STARRS: 2.5 / ln 10 asinh((f - offset) / 2 / softening)."""
    flux = 1000 * pixels
    luptitudes = 2.5 * np.log10(np.e) * np.arcsinh((flux - 5.0) / (2 * 30.0))
    path = write(luptitudes, BSOFTEN=30.0, BOFFSET=5.0)
    image = read_image(path, zero_point=25, estimate_noise=True)
    assert_allclose(image.data[0], flux * 3631e6 * 10 ** (-0.4 * 25), rtol=1e-4)
    for wrong in ({"BSOFTEN": 30.0}, {"BSOFTEN": "x", "BOFFSET": 0.0}, {"SOFTEN": 1.0}):
        with pytest.raises(InputError, match="of an asinh stretch, expected linear flux"):
            read_image(write(luptitudes, **wrong))


def test_complex_pixels_and_views_of_surface_brightness(pixels, wcs):
    noise = StdDevUncertainty(np.ones(SHAPE))
    with pytest.raises(InputError, match="found complex pixels"):
        read_image(NDData(pixels + 1j, unit="nJy", wcs=wcs, uncertainty=noise))
    for unit in ("MJy/sr", "Jy/beam"):
        with pytest.raises(InputError, match="flux for a pixel"):
            View(np.ones((1, 1, 8, 8)), variance=1, unit=unit, mixing={"a": Identity((1, 8, 8))})
