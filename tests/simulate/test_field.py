import dataclasses

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import QTable
from astropy.wcs import WCS
from scipy.stats import kstest

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


def test_same_seed_same_field(field):
    again, other = (simulate_field((300, 320), seed=seed) for seed in (3, 4))
    np.testing.assert_array_equal(again.image.data, field.image.data)
    assert not np.array_equal(other.image.data, field.image.data)


def test_image_is_the_objects_and_the_noise(field):
    image = field.image
    assert image.unit == u.uJy
    assert image.shape == (300, 320)
    sigma = image.uncertainty.array
    residual = ((image.data - field.model) / sigma)[~image.mask]
    # 95,000 pixels: the standard deviation is known to 0.2 %.
    assert residual.std() == pytest.approx(1, abs=0.01)
    assert residual.mean() == pytest.approx(0, abs=0.015)
    total = field.render(np.arange(len(field.catalog)))
    np.testing.assert_allclose(total.value, field.model, rtol=0, atol=1e-9)


def test_total_flux_of_objects_within_half_a_percent(field):
    rows = galaxies(field, margin=-1000, brightest=40)
    image = field.render(rows, -400, -400, (1100, 1120))
    ratio = image.sum() / field.catalog["flux"][rows].sum()
    assert float(ratio) == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize(
    ("kind", "slope", "bright", "faint", "pivot", "density"),
    [("galaxy", 0.37, 17, 27, 24, 12), ("star", 0.10, 15.5, 26, 20, 0.5)],
)
def test_counts_follow_the_slopes(field, kind, slope, bright, faint, pivot, density):
    table = field.catalog
    magnitude = table["magnitude"][table["kind"] == kind].value
    np.testing.assert_allclose(
        table["magnitude"].value, 23.9 - 2.5 * np.log10(table["flux"].to_value(u.uJy))
    )

    def counts(m):
        rate = slope * np.log(10)
        return density / rate * (np.exp(rate * (m - pivot)) - np.exp(rate * (bright - pivot)))

    arcmin2 = 348 * 368 * (0.34 / 60) ** 2  # with the margin of 24 pixels on all sides
    expected = arcmin2 * counts(faint)
    assert len(magnitude) == pytest.approx(expected, abs=4 * np.sqrt(expected))
    assert kstest(magnitude, lambda m: counts(m) / counts(faint)).pvalue > 0.01


def test_position_angle_is_from_north_through_east():
    field = simulate_field((200, 200), seed=0, noise=1e-4 * u.uJy)
    table = field.catalog
    flat = (table["kind"] == "galaxy") & (table["axis_ratio"] < 0.4)
    flat &= table["half_light_radius"] > 0.6 * u.arcsec
    rows = np.flatnonzero(flat)[:5]
    assert len(rows) == 5
    for row in rows:
        x0, y0 = int(table["x"][row]) - 60, int(table["y"][row]) - 60
        image = field.render(row, x0, y0, (121, 121)).value
        image[image < 0.02 * image.max()] = 0
        y, x = np.mgrid[:121, :121]
        x, y = x - table["x"][row] + x0, y - table["y"][row] + y0
        angle = 0.5 * np.arctan2(2 * (image * x * y).sum(), (image * (x**2 - y**2)).sum())
        # East is -x: a position angle grows from +y towards -x.
        difference = np.rad2deg(angle) - 90 - table["position_angle"][row].to_value(u.deg)
        assert (difference + 90) % 180 - 90 == pytest.approx(0, abs=2)


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


def test_saturated_pixels_and_dead_columns_are_masked():
    field = simulate_field((200, 200), seed=1, saturation=1 * u.uJy, n_bad_columns=3)
    image = field.image
    assert image.data.max() <= np.float32(1)
    assert image.mask[image.data >= 1].all()
    assert image.mask.all(axis=0).sum() == 3
    assert (image.data[:, image.mask.all(axis=0)] == 0).all()


def test_fluxes_may_be_in_maggies():
    """A nanomaggie is 3.630780548 microjansky."""
    factor = 3.630780548
    given = {
        "noise": 0.03 * u.uJy,
        "saturation": 1 * u.uJy,
        "effective_gain": 50 * u.electron / u.uJy,
    }
    options = {"n_bad_columns": 0, "seed": 1}
    maggies = {"noise": 0.03 / factor * u.nmgy, "saturation": 1 / factor * u.nmgy,
               "effective_gain": 50 * factor * u.electron / u.nmgy}  # fmt: skip
    one, other = (simulate_field((64, 64), **options, **some) for some in (given, maggies))
    np.testing.assert_allclose(other.image.data, one.image.data, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(other.image.mask, one.image.mask)
    magnitudes = one.catalog["flux"].to_value(u.ABmag)
    np.testing.assert_allclose(one.catalog["magnitude"].value, magnitudes, rtol=1e-12)


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


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"shape": (0, 10)}, "shape"),
        ({"noise": 0 * u.uJy}, "noise"),
        ({"galaxy_magnitudes": (27, 17)}, "magnitudes"),
        ({"fwhm": 0.5}, "fwhm"),
    ],
)
def test_refuses_what_is_no_field(options, culprit):
    with pytest.raises(InputError, match=culprit):
        simulate_field(**{"shape": (32, 32), "seed": 0, **options})


def test_photon_noise(field, tmp_path):
    """Its variance is that of the background and of the counted light."""
    gain = 50 * u.electron / u.uJy
    noisy = simulate_field((300, 320), seed=3, effective_gain=gain, n_bad_columns=0)
    np.testing.assert_array_equal(noisy.model, field.model)
    sigma = noisy.image.uncertainty.array[0, 0]
    assert sigma == field.image.uncertainty.array[0, 0]
    residual = noisy.image.data - noisy.model
    bright = (noisy.model > 0.2) & ~noisy.image.mask
    pull = residual / np.sqrt(sigma**2 + noisy.model / 50)
    n = bright.sum()
    assert n > 500
    # Counts of ten and more: the error of a variance is about sqrt(2 / n).
    assert np.square(pull[bright]).mean() == pytest.approx(1, abs=4 * np.sqrt(2 / n))
    assert np.square(residual[bright] / sigma).mean() > 10
    noisy.write(tmp_path / "field.fits")
    assert fits.getheader(tmp_path / "field.fits", "SCI")["EFFGAIN"] == 50


@pytest.mark.parametrize("gain", [-1 * u.electron / u.uJy, 3.0, 3 * u.electron, [1, 2] / u.uJy])
def test_gains_of_no_camera(gain):
    with pytest.raises(InputError, match=r"effective_gain: .*expected a positive number"):
        simulate_field((64, 64), seed=1, effective_gain=gain)
