import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.modeling.functional_models import Const2D, Gaussian2D, Moffat2D
from astropy.nddata import NDData
from astropy.wcs import WCS
from photutils.psf import CircularGaussianPRF, GriddedPSFModel
from photutils.psf import ImagePSF as PhotutilsImagePSF

from astro_ddprism.errors import InputError
from astro_ddprism.frame import SourceFrame
from astro_ddprism.psf import BandPSFs, GaussianPSF, GriddedPSF, ImagePSF, MoffatPSF

KX, KY = np.linspace(0, 9, 7), np.linspace(-8, 8, 9)
AXES = np.array([[-0.2, 0.03], [0.05, 0.18]])


def gaussian(sigma, half, centre=(0, 0)):
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    kernel = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 2 / sigma**2)
    return kernel / kernel.sum()


def of_width(sigma):
    """A Gaussian PSF of a standard deviation in pixels."""
    return GaussianPSF(sigma * np.sqrt(8 * np.log(2)) * u.pixel, includes_pixel=True)


def test_samples_know_the_profile():
    """A well sampled Gaussian has the profile's transform, turned and sheared with the axes."""
    psf = ImagePSF(gaussian(1.8, 12), oversampling=1)
    expected = of_width(1.8).response(KX, KY, AXES)
    np.testing.assert_allclose(psf.response(KX, KY, AXES), expected, atol=1e-6)


def test_oversampling_and_scale():
    expected = of_width(1.5).response(KX, KY, AXES)
    scale = np.sqrt(abs(np.linalg.det(AXES))) / 3 * u.arcsec
    for options in ({"oversampling": 3}, {"scale": scale}):
        psf = ImagePSF(gaussian(4.5, 30), **options)
        np.testing.assert_allclose(psf.response(KX, KY, AXES), expected, atol=1e-7)
        # Without the pixel's response it is one box wider.
        without = ImagePSF(gaussian(4.5, 30), **options, includes_pixel=False)
        box = without.response(KX, KY, AXES) / psf.response(KX, KY, AXES)
        ax, ay = (AXES[0, i] * KX + AXES[1, i] * KY[:, None] for i in (0, 1))
        np.testing.assert_allclose(box[0], np.sinc(ax / 2 / np.pi) * np.sinc(ay / 2 / np.pi))
        assert without.reach(AXES) > psf.reach(AXES)


def test_nothing_beyond_the_nyquist_frequency():
    point = np.zeros((3, 3))
    point[1, 1] = 1
    k = np.linspace(0, 40, 401)
    passing = ImagePSF(point, oversampling=1).response(k, np.zeros(1), np.diag([-0.2, 0.2]))[0, 0]
    np.testing.assert_array_equal(passing, k * 0.2 < np.pi)


def test_centre():
    """The centre of a PSF off the middle is told or measured; a wrong one moves the light."""
    image = gaussian(1.8, 12, centre=(0.4, -0.3))
    told = ImagePSF(image, oversampling=1, centre=(12.4, 11.7))
    expected = of_width(1.8).response(KX, KY, AXES)
    np.testing.assert_allclose(told.response(KX, KY, AXES), expected, atol=1e-6)
    moved = AXES @ [0.4, -0.3]
    phase = np.exp(-1j * (KX * moved[0] + KY[:, None] * moved[1]))
    measured = ImagePSF(image, oversampling=1)
    np.testing.assert_allclose(measured.centre, (12.4, 11.7), atol=1e-3)
    np.testing.assert_allclose(measured.response(KX, KY, AXES), expected, atol=1e-3)
    wrong = ImagePSF(image, oversampling=1, centre=(12, 12)).response(KX, KY, AXES)
    np.testing.assert_allclose(wrong, expected * phase, atol=1e-6)
    with pytest.raises(InputError, match=r"centre: found \(x, y\) = \(25.0, 3.0\), expected"):
        ImagePSF(image, oversampling=1, centre=(25, 3))


def test_bands():
    cube = np.stack([gaussian(1.8, 12), gaussian(2.5, 12)])
    psf = ImagePSF(cube, oversampling=1)
    assert psf.n_bands == 2
    assert repr(psf).startswith("ImagePSF of 2 bands of 25 x 25 pixels, oversampling 1")
    alone = BandPSFs([ImagePSF(NDData(band), oversampling=1) for band in cube])
    np.testing.assert_allclose(psf.response(KX, KY, AXES), alone.response(KX, KY, AXES), atol=1e-15)
    of_two_sizes = ImagePSF([gaussian(1.8, 10), cube[1]], oversampling=1)
    np.testing.assert_allclose(
        psf.response(KX, KY, AXES), of_two_sizes.response(KX, KY, AXES), atol=1e-6
    )


@pytest.mark.parametrize("options", [{}, {"oversampling": 1, "scale": 1 * u.arcsec}])
def test_without_a_scale(options):
    with pytest.raises(InputError, match=r"psf: found (neither|both) of oversampling and scale"):
        ImagePSF(gaussian(1.8, 12), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"oversampling": 0}, "oversampling: found 0, expected a positive number"),
        ({"scale": 1 * u.pixel}, "scale: found 1.0 pix, expected a positive angle"),
        ({"scale": -1 * u.arcsec}, "scale: found -1.0 arcsec, expected a positive angle"),
    ],
)
def test_bad_scale(options, message):
    with pytest.raises(InputError, match=message):
        ImagePSF(gaussian(1.8, 12), **options)


