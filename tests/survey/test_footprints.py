"""Where images lie, and how deep places lie in them."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

from astro_ddprism.survey.footprints import Footprint, neighbours


def footprint(ra=10.0, dec=60.0, shape=(100, 200), scale=1.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ("RA---TAN", "DEC--TAN"), (ra, dec)
    wcs.wcs.crpix, wcs.wcs.cdelt = (
        (shape[1] / 2 + 0.5, shape[0] / 2 + 0.5),
        (-scale / 3600, scale / 3600),
    )
    return Footprint(wcs.to_header().tostring(), shape)


@pytest.mark.parametrize("ra", [10.0, 359.999])
def test_depth_is_the_distance_to_the_nearest_edge(ra):
    one, rng = footprint(ra, scale=0.5), np.random.default_rng(0)
    x, y = rng.uniform(-20, 220, 200), rng.uniform(-20, 120, 200)
    expected = 0.5 * np.min([x + 0.5, 199.5 - x, y + 0.5, 99.5 - y], axis=0)
    np.testing.assert_allclose(one.depth(one.wcs.pixel_to_world(x, y)), expected, atol=1e-5)
    far = SkyCoord([ra + 180, ra], [-60.0, -80.0], unit="deg")
    assert (one.depth(far) == -np.inf).all()
    corners = one.wcs.pixel_to_world([0, 199], [0, 99])
    assert (corners.separation(one.centre) < one.radius).all()


def test_neighbours_are_those_that_overlap():
    """As told by every pair, and by places on both."""
    rng = np.random.default_rng(1)
    places = rng.uniform(-0.15, 0.15, (30, 2))
    many = {f"t{i}": footprint(10 + 2 * x, 60 + y) for i, (x, y) in enumerate(places)}
    found = neighbours(many)
    names = list(many)
    for i, name in enumerate(names):
        others = [other for other, _ in found[name]]
        assert others == sorted(others, key=names.index)
        assert all(first == (names.index(other) < i) for other, first in found[name])
        y, x = np.mgrid[0:100:9, 0:200:9]
        here = many[name].wcs.pixel_to_world(x.ravel(), y.ravel())
        really = {o for o in names if o != name and (many[o].depth(here) > 0).any()}
        assert really <= set(others)
    assert sum(map(len, found.values())) < 30 * 29
    assert neighbours({}) == {}
    assert (1 * u.arcsec) < many["t0"].radius
