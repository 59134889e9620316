import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from astro_ddprism.survey import read_image
from astro_ddprism.survey.coverage import without_data

N = 96


@pytest.fixture
def sky():
    return np.random.default_rng(1).normal(0, 2.0, (N, N)).astype(np.float32)


NOTHING = np.zeros((N, N), bool)


@pytest.mark.parametrize("value", [0.0, -999.0, -32768.0])
def test_a_filled_area_is_found_to_its_edge(sky, value):
    y, x = np.mgrid[:N, :N]
    truth = (x + y < 70) | (np.hypot(x - 70, y - 70) < 9)
    found = without_data(np.where(truth, value, sky).astype(np.float32), NOTHING)
    assert not (found & ~truth).any()
    assert (truth & ~found).mean() < 0.001  # single pixels at a slanted edge


def test_zeros_that_are_data(sky):
    """Photons counted one by one, single zeros, a star's flat top, an image of one value."""
    counts = np.random.default_rng(2).poisson(0.02, (N, N)).astype(np.float32)
    assert not without_data(counts, NOTHING).any()
    few = sky.copy()
    few[::7, ::5] = 0
    few[20:24, 20:24] = 0
    few[50:62, 50:62] = 1e4
    assert not without_data(few, NOTHING).any()
    assert not without_data(np.zeros((N, N), np.float32), NOTHING).any()
    assert without_data(np.zeros((N, N), np.float32), NOTHING, whole=False).all()


def test_the_noise_beside_an_empty_area(ccd):
    """It is that of the sky up to the edge, and the empty part is masked."""
    ccd.data = np.random.default_rng(3).normal(0, 2, (256, 256)).astype(np.float32)
    ccd.uncertainty = None
    ccd.data[:, :100] = 0
    image = read_image(ccd, estimate_noise=True)
    assert_array_equal(image.mask[0], ccd.data == 0)
    assert_allclose(np.sqrt(image.variance[0, :, 100:]), 2, rtol=0.1)
    assert "areas of one value, without data 39.06%" in "\n".join(image.provenance)
