import numpy as np
import pytest
from astropy.nddata import (
    CCDData,
    NDData,
    StdDevUncertainty,
)
from numpy.testing import assert_allclose

from astro_ddprism.errors import InputError
from astro_ddprism.survey import read_image, stack_bands

SHAPE = (64, 64)


# --- bands --------------------------------------------------------------------------------------


def test_stack_converts_units_and_keeps_names(ccd):
    r = read_image(ccd, name="r")
    i = read_image(
        CCDData(
            ccd.data / 1000,
            unit="uJy",
            wcs=ccd.wcs,
            uncertainty=StdDevUncertainty(ccd.uncertainty.array / 1000),
        ),
        name="i",
    )
    both = stack_bands([r, i])
    assert both.shape == (2, *SHAPE)
    assert both.names == ("r", "i")
    assert_allclose(both.data[1], both.data[0], rtol=1e-6)
    assert_allclose(both.variance[1], both.variance[0], rtol=1e-6)
    assert stack_bands([r, r]).names == ("band0", "band1")


def test_bands_on_different_grids(ccd):
    image = read_image(ccd)
    moved = ccd.wcs.deepcopy()
    moved.wcs.crpix += (0.5, 0)
    with pytest.raises(InputError, match=r"pixel grid that is up to 0.5 pixels off"):
        stack_bands([image, read_image(NDData(ccd.data, uncertainty=ccd.uncertainty, wcs=moved))])
    with pytest.raises(InputError, match=r"found \(32, 64\) pixels, expected the \(64, 64\)"):
        stack_bands([image, read_image(ccd[:32])])
    adu = CCDData(ccd.data, unit="adu", wcs=ccd.wcs, uncertainty=StdDevUncertainty(np.ones(SHAPE)))
    with pytest.raises(InputError, match="found the unit adu"):
        stack_bands([image, read_image(adu)])
    with pytest.raises(InputError, match="found none"):
        stack_bands([])
