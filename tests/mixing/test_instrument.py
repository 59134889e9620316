import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord

from astro_ddprism.errors import InputError
from astro_ddprism.frame import SourceFrame
from astro_ddprism.mixing import Bands, Composition, Resampling, instrument_operator
from astro_ddprism.psf import GaussianPSF

HERE = SkyCoord(150.1, 2.2, unit="deg")
FRAME = SourceFrame(0.05 * u.arcsec, (3, 24, 26), psf=GaussianPSF(2.5 * u.pixel))
OPTIONS = {"frame": FRAME, "coordinates": HERE, "psf": GaussianPSF(0.3 * u.arcsec)}
WCS = SourceFrame(0.1 * u.arcsec, (1, 12, 12)).wcs(HERE)


def test_bands_come_first(normal, check_adjoint):
    weights = [[0.2, 0.3, 0.5], [0, 0, 1]]
    operator = instrument_operator(WCS, (2, 12, 12), bands=weights, dtype=torch.float64, **OPTIONS)
    assert isinstance(operator, Composition)
    check_adjoint(operator)
    # Bands and resampling may change places, where all bands have the same PSF.
    x = normal(1, *FRAME.shape)
    each = instrument_operator(WCS, (3, 12, 12), dtype=torch.float64, **OPTIONS)
    assert isinstance(each, Resampling)
    expected = Bands(weights, (3, 12, 12), dtype=torch.float64)(each(x))
    torch.testing.assert_close(operator(x), expected)


@pytest.mark.parametrize(
    ("shape", "bands", "message"),
    [
        ((1, 12, 12), None, r"shape: found \(1, 12, 12\), expected .* with 3 bands"),
        ((1, 12, 12), [[1, 0]], r"bands: found shape \(1, 2\), expected \(1, 3\)"),
        ((2, 12, 12), np.eye(3)[[0]], r"bands: found shape \(1, 3\), expected \(2, 3\)"),
        ((2, 12, 12), [[1, 0, 0], [0, 0, 0]], "bands: found nothing but zeros for band 1"),
    ],
)
def test_bands_that_do_not_fit(shape, bands, message):
    with pytest.raises(InputError, match=message):
        instrument_operator(WCS, shape, bands=bands, **OPTIONS)
