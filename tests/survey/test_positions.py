import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.utils.masked import Masked
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


IDS = [169830580431093809, 1237649770260463687, 2**63 - 1]


@pytest.mark.parametrize(
    ("name", "column", "expected"),
    [
        ("objectId", IDS, None),
        ("COADD_OBJECT_ID", np.array(IDS, dtype=np.uint64) + 5, [i + 5 for i in IDS]),
        ("TARGETID", IDS, None),
        ("SourceID", [f"Euclid J{i}" for i in range(3)], None),
        ("my_survey_id", ["00120", "0 1", "-3"], None),
        ("id", ["αβγ", "星", "é"], None),
        ("id", [b"a", "é".encode(), b"\xe8"], ["a", "é", "è"]),
        ("id", np.ma.array([b"a", b"\xe8", b"c"], mask=[0, 0, 1]), ["a", "è", "row-2"]),
        ("id", np.array([3.0, 1.0, 2.0]), ["3", "1", "2"]),
        ("id", np.ma.array(["a", "b", "c"], mask=[0, 0, 1]), ["a", "b", "row-2"]),
        ("id", np.ma.array(IDS, mask=[0, 0, 0]), IDS),
    ],
)
def test_names_of_rows_stay_what_they_are(wcs, name, column, expected):
    table = Table({"mag": [1, 1, 1], name: column, "RA": RA, "DEC": DEC})
    expected = column if expected is None else expected
    assert read_positions(table, wcs)["id"].tolist() == [str(one) for one in expected]


def test_which_column_names_the_rows(wcs, caplog):
    table = Table({"field_id": [7, 7, 7], "name": ["x", "x", "y"], "gal": [1, 2, 3],
                   "hsc_id": [4, 5, 6], "ra": RA, "dec": DEC})  # fmt: skip
    assert read_positions(table, wcs)["id"].tolist() == ["4", "5", "6"]
    assert read_positions(table, wcs, id_column="gal")["id"].tolist() == ["1", "2", "3"]
    with pytest.raises(InputError, match="column 'name': found x more than once"):
        read_positions(table, wcs, id_column="name")
    with pytest.raises(InputError, match=r"id_column: found columns .*, expected none"):
        read_positions(table, wcs, id_column="none")
    assert not caplog.text
    assert read_positions(table[["ra", "dec"]], wcs)["id"].tolist() == ["0", "1", "2"]
    assert "found no column of names in ra, dec; the rows are numbered" in caplog.text


def test_text_keeps_the_zeros_and_digits_of_names(tmp_path, wcs):
    for ending, separator in (("csv", ","), ("tsv", "\t"), ("txt", " ")):
        path = tmp_path / f"catalog.{ending}"
        names = ["00120", "00121", "98765432109876543210"]
        rows = [
            ["objid", "ra", "dec"],
            *([n, str(r), str(d)] for n, r, d in zip(names, RA, DEC, strict=True)),
        ]
        path.write_text("\n".join(separator.join(row) for row in rows))
        found = read_positions(path, wcs)
        assert found["id"].tolist() == names
        assert_allclose(found["sky_centroid"].ra.deg, RA)


def test_catalogs_of_programs(tmp_path, wcs):
    """SExtractor's ASCII_HEAD and FITS_LDAC, and other ASCII."""
    table = Table({"NUMBER": [11, 12, 13], "ALPHA_J2000": RA, "DELTA_J2000": DEC})
    paths = [tmp_path / name for name in ("s.cat", "c.txt", "c.dat", "c.tsv", "ldac.cat")]
    rows = "".join(f"{i} {r:.7f} {d:.7f}\n" for i, r, d in table)
    paths[0].write_text(
        "#   1 NUMBER        Running object number\n"
        "#   2 ALPHA_J2000   Right ascension  [deg]\n"
        "#   3 DELTA_J2000   Declination      [deg]\n" + rows
    )
    table.write(paths[1], format="ascii.commented_header")
    table.write(paths[2], format="ascii.basic")
    table.write(paths[3], format="ascii.tab")
    head = fits.Column("Field Header Card", "80A", array=np.array(["SIMPLE  = T"]))
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU.from_columns([head], name="LDAC_IMHEAD"),
            fits.BinTableHDU(table, name="LDAC_OBJECTS")]  # fmt: skip
    fits.HDUList(hdus).writeto(paths[4])
    for path in paths:
        found = read_positions(path, wcs)
        assert found["id"].tolist() == ["11", "12", "13"]
        assert_allclose(found["sky_centroid"].ra.deg, RA, atol=1e-6)
    named = read_positions(paths[2], wcs, format="ascii.basic")
    assert_allclose(named["x"], found["x"], atol=1e-2)


@pytest.mark.parametrize(
    ("ra", "dec"),
    [
        (["10:00:00", "10:00:00.24", "09:59:59.52"], ["+02:00:00", "02:00:03.6", "+01 59 56.4"]),
        (["10h00m00s", "150.001d", "149.998"], ["2d00m00s", "2.001", " 1.999 "]),
        (RA / 15 * u.hour, DEC * u.deg),
        (RA / 15 * u.hourangle, (DEC * u.deg).to(u.rad)),
        ((RA * u.deg).to(u.arcsec), DEC * u.deg),
    ],
)
def test_coordinates_in_other_notations(wcs, ra, dec):
    found = read_positions(Table({"id": [1, 2, 3], "ra": ra, "dec": dec}), wcs)
    assert_allclose(found["sky_centroid"].ra.deg, RA, atol=1e-7)
    assert_allclose(found["sky_centroid"].dec.deg, DEC, atol=1e-7)


