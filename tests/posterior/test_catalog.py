import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable
from astropy.units import photometric
from astropy.wcs import WCS
from scipy.stats import norm

from astro_ddprism import PosteriorSamples, View
from astro_ddprism.errors import InputError
from astro_ddprism.mixing import Identity
from astro_ddprism.posterior.catalog import sources_of_interest, statistics
from astro_ddprism.posterior.product import plain_catalog
from astro_ddprism.posterior.quality import Quality

SIZE, SCALE = 32, 0.2  # pixels, arcsec


def sky_wcs(angle, flipped=False, stretch=1.0):
    """North ``angle`` degrees from y towards x (or away from it), around pixel (16, 15)."""
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval, wcs.wcs.crpix = (150.1, 60.0), (17, 16)
    east = 1 if flipped else -1  # along x, for north up
    wcs.wcs.cd = np.array([[east * cos, -east * sin], [sin, cos]]) @ np.diag([1, stretch])
    wcs.wcs.cd *= SCALE / 3600
    wcs.wcs.set()
    return wcs


def on_the_sky(wcs, a, b, position_angle, east=0.0, north=0.0, flux=1.0):
    """An elliptical Gaussian given in arcseconds and from north through east."""
    y, x = np.mgrid[:SIZE, :SIZE]
    middle = SkyCoord(150.1 * u.deg, 60 * u.deg)
    offsets = middle.spherical_offsets_to(wcs.pixel_to_world(x, y))
    dx, dy = (angle.to_value(u.arcsec) for angle in offsets)
    dx, dy = dx - east, dy - north
    angle = np.deg2rad(position_angle)
    along, across = np.sin(angle) * dx + np.cos(angle) * dy, np.cos(angle) * dx - np.sin(angle) * dy
    image = np.exp(-((along / a) ** 2 + (across / b) ** 2) / 2)
    return flux * image / image.sum()


def samples_of(draws, unit="uJy", variance=1e-4, **options):
    """Posterior samples (S, N, bands, ny, nx) of a galaxy, observed as they are on average."""
    shape = draws.shape[2:]
    view = View(draws.mean(axis=0), variance=variance, unit=unit,
                mixing={"galaxy": Identity(shape)}, **options)  # fmt: skip
    return PosteriorSamples({"galaxy": draws}, view)


def scattered(flux, n_samples=400, seed=0, blob=None):
    """Samples of one blob with Gaussian fluxes of a mean and a standard deviation of 1."""
    y, x = np.mgrid[:SIZE, :SIZE]
    blob = np.exp(-((x - 16) ** 2 + (y - 16) ** 2) / 18) if blob is None else blob
    fluxes = np.random.default_rng(seed).normal(flux, 1, (n_samples, 1, 1, 1, 1))
    return fluxes * blob / blob.sum(), fluxes.ravel()


# --- statistics ----------------------------------------


def test_statistics_of_known_scatter():
    values = np.random.default_rng(0).normal(3, 2, (4000, 5))
    found = statistics(values, {"p16": 0.16, "p975": 0.975})
    np.testing.assert_allclose(found[""], 3, atol=0.15)
    np.testing.assert_allclose(found["error"], 2, rtol=0.05)
    np.testing.assert_allclose(found["p16"], 3 + 2 * norm.ppf(0.16), atol=0.2)
    np.testing.assert_allclose(found["p975"], 3 + 2 * norm.ppf(0.975), atol=0.3)


def test_statistics_leave_out_what_is_not_there():
    values = np.random.default_rng(1).normal(size=(9, 6))
    values[0, 0] = values[2:5, 1] = values[1:, 2] = values[:, 3] = np.nan
    found = statistics(values, {"p16": 0.16, "p84": 0.84})
    for i in (0, 1, 2, 4, 5):
        there = values[np.isfinite(values[:, i]), i]
        assert found[""][i] == pytest.approx(there.mean())
        if len(there) == 1:  # one value tells nothing of a spread
            assert np.isnan([found[name][i] for name in ("error", "p16", "p84")]).all()
            continue
        assert found["error"][i] == pytest.approx(there.std(ddof=1))
        expected = np.quantile(there, [0.16, 0.84], method="weibull")
        assert [found["p16"][i], found["p84"][i]] == pytest.approx(expected.tolist())
    assert np.isnan(found["error"][2])
    assert all(np.isnan(column[3]) for column in found.values())


# --- fluxes and magnitudes ----------------------------------------


