import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from scipy.stats import chi2

from astro_ddprism import View
from astro_ddprism.frame import SourceFrame
from astro_ddprism.mixing import DenseMatrix, Identity
from astro_ddprism.posterior.grid import SourceGrid
from astro_ddprism.posterior.quality import Quality, Surroundings, is_bad_fit

SHAPE = (2, 20, 20)


def look(view, radius=None):
    return Surroundings(view, SourceGrid(view), radius)


def make_view(mask=None, saturated=None, **options):
    """Three observations of two bands; the position is the pixel (10, 10)."""
    return View(np.ones((3, *SHAPE)), variance=1.0, mixing={"a": Identity(SHAPE)}, mask=mask,
                saturated=saturated, **options)  # fmt: skip


def test_a_clean_observation_has_no_flags():
    around = look(make_view(), 4.0)
    np.testing.assert_array_equal(around.masked_fraction, 0)
    assert not around.edge.any()
    assert not around.saturated.any()


def test_masked_fraction_is_that_of_the_aperture_in_the_worst_band():
    mask = np.zeros((3, *SHAPE), dtype=bool)
    mask[0, 1, 10, 10] = True  # one pixel inside
    mask[1, :, 2, 2] = True  # far away
    mask[2, 0, :, 11:] = True  # what lies beyond x = 10.5
    around = look(make_view(mask), 4.0)
    assert around.masked_fraction[0] == pytest.approx(1 / (np.pi * 16))
    assert around.masked_fraction[1] == 0
    h = 0.5  # a circle's part beyond a chord at distance h
    segment = 16 * np.arccos(h / 4) - h * np.sqrt(16 - h**2)
    assert around.masked_fraction[2] == pytest.approx(segment / (np.pi * 16))
    assert look(make_view(mask)).masked_fraction[1] == 0  # 5 pixels, a quarter of the side
    assert look(make_view(mask), 15.0).masked_fraction[1] > 0


def test_edge_of_the_cutout_and_of_the_image():
    assert not look(make_view(), 9.0).edge.any()
    assert look(make_view(), 11.0).edge.all()  # it has 10.5 pixels on one side, 9.5 on the other
    mask = np.zeros((3, *SHAPE), dtype=bool)
    mask[0, :, :, :2] = True  # two columns off the image
    mask[1, 0, :, 0] = True  # off the image in one band alone: a bad column
    mask[2, :, 3] = True  # a bad row inside
    assert look(make_view(mask), 4.0).edge.tolist() == [True, False, False]


def test_positions_are_those_of_the_coordinates():
    middle = SkyCoord(150 * u.deg, 2 * u.deg)
    frame = SourceFrame(0.2 * u.arcsec, SHAPE)
    coordinates = middle.spherical_offsets_by([0, 1.4, -1.4] * u.arcsec, [0, 0, 0] * u.arcsec)
    view = make_view(wcs=[frame.wcs(middle)] * 3, coordinates=coordinates)
    assert look(view, 4.0).edge.tolist() == [False, True, True]


def test_saturated_pixels_are_known_or_not():
    saturated = np.zeros((3, *SHAPE), dtype=bool)
    saturated[0, 1, 9:12, 9:12] = True
    saturated[1, :, :3, :3] = True  # far away
    around = look(make_view(saturated=saturated), 4.0)
    assert around.saturated.tolist() == [True, False, False]
    assert around.masked_fraction[0] == pytest.approx(9 / (np.pi * 16))
    # As masked pixels alone nobody knows why.
    assert not look(make_view(saturated), 4.0).saturated.any()


def test_each_instrument_that_has_seen_it_is_asked(pairs):
    view, _ = pairs()
    around = look(view, 2.0)  # 0.2 arcsec: two pixels of the fine images, one of the coarse ones
    # The fine images lack every third observation, and a pixel far from the others.
    np.testing.assert_array_equal(around.masked_fraction, 0)
    assert not around.edge.any()
    view.images["coarse"].mask[1, 1, 2, 2] = True
    coarse = view.images["coarse"]
    coarse.mask[1, 1, 2, 2] = True
    again = look(view, 2.0).masked_fraction
    # Of a circle of 2/3 of a coarse pixel, the middle pixel holds all but four segments.
    r, h = 2 / 3, 0.5
    inside = np.pi * r**2 - 4 * (r**2 * np.arccos(h / r) - h * np.sqrt(r**2 - h**2))
    assert again[1] == pytest.approx(inside / (np.pi * r**2), rel=1e-3)
    assert (np.delete(again, 1) == 0).all()


def test_vectors_have_no_surroundings():
    matrix = DenseMatrix(np.ones((2, 4, 5)))
    mask = np.zeros((2, 4), dtype=bool)
    mask[1, 0] = True
    view = View(np.ones((2, 4)), variance=1.0, mixing={"a": matrix}, mask=mask, saturated=mask)
    around = look(view)
    assert around.masked_fraction.tolist() == [0, 0.25]
    assert around.saturated.tolist() == [False, True]
    assert not around.edge.any()


def test_noise_alone_is_rarely_a_bad_fit():
    rng = np.random.default_rng(0)
    n = np.array([50, 500, 5000])
    values = rng.chisquare(n, (100_000, 3)) / n
    np.testing.assert_allclose(is_bad_fit(values, n).mean(axis=0), 1e-4, atol=1e-4)
    limit = chi2.isf(1e-4, n) / n
    assert is_bad_fit(1.001 * limit, n).all()
    assert not is_bad_fit(0.999 * limit, n).any()
    assert is_bad_fit([np.nan, 99.0, np.nan], [0, 0, 5]).tolist() == [False, False, True]


def test_every_flag_is_a_bit_of_its_own():
    assert [flag.value for flag in Quality] == [1, 2, 4, 8, 16]