def test_columns_of_hours_minutes_and_seconds(wcs):
    """As the CDS has them: the sign apart, since that of -0 degrees is in no number."""
    table = Table({"Name": ["a"], "RAh": [10], "RAm": [0], "RAs": [0.24], "DE-": ["-"],
                   "DEd": [0], "DEm": [0], "DEs": [36.0]})  # fmt: skip
    before = list(table.colnames)
    sky = read_positions(table, wcs)["sky_centroid"]
    assert_allclose([sky.ra.deg[0], sky.dec.deg[0]], [150.001, -0.01], atol=1e-9)
    assert table.colnames == before


def test_single_precision_is_told(wcs, caplog):
    table = Table({"id": [1], "ra": np.float32([150.001]), "dec": np.float32([2.0])})
    there = read_positions(table, wcs)["sky_centroid"][0]
    assert 0 < there.separation(SkyCoord(150.001, 2, unit="deg")) < 0.05 * u.arcsec
    assert "column 'ra': single precision, good to some 0.05 arcsec" in caplog.text


def test_files_that_need_a_second_look(tmp_path, wcs):
    """Semicolons; units in names; of several tables, one with positions, however short."""
    (tmp_path / "a.csv").write_text("id;RA (deg);Dec [deg]\n007;150.0;2.0\n008;150.001;2.001\n")
    table = Table({"id": ["007", "008"], "RA": RA[:2], "DEC": DEC[:2]})
    hdus = [
        fits.PrimaryHDU(),
        fits.BinTableHDU(Table({"x": [1, 2, 3, 4]})),
        fits.BinTableHDU(table),
    ]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    for name in ("a.csv", "a.fits"):
        found = read_positions(tmp_path / name, wcs)
        assert found["id"].tolist() == ["007", "008"]
        assert_allclose(found["sky_centroid"].ra.deg, [150.0, 150.001])


def test_radians_without_a_unit(wcs, caplog):
    """Those of the LSST pipelines, told by where they lead."""
    caplog.set_level("INFO", logger="astro_ddprism")
    for unit, factor in (("rad", np.pi / 180), ("deg", 1)):
        table = Table({"objectId": [1, 2, 3], "coord_ra": RA * factor, "coord_dec": DEC * factor})
        assert_allclose(read_positions(table, wcs)["sky_centroid"].ra.deg, RA)
        assert f"coord_ra and coord_dec are in {unit}" in caplog.text
    table["coord_dec"] -= 60
    with pytest.raises(InputError, match=r"coord_ra and coord_dec without a unit.*no place near"):
        read_positions(table, wcs)


def test_rows_without_a_position_are_not_on_the_image(wcs, caplog):
    sky = SkyCoord(*(Masked(axis * u.deg, mask=[0, 1, 0]) for axis in (RA, DEC)))
    masked = QTable({"id": ["a", "b", "c"], "sky": sky})
    missing = Table({"id": ["a", "b", "c"], "ra": np.where([0, 1, 0], np.nan, RA), "dec": DEC})
    text = Table(
        {"id": ["a", "b", "c"], "ra": ["10:00:00", "--", "149.998"], "dec": ["2", "", "1.999"]}
    )
    filled = Table({"id": ["a", "b", "c"], **{
        name: np.where([0, 1, 0], -999, axis) for name, axis in (("ra", RA), ("dec", DEC))
    }})  # fmt: skip
    for table in (masked, missing, text, filled):
        found = read_positions(table, wcs)
        assert found["id"].tolist() == ["a", "b", "c"]
        assert np.isnan(found["x"]).tolist() == [False, True, False]
        assert_allclose(
            found["x"][[0, 2]],
            wcs.world_to_pixel(SkyCoord(RA, DEC, unit="deg"))[0][[0, 2]],
            atol=1e-3,
        )
    assert "found no position in 1 rows" in caplog.text


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (Table({"x": [1.0]}), "found columns x, expected a SkyCoord or RA and Dec"),
        (Table({"ra": [1.0]}), "found columns ra"),
        (Table({"ra": [], "dec": []}), "found no rows"),
        (Table({"ra": [np.nan], "dec": [1.0]}), "column 'ra': found no finite number in any"),
        (
            Table({"ra": ["ten"], "dec": ["2"]}),
            "column 'ra': found 'ten' in row 0, expected degrees",
        ),
        (Table({"ra": [1.0], "dec": [95.0]}), "declinations from 95 to 95, expected degrees"),
        (QTable({"ra": [1.0] * u.m, "dec": [9.0] * u.deg}), "found the unit m, expected an angle"),
        (
            QTable({"c": SkyCoord([np.nan], [0], unit="deg")}),
            "column 'c': found no finite number in any row",
        ),
        ([1, 2], "found list, expected a table"),
        (
            Table({"ra": [1.0, 2, 3], "dec": [2.0, 3, 4], "id": ["a", "b", "a"]}),
            "column 'id': found a more than once, expected a name of its own for each row",
        ),
        (
            Table({"ra": [1.0], "dec": [2.0], "id": [1e18]}),
            "column 'id': found numbers of floating point beyond 2",
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
    with pytest.raises(
        InputError, match=r"catalog.ecsv: found a file that is damaged or something else"
    ):
        read_positions(path, wcs)