def test_fluxes_and_magnitudes_of_known_scatter():
    draws, fluxes = scattered(20.0)
    row = samples_of(draws).catalog(aperture=3.0)[0]
    assert row["galaxy_flux"].to_value(u.uJy) == pytest.approx(fluxes.mean())
    assert row["galaxy_flux_error"].to_value(u.uJy) == pytest.approx(fluxes.std(ddof=1))
    for ending, p in (("p025", 0.025), ("p16", 0.16), ("p50", 0.5), ("p84", 0.84), ("p975", 0.975)):
        expected = np.quantile(fluxes, p, method="weibull")
        assert row[f"galaxy_flux_{ending}"].value == pytest.approx(expected)
        if ending in ("p16", "p50", "p84"):
            bright = np.quantile(fluxes, 1 - p, method="weibull") * u.uJy
            assert row[f"galaxy_mag_{ending}"].value == pytest.approx(bright.to_value(u.ABmag))
    magnitudes = (fluxes * u.uJy).to_value(u.ABmag)
    assert row["galaxy_mag"].unit == u.ABmag
    assert row["galaxy_mag"].value == pytest.approx(magnitudes.mean())
    assert row["galaxy_mag_error"].to_value(u.mag) == pytest.approx(magnitudes.std(ddof=1))
    # To first order, a relative error of 5 %.
    assert row["galaxy_mag_error"].value == pytest.approx(2.5 / np.log(10) / 20, rel=0.1)
    share = (row["galaxy_aperture_flux"] / row["galaxy_flux"]).to_value(u.one)
    assert share == pytest.approx(1 - np.exp(-9 / 18), rel=0.02)
    difference = row["galaxy_aperture_mag"].value - row["galaxy_mag"].value
    assert difference == pytest.approx(-2.5 * np.log10(share), abs=1e-6)


def test_magnitudes_of_what_may_not_be_there():
    draws, fluxes = scattered(0.3)
    assert (fluxes < 0).any()
    row = samples_of(draws).catalog()[0]
    assert row["galaxy_flux"].value == pytest.approx(fluxes.mean())
    assert np.isnan(row["galaxy_mag"].value)
    assert np.isnan(row["galaxy_mag_error"].value)
    assert row["galaxy_mag_p84"].value == np.inf
    limit = (np.quantile(fluxes, 0.84, method="weibull") * u.uJy).to_value(u.ABmag)
    assert row["galaxy_mag_p16"].value == pytest.approx(limit)
    assert row["galaxy_defined_fraction"] == np.mean(fluxes > 0)
    assert row["flags"] & Quality.UNDEFINED
    # Shapes are those of the samples that have one.
    assert row["galaxy_x_centroid"].to_value(u.pix) == pytest.approx(16, abs=1e-3)


def test_no_light_at_all():
    row = samples_of(-scattered(20.0, 4)[0]).catalog()[0]
    assert row["galaxy_flux"].value == pytest.approx(-20, abs=2)
    for name in ("x_centroid", "half_light_radius", "ellipticity", "orientation_p50"):
        assert np.isnan(row[f"galaxy_{name}"])
    assert row["galaxy_mag_p16"].value == row["galaxy_mag_p50"].value == np.inf
    assert row["galaxy_defined_fraction"] == 0


@pytest.mark.parametrize(
    ("unit", "zero_point", "expected", "expected_unit"),
    [
        ("nJy", None, 31.4 - 2.5, u.ABmag),
        (photometric.nmgy, None, 22.5 - 2.5, u.ABmag),
        (photometric.AB, None, -2.5, u.ABmag),
        ("adu", 27, 24.5, u.mag),
        ("", 25 * u.STmag, 22.5, u.STmag),
        ("nJy", 30 * u.mag, 27.5, u.mag),
    ],
)
def test_zero_points(unit, zero_point, expected, expected_unit):
    samples = samples_of(scattered(0, 2)[0] * 0 + 10 / SIZE**2, unit=unit)
    catalog = samples.catalog(zero_point=zero_point)
    assert catalog["galaxy_mag"].unit == expected_unit
    assert catalog["galaxy_mag"][0].value == pytest.approx(expected, abs=1e-4)
    assert catalog.meta["zero_point"].startswith(f"{expected + 2.5:.3g}")


def test_fluxes_without_a_zero_point_have_no_magnitudes():
    catalog = samples_of(scattered(20, 3)[0], unit="adu").catalog()
    assert not [name for name in catalog.colnames if "mag" in name]
    assert "zero_point" not in catalog.meta
    for zero_point in (3 * u.Jy, [1, 2], np.nan):
        with pytest.raises(InputError, match="zero_point: found"):
            samples_of(scattered(20, 3)[0]).catalog(zero_point=zero_point)


