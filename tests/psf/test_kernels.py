import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.modeling.functional_models import Gaussian2D
from astropy.nddata import NDData
from numpy.testing import assert_allclose
from photutils.psf import CircularGaussianPRF, GriddedPSFModel

from astro_ddprism.errors import InputError
from astro_ddprism.psf import MoffatPSF, open_psf, read_psf
from astro_ddprism.psf.kernels import half_light_radius, kernel_fwhm, kernels_at


def gaussian(n, sigma=2.0):
    y, x = np.mgrid[:n, :n] - n // 2
    kernel = np.exp(-0.5 * (x**2 + y**2) / sigma**2)
    return kernel / kernel.sum()


def test_reads_arrays_files_and_lists(tmp_path):
    kernel = gaussian(21)
    path = tmp_path / "psf.fits"
    fits.PrimaryHDU(kernel).writeto(path)
    assert_allclose(read_psf(kernel), kernel)
    assert_allclose(read_psf(path), kernel)
    assert_allclose(read_psf(str(path), 3), kernel)
    assert read_psf(kernel.tolist()).shape == (21, 21)
    assert read_psf(np.stack([kernel, kernel]), 2).shape == (2, 21, 21)
    both = read_psf([path, gaussian(25)], 2)
    assert both.shape == (2, 25, 25)
    assert_allclose(both[0, 2:-2, 2:-2], kernel)
    assert read_psf([path], 2).shape == (21, 21)


@pytest.mark.parametrize(
    ("psf", "message"),
    [
        (2 * gaussian(21), "found a sum of 2, expected 1"),
        (np.zeros((5, 5)), "zero in every pixel"),
        (np.full((5, 5), np.nan), "25 pixels that are not finite"),
        (np.roll(gaussian(21), 4, axis=1), r"centre at pixel \(x, y\) = \(14, 10\)"),
        (np.ones(5) / 5, r"array of shape \(5,\)"),
        (np.stack([gaussian(21)] * 2), "bands"),
        ([gaussian(21)] * 2, "found 2 bands, expected 1 or the 3"),
        ("absent.fits", None),
    ],
)
def test_what_is_no_psf(psf, message):
    if message is None:
        with pytest.raises(FileNotFoundError):
            read_psf(psf)
    else:
        with pytest.raises(InputError, match=message):
            read_psf(psf, 3)


def test_a_file_with_a_bad_psf_is_named(tmp_path):
    path = tmp_path / "bad.fits"
    fits.PrimaryHDU(np.zeros((5, 5))).writeto(path)
    with pytest.raises(InputError, match=r"psf .*bad.fits: found zero"):
        read_psf(path)


def test_half_light_radius_of_a_gaussian():
    # of a circular Gaussian: sigma sqrt(2 ln 2)
    assert_allclose(half_light_radius(gaussian(41, 3.0)), 3 * np.sqrt(2 * np.log(2)), rtol=0.02)


@pytest.mark.parametrize("sigma", [0.8, 1.5, 3.0])
def test_fwhm_of_gaussians(sigma):
    """Those of a Gaussian that is averaged over pixels, by GalSim."""
    galsim = pytest.importorskip("galsim")
    star = galsim.Gaussian(sigma=sigma)
    kernel = galsim.Convolve(star, galsim.Pixel(1.0)).drawImage(
        nx=41, ny=41, scale=1.0, method="no_pixel"
    )
    assert_allclose(kernel_fwhm(kernel.array.astype(float)), star.fwhm, rtol=0.01)
    both = np.stack([kernel.array, gaussian(41, 2.0)])
    assert_allclose(kernel_fwhm(both), [star.fwhm, 2.3548 * np.sqrt(4 - 1 / 12)], rtol=0.01)


@pytest.mark.parametrize("fwhm", [2.0, 2.4, 3.4, 5.0])
def test_fwhm_of_a_profile_with_wings(fwhm):
    galsim = pytest.importorskip("galsim")
    star = galsim.Moffat(beta=3.5, fwhm=fwhm)
    kernel = star.drawImage(nx=61, ny=61, scale=1.0)
    found = kernel_fwhm(kernel.array.astype(float))
    assert 1 < found[0] / fwhm < 1.12


def at(n, sigma, x, y):
    """A Gaussian anywhere in a stamp."""
    columns, rows = np.meshgrid(np.arange(n), np.arange(n))
    kernel = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 2 / sigma**2)
    return kernel / kernel.sum()


