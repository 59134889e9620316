import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import QTable, Table
from astropy.wcs import WCS
from numpy.testing import assert_allclose

from astro_ddprism.errors import InputError
from astro_ddprism.survey import read_positions

RA, DEC = np.array([150.0, 150.001, 149.998]), np.array([2.0, 2.001, 1.999])


@pytest.mark.parametrize("ending", ["ecsv", "fits", "csv", "vot"])
def test_any_table_that_astropy_reads(tmp_path, wcs, ending):
    path = tmp_path / f"catalog.{ending}"
    table = Table({"object_id": ["a7", "b", "c"], "RA": RA, "Dec": DEC, "mag": [1.0, 2.0, 3.0]})
    formats = {"vot": "votable", "csv": "ascii.csv", "ecsv": "ascii.ecsv", "fits": "fits"}
    table.write(path, format=formats[ending])
    found = read_positions(path, wcs)
    assert found["id"].tolist() == ["a7", "b", "c"]
    assert_allclose(found["sky_centroid"].ra.deg, RA)
    x, y = wcs.world_to_pixel(SkyCoord(RA, DEC, unit="deg"))
    assert_allclose(found["x"], x)
    assert_allclose(found["y"], y)


def test_columns_in_many_forms(wcs):
    sky = SkyCoord(RA, DEC, unit="deg")
    for table in (
        Table({"ALPHA_J2000": RA, "DELTA_J2000": DEC, "NUMBER": [1, 2, 3]}),
        QTable({"ra": np.radians(RA) * u.rad, "dec": DEC * u.deg, "id": [1, 2, 3]}),
        QTable({"where": sky.galactic, "label": [1, 2, 3]}),
        Table({"RAJ2000": RA, "DEJ2000": DEC, "id": [1, 2, 3]}, masked=True),
    ):
        found = read_positions(table, wcs)
        assert found["id"].tolist() == ["1", "2", "3"]
        assert found["sky_centroid"].icrs.separation(sky).max() < 1e-6 * u.arcsec
        assert_allclose(found["x"], wcs.world_to_pixel(sky)[0], atol=1e-6)
    assert read_positions(sky, wcs)["id"].tolist() == ["0", "1", "2"]


def test_a_frame_of_its_own(wcs):
    galactic = WCS(naxis=2)
    galactic.wcs.ctype = "GLON-CAR", "GLAT-CAR"
    centre = SkyCoord(150, 2, unit="deg").galactic
    galactic.wcs.crval = centre.l.deg, centre.b.deg
    galactic.wcs.cdelt = -1e-4, 1e-4
    galactic.wcs.crpix = 32, 32
    found = read_positions(SkyCoord([150], [2], unit="deg"), galactic)
    assert_allclose([found["x"][0], found["y"][0]], [31, 31], atol=1e-3)


def test_a_position_behind_the_sky_is_off_the_image_and_no_error(wcs):
    found = read_positions(SkyCoord([150, 330], [2, -2], unit="deg"), wcs)
    assert_allclose(found["x"][0], 31.5, atol=1e-6)
    assert np.isnan(found["x"][1])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (Table({"x": [1.0]}), "found columns x, expected a SkyCoord or RA and Dec"),
        (Table({"ra": [1.0]}), "found columns ra"),
        (Table({"ra": [], "dec": []}), "found no rows"),
        (Table({"ra": [np.nan], "dec": [1.0]}), "column 'ra': found no finite number in row 0"),
        (
            Table({"ra": ["10:00:00"], "dec": ["2"]}),
            "column 'ra': found .*10:00:00.*, expected deg",
        ),
        (Table({"ra": [1.0], "dec": [95.0]}), "declinations from 95 to 95, expected degrees"),
        (QTable({"ra": [1.0] * u.m, "dec": [9.0] * u.deg}), "found the unit m, expected an angle"),
        (
            QTable({"c": SkyCoord([np.nan], [0], unit="deg")}),
            "column 'c': found positions that are",
        ),
        ([1, 2], "found list, expected a table"),
        (
            Table({"ra": [1.0, 2], "dec": [2.0, 3], "id": np.ma.array(["a", "b"], mask=[0, 1])}),
            "found rows without an id",
        ),
    ],
)
def test_tables_without_positions(wcs, table, message):
    with pytest.raises(InputError, match=message):
        read_positions(table, wcs)


def test_files_without_positions(tmp_path, wcs):
    path = tmp_path / "catalog.ecsv"
    with pytest.raises(FileNotFoundError, match=r"catalog.ecsv"):
        read_positions(path, wcs)
    path.write_text("nothing\n")
    with pytest.raises(InputError, match=r"catalog.ecsv: no table that astropy reads"):
        read_positions(path, wcs)