# --- places and shapes ----------------------------------------


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(("angle", "stretch"), [(0.0, 1.0), (130.0, 1.0), (-25.0, 1.3)])
def test_places_and_shapes_on_the_sky(flipped, angle, stretch):
    wcs = sky_wcs(angle, flipped, stretch)
    blob = on_the_sky(wcs, 0.8, 0.5, 155.0, east=0.23, north=-0.11, flux=5.0)
    middle = SkyCoord([150.1] * u.deg, [60] * u.deg)
    samples = samples_of(np.stack([blob, 2 * blob])[:, None, None], wcs=[wcs], coordinates=middle)
    row = samples.catalog(aperture=1 * u.arcsec)[0]
    true_place = middle[0].spherical_offsets_by(0.23 * u.arcsec, -0.11 * u.arcsec)
    assert row["galaxy_sky_centroid"].separation(true_place) < 1e-3 * SCALE * u.arcsec
    x, y = (row[f"galaxy_{axis}_centroid"].value for axis in "xy")
    assert wcs.pixel_to_world(x, y).separation(true_place) < 1e-3 * SCALE * u.arcsec
    assert row["galaxy_position_angle"].to_value(u.deg) == pytest.approx(155, abs=0.3)
    assert row["galaxy_ellipticity"] == pytest.approx(1 - 0.5 / 0.8, abs=1e-2)
    assert "galaxy_orientation" not in row.colnames
    sky, pixels = row["galaxy_half_light_radius_sky"], row["galaxy_half_light_radius"]
    pixel = SCALE * np.sqrt(stretch) * u.arcsec / u.pix
    assert (sky / (pixels * pixel)).to_value(u.one) == pytest.approx(1, rel=1e-5)
    # Growth in circles of an elliptical Gaussian lies between those of its two axes.
    assert 0.5 < sky.to_value(u.arcsec) / np.sqrt(2 * np.log(2)) < 0.8


def test_half_light_radius_on_the_sky():
    wcs = sky_wcs(40)
    blob = on_the_sky(wcs, 0.6, 0.6, 0)[None, None, None]
    middle = SkyCoord([150.1] * u.deg, [60] * u.deg)
    catalog = samples_of(blob, wcs=[wcs], coordinates=middle).catalog()
    expected = np.sqrt(2 * np.log(2) * (0.6**2 + SCALE**2 / 12))
    found = catalog["galaxy_half_light_radius_sky"][0].to_value(u.arcsec)
    assert found == pytest.approx(expected, rel=5e-3)


def test_scatter_of_places_in_pixels_and_on_the_sky():
    wcs, rng = sky_wcs(0), np.random.default_rng(0)
    shifts = rng.normal(0, [0.08, 0.04], (200, 2))  # arcsec, to the east and to the north
    draws = np.stack([on_the_sky(wcs, 0.6, 0.6, 0, *shift) for shift in shifts])[:, None, None]
    middle = SkyCoord([150.1] * u.deg, [60] * u.deg)
    row = samples_of(draws, wcs=[wcs], coordinates=middle).catalog()[0]
    east, north = shifts.std(axis=0, ddof=1)
    assert row["galaxy_ra_error"].to_value(u.arcsec) == pytest.approx(east, rel=1e-2)
    assert row["galaxy_dec_error"].to_value(u.arcsec) == pytest.approx(north, rel=1e-2)
    assert row["galaxy_x_centroid_error"].to_value(u.pix) == pytest.approx(east / SCALE, rel=1e-2)
    high = np.quantile(shifts[:, 1] / SCALE + 15, 0.84, method="weibull")
    assert row["galaxy_y_centroid_p84"].to_value(u.pix) == pytest.approx(high, abs=5e-3)


def test_position_angles_near_their_end():
    """Angles of 175 and 5 degrees have a mean of 0 and a scatter of 5, not of 85."""
    wcs = sky_wcs(20)
    angles = np.array([172, 176, 178, 1, 3, 5, 7])
    draws = np.stack([on_the_sky(wcs, 0.9, 0.5, a) for a in angles])[:, None, None]
    row = samples_of(draws, wcs=[wcs]).catalog()[0]
    unwrapped = np.where(angles > 90, angles - 180, angles)
    mean = row["galaxy_position_angle"].to_value(u.deg)
    assert (mean - unwrapped.mean() + 90) % 180 == pytest.approx(90, abs=0.2)
    error = row["galaxy_position_angle_error"].to_value(u.deg)
    assert error == pytest.approx(unwrapped.std(ddof=1), rel=0.02)
    low, high = (row[f"galaxy_position_angle_{p}"].to_value(u.deg) for p in ("p16", "p84"))
    assert high - low == pytest.approx(
        np.subtract(*np.quantile(unwrapped, [0.84, 0.16], method="weibull")), rel=0.02
    )


