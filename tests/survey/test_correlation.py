import numpy as np
import pytest
from astropy.nddata import CCDData, StdDevUncertainty
from numpy.testing import assert_allclose

from astro_ddprism.errors import InputError
from astro_ddprism.survey import read_image, stack_bands
from astro_ddprism.survey.correlation import autocorrelation_of


@pytest.fixture
def image(wcs):
    """Two bands; in the second one neighbours along x share their noise."""
    white = np.random.default_rng(0).normal(size=(2, 64, 65))
    bands = white[0, :, 1:], (white[1, :, 1:] + white[1, :, :-1]) / np.sqrt(2)
    sigma = StdDevUncertainty(np.ones((64, 64)))
    return stack_bands(
        [read_image(CCDData(band, unit="nJy", wcs=wcs, uncertainty=sigma)) for band in bands]
    )


def test_each_band_has_its_own(image):
    found = autocorrelation_of([image], 1)
    expected = np.zeros((2, 3, 3))
    expected[:, 1, 1], expected[1, 1, ::2] = 1, 0.5
    assert_allclose(found, expected, atol=0.05)  # 4000 pixels: 0.016 of noise
    assert autocorrelation_of([image], None) is None


def test_errors_name_image_and_band(image):
    image.mask[1] = True
    message = "^.*, .*, band1: correlated_noise: the sky cannot be measured"
    with pytest.raises(InputError, match=message):
        autocorrelation_of([image], 1)
