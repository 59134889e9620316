import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord

from astro_ddprism.errors import InputError
from astro_ddprism.psf import BandPSFs, GaussianPSF, ImagePSF, MoffatPSF, PointPSF

KX, KY = np.linspace(0, 9, 7), np.linspace(-8, 8, 9)
AXES = np.diag([-0.2, 0.2])


def test_bands_keep_their_psf():
    psfs = GaussianPSF(0.7 * u.arcsec, includes_pixel=True), MoffatPSF(0.6 * u.arcsec, 3)
    both = BandPSFs(psfs)
    response = both.response(KX, KY, AXES)
    assert response.shape == (2, 9, 7)
    for band, psf in zip(response, psfs, strict=True):
        np.testing.assert_array_equal(band, psf.response(KX, KY, AXES)[0])
    assert both.reach(AXES) == psfs[1].reach(AXES)
    assert both.resolution(AXES) == min(psf.resolution(AXES) for psf in psfs)
    assert both.at(SkyCoord(1, 2, unit="deg")) is both
    assert repr(both).startswith("BandPSFs(GaussianPSF(0.7 arcsec")


def test_a_point_is_blurred_by_its_pixel_alone():
    response = PointPSF().response(KX, KY, AXES)[0]
    expected = np.sinc(KX * 0.1 / np.pi) * np.sinc(KY[:, None] * 0.1 / np.pi)
    np.testing.assert_allclose(response, expected, atol=1e-14)
    assert PointPSF().reach(AXES) == 0.2


def test_bands_of_bands():
    cube = ImagePSF(np.full((2, 3, 3), 1 / 9), oversampling=1)
    for psfs in ([], [cube], [None]):
        with pytest.raises(InputError, match="expected one PSF of one band for each"):
            BandPSFs(psfs)
