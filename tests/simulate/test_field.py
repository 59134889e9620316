import dataclasses

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import QTable
from astropy.wcs import WCS

from astro_ddprism import View
from astro_ddprism.errors import InputError
from astro_ddprism.mixing import Identity
from astro_ddprism.simulate.population import simulate_field


@pytest.fixture(scope="module")
def field():
    return simulate_field((300, 320), seed=3)


def galaxies(field, margin=20, brightest=10):
    """Rows of bright galaxies away from the edges."""
    table, (ny, nx) = field.catalog, field.model.shape
    inside = (np.abs(table["x"] - nx / 2) < nx / 2 - margin) & (
        np.abs(table["y"] - ny / 2) < ny / 2 - margin
    )
    return np.flatnonzero((table["kind"] == "galaxy") & inside)[:brightest]


def test_total_flux_of_objects_within_half_a_percent(field):
    rows = galaxies(field, margin=-1000, brightest=40)
    image = field.render(rows, -400, -400, (1100, 1120))
    ratio = image.sum() / field.catalog["flux"][rows].sum()
    assert float(ratio) == pytest.approx(1, abs=0.005)


def test_psf_is_a_star(field):
    star = np.flatnonzero(field.catalog["kind"] == "star")[0]
    table = field.catalog.copy()
    table["x"][star], table["y"][star] = 100.0, 80.0
    moved = dataclasses.replace(field, catalog=table)
    image = moved.render(star, 88, 68, (25, 25)) / table["flux"][star]
    assert field.psf.shape == (25, 25)
    assert field.psf.sum() == pytest.approx(1)
    # The PSF is cut at 12 pixels, which scales it by less than half a percent.
    np.testing.assert_allclose(image.value, field.psf, atol=5e-3 * field.psf.max())


@pytest.mark.parametrize("size", [16, 21])
@pytest.mark.parametrize("on_sky", [False, True])
def test_truth_is_on_the_cutouts_pixels(field, size, on_sky):
    rows = galaxies(field)
    xy = np.column_stack([field.catalog["x"][rows], field.catalog["y"][rows]])
    xy += np.random.default_rng(0).uniform(-0.4, 0.4, xy.shape)
    positions = field.image.wcs.pixel_to_world(*xy.T) if on_sky else xy
    truth = field.truth(positions, size)
    assert truth.matched.all()
    np.testing.assert_array_equal(truth.row, rows)
    assert truth.galaxy.shape == truth.los.shape == (len(rows), 1, size, size)
    for i, row in enumerate(rows):
        x0, y0 = np.rint(xy[i]).astype(int) - size // 2
        cutout = field.model[y0 : y0 + size, x0 : x0 + size]
        np.testing.assert_allclose((truth.galaxy + truth.los).value[i, 0], cutout, atol=1e-9)
        others = np.setdiff1d(np.arange(len(field.catalog)), row)
        los = field.render(others, x0, y0, (size, size))
        np.testing.assert_allclose(truth.los.value[i, 0], los.value, atol=1e-9)


def test_truth_of_stars_and_empty_sky_is_flagged(field):
    table, (ny, nx) = field.catalog, field.model.shape
    inside = (table["x"] > 20) & (table["x"] < nx - 20) & (table["y"] > 20) & (table["y"] < ny - 20)
    star = np.flatnonzero((table["kind"] == "star") & inside)[0]
    truth = field.truth([(table["x"][star], table["y"][star]), (-90.0, -90.0)], 16)
    assert not truth.matched.any()
    assert (truth.row == -1).all()
    assert np.isnan(truth.galaxy).all()
    assert np.isnan(truth.los).all()


def test_truth_of_a_view_follows_its_wcs(field):
    rows = galaxies(field, brightest=4)
    corners = np.column_stack([field.catalog["x"][rows], field.catalog["y"][rows]]).astype(int) - 9
    wcs = [field.image.wcs[y : y + 20, x : x + 20] for x, y in corners]
    data = np.stack([field.model[y : y + 20, x : x + 20] for x, y in corners])[:, None]
    view = View(data, variance=1.0, mixing={"los": Identity((1, 20, 20))}, unit="uJy", wcs=wcs,
                coordinates=SkyCoord(field.catalog["sky_coord"][rows]))  # fmt: skip
    truth = field.truth_of(view)
    np.testing.assert_array_equal(truth.row, rows)
    np.testing.assert_allclose((truth.galaxy + truth.los).value, data, rtol=1e-5, atol=1e-6)
    bare = View(data, variance=1.0, mixing={"los": Identity((1, 20, 20))}, name="bare")
    with pytest.raises(InputError, match="bare"):
        field.truth_of(bare)


def test_written_field_is_read_by_astropy(field, tmp_path):
    path = tmp_path / "field.fits"
    field.write(path)
    image = CCDData.read(path, hdu="SCI", hdu_uncertainty="ERR", hdu_mask="MASK")
    np.testing.assert_array_equal(image.data, field.image.data)
    assert image.unit == u.uJy
    with fits.open(path, checksum=True) as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus[1:]] == ["SCI", "ERR", "MASK", "PSF", "TRUTH"]
        np.testing.assert_array_equal(hdus["MASK"].data != 0, field.image.mask)
        np.testing.assert_array_equal(hdus["ERR"].data, field.image.uncertainty.array)
        np.testing.assert_array_equal(hdus["PSF"].data, field.psf)
        wcs = WCS(hdus["SCI"].header)
    table = QTable.read(path, hdu="TRUTH")
    position = SkyCoord(table["ra"], table["dec"])
    x, y = wcs.world_to_pixel(position)
    np.testing.assert_allclose(x, table["x"], atol=1e-5)
    np.testing.assert_allclose(y, table["y"], atol=1e-5)
    assert table["flux"].unit == u.uJy
    with pytest.raises(InputError, match="existing file"):
        field.write(path)
