import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose

from astro_ddprism.errors import InputError
from astro_ddprism.psf import read_psf
from astro_ddprism.psf.kernels import half_light_radius, kernel_fwhm


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
        (gaussian(20), "size of 20 x 20 pixels, expected odd"),
        (2 * gaussian(21), "found a sum of 2, expected 1"),
        (np.zeros((5, 5)), "zero in every pixel"),
        (np.full((5, 5), np.nan), "25 pixels that are not finite"),
        (np.roll(gaussian(21), 4, axis=1), r"peak at pixel \(x, y\) = \(14, 10\)"),
        (np.ones(5) / 5, r"array of shape \(5,\)"),
        (np.stack([gaussian(21)] * 2), "bands"),
        ([gaussian(21)] * 2, "found a list of 2"),
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
