import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import (
    CCDData,
    InverseVariance,
    NDData,
    StdDevUncertainty,
    UnknownUncertainty,
    VarianceUncertainty,
)
from numpy.testing import assert_allclose, assert_array_equal

from astro_ddprism.errors import InputError
from astro_ddprism.survey import read_image

SHAPE = (64, 64)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).normal(0, 2, SHAPE).astype(np.float32)


def test_ccddata_files_and_their_uncertainty_types(tmp_path, pixels, wcs):
    for kind, value in ((StdDevUncertainty, 3), (VarianceUncertainty, 9), (InverseVariance, 1 / 9)):
        ccd = CCDData(pixels, unit="nJy", wcs=wcs, uncertainty=kind(np.full(SHAPE, value, float)))
        ccd.mask = pixels > 5
        path = tmp_path / f"{kind.__name__}.fits"
        ccd.write(path)
        for source in (ccd, path):
            image = read_image(source)
            assert_allclose(image.variance[~image.mask], 9)
            assert_array_equal(image.mask[0], pixels > 5)
            assert image.unit == u.nJy


def test_uncertainty_in_another_unit(ccd):
    ccd.uncertainty = StdDevUncertainty(np.full(SHAPE, 0.002), unit=u.uJy)
    assert_allclose(read_image(ccd).variance, 4)
    ccd = NDData(ccd.data, unit=u.nJy, wcs=ccd.wcs)
    ccd.uncertainty = InverseVariance(np.full(SHAPE, 0.25e6), unit=u.uJy**-2)
    assert_allclose(read_image(ccd).variance, 4)


def test_no_wcs_in_nddata(ccd):
    with pytest.raises(InputError, match="no celestial WCS"):
        read_image(NDData(ccd.data, uncertainty=ccd.uncertainty))


def test_negative_uncertainty_in_nddata(ccd):
    for kind in (StdDevUncertainty, VarianceUncertainty):
        ccd.uncertainty = kind(np.full(SHAPE, -1.0))
        with pytest.raises(InputError, match="4096 negative"):
            read_image(ccd)


def test_unknown_uncertainty(ccd):
    ccd.uncertainty = UnknownUncertainty(np.ones(SHAPE))
    with pytest.raises(InputError, match="UnknownUncertainty"):
        read_image(ccd)


def test_effective_gain_of_nddata(ccd):
    ccd.meta["EGAIN"] = 3.0
    assert_allclose(read_image(ccd, effective_gain="EGAIN").effective_gain, 3)
