import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from astro_ddprism.views.noise import noise_of


def test_noise_of_faint_fluxes():
    """Variances that are 0 in float32."""
    variance = np.full((2, 1, 4, 4), 1e-50)
    variance[0, 0, 0, 0] = np.inf
    assert_array_equal(noise_of(variance, None)["variance"], variance)
    noise = noise_of(variance, np.array([[[0.2, 1.0, 0.2]]]))["noise"]
    assert noise.n_valid.tolist() == [15, 16]
    assert_allclose(noise.pixels.std[1], 1e-25, rtol=1e-6)