@pytest.mark.parametrize(
    ("kernel", "word"),
    [
        (at(25, 1.3, 13, 12), "recentred"),  # an even size made odd by padding
        (at(25, 1.3, 12.3, 11.8), "recentred"),
        (at(24, 1.3, 11.5, 11.5), ""),
        (at(24, 1.3, 12, 12), ""),
        (at(24, 1.3, 11, 11), ""),
        (1.04 * at(25, 1.3, 12, 12), "its sum is 1.04"),
    ],
)
def test_kernels_are_centred_and_sum_to_one(kernel, word, caplog):
    found = read_psf(kernel)
    ny, nx = found.shape
    assert (ny % 2, nx % 2) == (1, 1)
    inner = found[:, nx // 2 - ny // 2 :][:, :ny]
    assert_allclose(inner, at(ny, 1.3, ny // 2, ny // 2), atol=2e-5)
    assert (word in caplog.text) if word else not caplog.text


def test_a_noisy_centre_in_the_middle_is_left_alone():
    rng = np.random.default_rng(0)
    kernel = gaussian(25) + rng.normal(0, 1e-5, (25, 25))
    kernel /= kernel.sum()
    assert_allclose(read_psf(kernel), kernel, rtol=1e-12)


def stpsf(path, sigma=1.3, scale=0.339):
    """A file in the layout of STPSF: oversampled first, on the detector's pixels second."""
    fine = fits.PrimaryHDU(at(101, 4 * sigma, 50, 50))
    fine.header.update({"EXTNAME": "OVERSAMP", "OVERSAMP": 4, "DET_SAMP": 4, "PIXELSCL": scale / 4})
    detector = fits.ImageHDU(at(25, np.hypot(sigma, 12**-0.5), 12, 12), name="DET_SAMP")
    detector.header.update({"OVERSAMP": 1, "PIXELSCL": scale})
    fits.HDUList([fine, detector]).writeto(path)


@pytest.mark.parametrize("scale", [0.339, 0.25, 0.6, None])
def test_one_reader_brings_a_psf_to_the_images_pixels(tmp_path, scale):
    """On the detector's own pixels, on others (as after drizzling), and where nobody knows."""
    path = tmp_path / "psf.fits"
    stpsf(path)
    kernel = read_psf(path, pixel_scale=None if scale is None else scale * u.arcsec)
    sigma = 1.3 * 0.339 / (scale or 0.339)
    side = len(kernel)
    assert_allclose(kernel, at(side, np.hypot(sigma, 12**-0.5), side // 2, side // 2), atol=2e-3)


@pytest.mark.parametrize(
    "keywords",
    [
        {"OVERSAMP": 4},
        {"PIXELSCL": 0.05},
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CDELT1": -0.05 / 3600, "CDELT2": 0.05 / 3600},
        {"CTYPE1": "X", "CTYPE2": "Y", "CUNIT1": "arcsec", "CUNIT2": "arcsec", "CDELT1": 0.05,
         "CDELT2": 0.05},
    ],
)  # fmt: skip
def test_headers_tell_the_pixels(tmp_path, keywords):
    path = tmp_path / "psf.fits"
    fits.writeto(path, at(101, 6, 50, 50), fits.Header(keywords))
    kernel = read_psf(path, pixel_scale=0.2 * u.arcsec)
    assert_allclose(kernel, at(25, 1.5, 12, 12), atol=1e-6)
    own = open_psf(path, oversampling=2).kernel(0.2 * np.eye(2))[0]
    assert_allclose(own, at(51, 3, 25, 25), atol=1e-6)


def test_pixels_that_are_too_coarse(tmp_path):
    path = tmp_path / "psf.fits"
    fits.writeto(path, at(25, 2, 12, 12), fits.Header({"EXTNAME": "OVERSAMP", "PIXELSCL": 0.2}))
    with pytest.raises(InputError, match=r"found pixels that are 2 times those of the image"):
        read_psf(path, pixel_scale=0.1 * u.arcsec)
    fits.setval(path, "PIXELSCL", value=-1.0)
    with pytest.raises(InputError, match=r"keyword PIXELSCL: found -1.0, expected a positive"):
        read_psf(path)
    with pytest.raises(InputError, match="expected the angle of the image's"):
        read_psf(open_psf(np.ones((1, 1)), scale=1 * u.arcsec))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"OVERSAMP": 4, "PIXELSCL": 0.2}, "found an oversampling of 4 and pixels of 0.2 arcsec"),
        ({"PIXSCALE": 0.05 / 3600}, "found 101 x 101 pixels, 1.44e\\+04 of which fit on a pixel"),
    ],
)
def test_scales_that_cannot_be(tmp_path, keywords, message):
    """That of the image for an oversampled PSF, which would be four times too wide; degrees."""
    path = tmp_path / "psf.fits"
    fits.writeto(path, at(101, 6, 50, 50), fits.Header(keywords))
    with pytest.raises(InputError, match=message):
        read_psf(path, pixel_scale=0.2 * u.arcsec)


def test_profiles_and_models_are_psfs():
    galsim = pytest.importorskip("galsim")
    star = galsim.Moffat(beta=3.5, fwhm=0.7)
    expected = star.drawImage(nx=25, ny=25, scale=0.2).array
    kernel = read_psf(MoffatPSF(0.7 * u.arcsec, 3.5), pixel_scale=0.2 * u.arcsec)
    half = len(kernel) // 2
    inner = kernel[half - 12 : half + 13, half - 12 : half + 13]
    assert_allclose(inner, expected, atol=1e-4)
    for model in (CircularGaussianPRF(fwhm=3.2), Gaussian2D(1, 0, 0, 3.2 / 2.3548, 3.2 / 2.3548)):
        assert_allclose(kernel_fwhm(read_psf(model)), 3.2, rtol=0.01)


def test_grids_change_over_the_image(wcs):
    places = [(0, 0), (63, 0), (0, 63), (63, 63)]
    data = np.stack([at(61, 2 * sigma, 30, 30) * 4 for sigma in (1.5, 2.5, 1.5, 2.5)])
    model = GriddedPSFModel(NDData(data, meta={"grid_xypos": places, "oversampling": 2}))
    psf = open_psf(model, wcs=wcs)
    kernels = kernels_at(psf, wcs.pixel_to_world([0, 63], [5, 9]), 1, 0.36 * u.arcsec)
    assert kernels.shape == (2, 1, 31, 31)
    for kernel, sigma in zip(kernels[:, 0], (1.5, 2.5), strict=True):
        assert_allclose(kernel, at(31, sigma, 15, 15), atol=1e-5)
    with pytest.raises(InputError, match="changes over the image, expected its WCS"):
        open_psf(model)