def test_without_a_wcs_all_is_in_pixels():
    y, x = np.mgrid[:SIZE, :SIZE] - 16
    blob = np.exp(-(((x + y) / 4) ** 2 + ((x - y) / 3) ** 2) / 2)
    catalog = samples_of(blob[None, None, None]).catalog()
    assert catalog["galaxy_orientation"][0].to_value(u.deg) == pytest.approx(45, abs=0.2)
    names = ("sky", "ra_error", "position_angle")
    assert not [name for name in catalog.colnames if any(word in name for word in names)]


def test_bands_and_single_samples():
    blob = scattered(1, 1)[0][0, 0, 0]
    draws = np.stack([blob, 3 * np.roll(blob, 2, axis=1)])[None, None]
    row = samples_of(draws).catalog(aperture=3)[0]
    assert (row["galaxy_flux_2"] / row["galaxy_flux_1"]).to_value(u.one) == pytest.approx(3)
    moved = row["galaxy_x_centroid_2"] - row["galaxy_x_centroid_1"]
    assert moved.to_value(u.pix) == pytest.approx(2, abs=1e-4)
    assert np.isnan(row["galaxy_flux_error_1"])
    assert np.isnan(row["galaxy_ellipticity_error_2"])
    assert np.isnan([row[f"galaxy_flux_{p}_1"].value for p in ("p16", "p975")]).all()
    assert row["galaxy_defined_fraction_2"] == 1


def test_several_instruments(pairs):
    view, truth = pairs()
    samples = PosteriorSamples({"galaxy": np.stack([truth, 1.1 * truth])}, view)
    catalog = samples.catalog(aperture=0.3 * u.arcsec)
    np.testing.assert_allclose(catalog["galaxy_x_centroid_1"].value, 7.5, atol=1e-3)
    separation = catalog["galaxy_sky_centroid_2"].separation(view.coordinates)
    assert separation.max() < 1e-3 * u.arcsec
    ratio = catalog["galaxy_half_light_radius_sky_1"] / catalog["galaxy_half_light_radius_1"]
    np.testing.assert_allclose(ratio.to_value(u.arcsec / u.pix), 0.1, rtol=1e-5)
    assert not (catalog["flags"] & ~np.int16(Quality.BAD_FIT)).any()


# --- flags ----------------------------------------


def test_each_flag_is_tripped_by_its_own_cause():
    draws = np.repeat(scattered(20.0, 6)[0], 6, axis=1)
    data = draws.mean(axis=0)
    mask = np.zeros(data.shape, dtype=bool)
    mask[1, 0, 14:19, 14:19] = True
    mask[2, 0, :3] = True
    saturated = np.zeros_like(mask)
    saturated[3, 0, 16, 16] = True
    data[4, 0, 5, 5] += 10
    draws[0, 5] *= -1  # negative light in one sample alone
    view = View(data, variance=0.01, unit="uJy", mask=mask, saturated=saturated,
                mixing={"galaxy": Identity((1, SIZE, SIZE))})  # fmt: skip
    samples = PosteriorSamples({"galaxy": draws}, view)
    catalog = samples.catalog(aperture=5.0)
    flags = catalog["flags"]
    saturated = Quality.SATURATED | Quality.MASKED  # what is saturated is masked
    expected = [0, Quality.MASKED, Quality.EDGE, saturated, Quality.BAD_FIT]
    assert flags[:5].tolist() == expected
    assert flags[5] & Quality.UNDEFINED
    assert catalog["galaxy_flags"].tolist() == flags.tolist()
    assert catalog["masked_fraction"][1] == pytest.approx(25 / (np.pi * 25))
    tolerant = samples.catalog(aperture=5.0, max_masked_fraction=0.5)
    assert tolerant["flags"][1] == 0
    assert catalog["galaxy_defined_fraction"][5] == pytest.approx(5 / 6)


def test_flags_of_sources_are_their_own():
    blob = scattered(20.0, 3)[0]
    identity = Identity((1, SIZE, SIZE))
    view = View(np.zeros((1, 1, SIZE, SIZE)), variance=1.0, mixing={"a": identity, "b": identity})
    catalog = PosteriorSamples({"a": blob, "b": -blob}, view).catalog()
    assert catalog["a_flags"] == 0
    assert catalog["b_flags"] == catalog["flags"] == Quality.UNDEFINED