@pytest.mark.parametrize(
    ("keywords", "oversampling"),
    [
        ({"OVERSAMP": 4}, 4),
        ({"PIXELSCL": 0.05}, 4),
        ({"PIXSCALE": 0.05}, 4),
        (SourceFrame(0.05 * u.arcsec, (1, 9, 9)).wcs(SkyCoord(1, 2, unit="deg")).to_header(), 4),
    ],
)
def test_read(tmp_path, keywords, oversampling):
    path = tmp_path / "psf.fits"
    fits.writeto(path, gaussian(6, 40), fits.Header(keywords))
    axes = np.diag([-0.2, 0.2])
    read = ImagePSF.read(path).response(KX, KY, axes)
    expected = ImagePSF(gaussian(6, 40), oversampling=oversampling).response(KX, KY, axes)
    np.testing.assert_allclose(read, expected, atol=1e-9)
    # What the caller says counts more than what the header says.
    other = ImagePSF.read(path, oversampling=2, centre=(40, 40))
    assert (other.oversampling, other.scale) == (2, None)


def test_read_without_a_scale(tmp_path):
    path = tmp_path / "psf.fits"
    fits.writeto(path, np.stack([gaussian(2, 10)] * 3))
    with pytest.raises(InputError, match=r"psf.fits: found none of .* OVERSAMP, PIXEL"):
        ImagePSF.read(path)
    assert ImagePSF.read(path, oversampling=1).n_bands == 3


def test_models():
    """Models of astropy and photutils, with and without the pixel in them."""
    fwhm = 3.2
    axes = np.diag([-0.2, 0.2])
    expected = GaussianPSF(fwhm * u.pixel).response(KX, KY, axes)
    models = (
        (Gaussian2D(2, 7, 8, fwhm / np.sqrt(8 * np.log(2)), fwhm / np.sqrt(8 * np.log(2))), False),
        (CircularGaussianPRF(flux=3, x_0=1, y_0=2, fwhm=fwhm), True),
    )
    for model, includes_pixel in models:
        psf = ImagePSF.from_model(model, 21, includes_pixel=includes_pixel)
        np.testing.assert_allclose(psf.response(KX, KY, axes), expected, atol=1e-6)
    moffat = Moffat2D(1, 0, 0, fwhm / 2 / np.sqrt(2 ** (1 / 4.765) - 1), 4.765)
    psf = ImagePSF.from_model(moffat, 61, includes_pixel=False)
    expected = MoffatPSF(fwhm * u.pixel, 4.765).response(KX, KY, axes)
    np.testing.assert_allclose(psf.response(KX, KY, axes), expected, atol=1e-4)
    epsf = PhotutilsImagePSF(gaussian(6, 40) * 16, x_0=3, y_0=4, oversampling=4)
    psf = ImagePSF.from_model(epsf, 20)
    np.testing.assert_allclose(
        psf.response(KX, KY, axes), of_width(1.5).response(KX, KY, axes), atol=1e-6
    )


def test_models_that_are_none():
    with pytest.raises(InputError, match="found a Const2D without x_0 and y_0"):
        ImagePSF.from_model(Const2D(1), 21)
    with pytest.raises(InputError, match="the Gaussian2D is not finite and positive"):
        ImagePSF.from_model(Gaussian2D(-1), 21)


@pytest.fixture
def gridded():
    """A PSF whose width goes from 1.5 to 2.5 pixels along x."""
    places = [(0, 0), (1000, 0), (0, 1000), (1000, 1000)]
    widths = [1.5, 2.5, 1.5, 2.5]
    data = np.stack([gaussian(2 * width, 30) * 4 for width in widths])
    model = GriddedPSFModel(NDData(data, meta={"grid_xypos": places, "oversampling": 2}))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [10, 20], [501, 501], [-1e-4, 1e-4]
    return GriddedPSF(model, wcs)


def test_gridded(gridded):
    axes = np.diag([-0.36, 0.36])
    k = np.linspace(0, 5, 6)
    for x, share in ((0, 0), (250, 0.25), (1000, 1)):
        psf = gridded.at(gridded.wcs.pixel_to_world(x, 400))
        ends = [of_width(width).response(k, k, axes) for width in (1.5, 2.5)]
        expected = (1 - share) * ends[0] + share * ends[1]
        np.testing.assert_allclose(psf.response(k, k, axes), expected, atol=2e-5)


def test_gridded_needs_a_place(gridded):
    with pytest.raises(InputError, match="found a PSF that changes over the image"):
        gridded.response(KX, KY, AXES)
    with pytest.raises(InputError, match="found a PSF that changes over the image"):
        gridded.reach(AXES)
    bands = BandPSFs([gridded, of_width(2)])
    assert bands.at(SkyCoord(10, 20, unit="deg")).response(KX, KY, AXES).shape == (2, 9, 7)
