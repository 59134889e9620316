import galsim
import numpy as np
import pytest
from astropy import units as u

from astro_ddprism.errors import InputError
from astro_ddprism.psf import GaussianPSF, MoffatPSF

KX, KY = np.linspace(0, 9, 7), np.linspace(-8, 8, 9)
AXES = np.array([[-0.2, 0.03], [0.05, 0.18]])


def galsim_transform(profile):
    return np.array([[profile.kValue(kx, ky) for kx in KX] for ky in KY])


@pytest.mark.parametrize(
    ("psf", "reference"),
    [
        (GaussianPSF(0.7 * u.arcsec), galsim.Gaussian(fwhm=0.7)),
        (GaussianPSF(700 * u.mas), galsim.Gaussian(fwhm=0.7)),
        (MoffatPSF(0.7 * u.arcsec, 3), galsim.Moffat(fwhm=0.7, beta=3)),
        (MoffatPSF(0.5 * u.arcsec, 2.5), galsim.Moffat(fwhm=0.5, beta=2.5)),
    ],
)
def test_as_galsim_has_it(psf, reference):
    """Profile, and profile and pixel, the pixel being the parallelogram of the axes."""
    np.testing.assert_allclose(
        psf.transform(KX, KY, AXES)[0], galsim_transform(reference), atol=1e-6
    )
    pixel = galsim.Transform(
        galsim.Pixel(1), AXES.tolist(), flux_ratio=1 / abs(np.linalg.det(AXES))
    )
    both = galsim_transform(reference) * galsim_transform(pixel)
    np.testing.assert_allclose(psf.response(KX, KY, AXES)[0], both, atol=1e-6)


def test_width_in_pixels_is_round_on_the_pixels():
    psf = GaussianPSF(2.5 * u.pixel, includes_pixel=True)
    sheared = galsim.Transform(
        galsim.Gaussian(fwhm=2.5), AXES.tolist(), flux_ratio=1 / abs(np.linalg.det(AXES))
    )
    np.testing.assert_allclose(
        psf.response(KX, KY, AXES)[0], galsim_transform(sheared), rtol=1e-6, atol=1e-12
    )


@pytest.mark.parametrize(
    ("psf", "profile"),
    [
        (GaussianPSF(0.7 * u.arcsec, includes_pixel=True), galsim.Gaussian(fwhm=0.7)),
        (MoffatPSF(0.7 * u.arcsec, 3, includes_pixel=True), galsim.Moffat(fwhm=0.7, beta=3)),
    ],
)
def test_reach_and_resolution(psf, profile):
    reach = psf.reach(AXES)
    r = np.linspace(0, reach, 20001)
    light = np.trapezoid([2 * np.pi * x * profile.xValue(x, 0) for x in r], r)
    np.testing.assert_allclose(1 - light, 1e-4, rtol=2e-3)
    # The profile of a round Gaussian of this width lets the same tenth pass.
    width = psf.resolution(AXES)
    k = np.sqrt(2 * np.log(10)) * np.sqrt(8 * np.log(2)) / width
    assert profile.kValue(k, 0) == pytest.approx(0.1, rel=0.02)


def test_resolution_of_a_gaussian_is_its_width():
    psf = GaussianPSF(0.7 * u.arcsec, includes_pixel=True)
    assert psf.resolution(AXES) == pytest.approx(0.7, rel=5e-3)
    assert GaussianPSF(0.7 * u.arcsec).resolution(AXES) > 0.7


@pytest.mark.parametrize("fwhm", [0.7, 0 * u.arcsec, -1 * u.pixel, 1 * u.m, [1, 2] * u.arcsec])
def test_bad_width(fwhm):
    with pytest.raises(InputError, match=r"fwhm: found .*expected one positive angle"):
        GaussianPSF(fwhm)


def test_bad_exponent():
    with pytest.raises(InputError, match="beta: found 1, expected a number above 1"):
        MoffatPSF(1 * u.arcsec, 1)