# --- files ----------------------------------------


@pytest.fixture
def catalog():
    wcs = sky_wcs(30)
    middle = SkyCoord([150.1] * u.deg, [60] * u.deg)
    draws = np.repeat(scattered(20.0, 3)[0], 2, axis=2)
    return samples_of(draws, wcs=[wcs], coordinates=middle).catalog(aperture=2.0)


def test_ecsv_keeps_it_as_it_is(catalog, tmp_path):
    catalog.write(tmp_path / "c.ecsv")
    again = QTable.read(tmp_path / "c.ecsv")
    assert again.colnames == catalog.colnames
    assert again["galaxy_mag_1"].unit == u.ABmag
    assert again["galaxy_sky_centroid_2"][0].separation(catalog["galaxy_sky_centroid_2"][0]) == 0
    assert again["flags"].dtype == np.int16


@pytest.mark.parametrize("unit", ["uJy", photometric.nmgy, 3 * u.Jy.si])
def test_units_of_fits_products(unit, tmp_path):
    draws = scattered(20.0, 2)[0]
    unit = u.Unit(unit)
    samples_of(draws, unit=unit).write(tmp_path / "s.fits")
    with fits.open(tmp_path / "s.fits") as hdus:
        hdus.verify("exception")
        columns = hdus["CATALOG"].columns
        assert u.Unit(columns["galaxy_flux"].unit) == unit
        assert columns["galaxy_mag"].unit == "mag"
        assert columns["galaxy_x_centroid"].unit in ("pix", "pixel")
        assert columns["galaxy_ellipticity"].unit is None
        assert u.Unit(hdus["GALAXY_MEAN"].header["BUNIT"]) == unit
        assert "AB" in hdus["CATALOG"].header["ZEROPNT"]
        assert hdus["CATALOG"].data["flags"].dtype.kind == "i"


def test_a_product_takes_a_catalog(tmp_path):
    samples = samples_of(scattered(20.0, 3)[0])
    catalog = samples.catalog(zero_point=10)
    samples.write(tmp_path / "s.fits", catalog=catalog)
    table = QTable.read(tmp_path / "s.fits", hdu="CATALOG")
    assert table["galaxy_mag"][0].value == pytest.approx(catalog["galaxy_mag"][0].value)
    with pytest.raises(InputError, match="aperture: found it beside a catalog"):
        samples.write(tmp_path / "t.fits", catalog=catalog, aperture=3)


def test_sources_that_are_asked_for():
    los, galaxy = scattered(20.0, 3)[0], scattered(30.0, 3)[0]
    view = View(np.zeros((1, *galaxy.shape[2:])), variance=1.0, unit="uJy",
                mixing=dict.fromkeys(("los", "galaxy"), Identity(galaxy.shape[2:])))  # fmt: skip
    samples = PosteriorSamples({"los": los, "galaxy": galaxy}, view)
    first = [name.partition("_")[0] for name in samples.catalog().colnames]
    assert "los" not in first
    assert samples.catalog().meta["sources"] == ["galaxy"]
    both = samples.catalog(sources=("galaxy", "los")).colnames
    assert both.index("galaxy_flux") < both.index("los_flux")
    assert sources_of_interest(view, ["los"]) == ("los",)
    only = View(view.data, variance=1.0, mixing={"los": view.mixing["los"]})
    assert sources_of_interest(only) == ("los",)
    for wrong in ("los", ["los", "star"]):
        with pytest.raises(InputError, match=r"sources: found .*expected some of los, galaxy"):
            samples.catalog(sources=wrong)


def test_very_many_bands_fill_several_tables(monkeypatch, tmp_path):
    monkeypatch.setattr("astro_ddprism.posterior.product.MAX_COLUMNS", 60)
    draws = np.repeat(scattered(20.0, 3)[0], 3, axis=2)
    samples = samples_of(draws, wcs=[sky_wcs(0)])
    samples.write(tmp_path / "s.fits")
    names = []
    with fits.open(tmp_path / "s.fits") as hdus:
        hdus.verify("exception")
        tables = [hdu for hdu in hdus if hdu.name.startswith("CATALOG")]
        assert [hdu.name for hdu in tables] == ["CATALOG", "CATALOG_2", "CATALOG_3"]
        for hdu in tables:
            assert hdu.header["TFIELDS"] <= 60
            assert hdu.columns.names[0] == "id"
            names += hdu.columns.names
        assert {"chi2", "flags", "CRVAL1"} <= set(tables[0].columns.names)
    plain = plain_catalog(samples.catalog()).colnames
    assert set(plain) <= set(names)
