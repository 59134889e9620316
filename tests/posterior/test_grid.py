import numpy as np
import pytest
from astropy import units as u

from astro_ddprism import InputError, View
from astro_ddprism.mixing import DenseMatrix, Identity
from astro_ddprism.posterior.grid import SourceGrid


def test_sources_in_a_frame_of_their_own(pairs):
    view, _ = pairs()
    grid = SourceGrid(view)
    assert grid.shape == (16, 16)
    assert grid.wcs is view.source_wcs
    assert grid.holds("galaxy")
    # Coordinates lie in the middle of frames, to the rounding of degrees.
    np.testing.assert_allclose(grid.positions, 7.5, atol=1e-6)


def test_resampled_sources_are_not_on_the_pixels_of_the_image(pairs):
    """Even where there are as many of them."""
    image = pairs()[0].images["fine"][[1, 2]]
    view = View(image.data, variance=1.0, mixing=image.mixing, wcs=image.wcs, unit="nJy")
    assert view.data.shape[-2:] == view.source_shapes["galaxy"][-2:]
    assert not SourceGrid(view).holds("galaxy")
    assert SourceGrid(image).holds("galaxy")
    assert SourceGrid(image).wcs is image.source_wcs


@pytest.mark.parametrize("n", [12, 13])
def test_matrices_are_believed(n):
    matrix = DenseMatrix(np.ones((12, n)), (n,) if n != 12 else (3, 4), (3, 4))
    view = View(np.ones((2, 3, 4)), variance=1.0, mixing={"a": matrix}, unit=u.nJy)
    assert SourceGrid(view).holds("a") == (n == 12)


@pytest.mark.parametrize("aperture", [1e9, 0.0, -1.0, np.nan, 30 * u.pix])
def test_apertures_that_cannot_be(aperture):
    view = View(np.ones((1, 1, 20, 20)), variance=1.0, mixing={"a": Identity((1, 20, 20))})
    with pytest.raises(
        InputError, match=r"aperture: found a radius of .* up to 28.28, the diagonal"
    ):
        SourceGrid(view).aperture_radius(aperture)
