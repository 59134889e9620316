"""Catalogs in files of other programs: what they say of their columns."""

import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.io.votable import parse
from astropy.io.votable.ucd import check_ucd
from astropy.table import QTable

from astro_ddprism import PosteriorSamples, View
from astro_ddprism.errors import InputError
from astro_ddprism.mixing import Identity
from astro_ddprism.posterior.columns import describe
from astro_ddprism.posterior.product import plain_catalog
from astro_ddprism.posterior.tables import CATALOG_ENDINGS, check_catalog_path, write_catalog

SHAPE = (2, 16, 16)


@pytest.fixture(scope="module")
def samples():
    """Two bands, a WCS, and sources whose names begin alike."""
    from tests.conftest import make_wcs

    y, x = np.mgrid[:16, :16] - 8
    light = np.exp(-(x**2 + y**2) / 9) * np.ones(SHAPE)
    wcs = make_wcs((16, 16))
    view = View(
        5 * light * np.ones((3, 1, 1, 1)),
        variance=1.0,
        mixing=dict.fromkeys(("los", "gal", "gal_mag"), Identity(SHAPE)),
        unit="nJy",
        wcs=[wcs] * 3,
        coordinates=wcs.pixel_to_world([8, 8, 8], [8, 8, 8]),
        ids=["a", "b", "ü"],
        name="galaxy",
    )
    scatter = np.random.default_rng(0).normal(1, 0.1, (5, 3, 1, 1, 1))
    return PosteriorSamples(dict.fromkeys(view.sources, scatter * light), view)


@pytest.fixture(scope="module")
def catalog(samples):
    return samples.catalog(2 * u.pix, sources=samples.sources)


def test_every_column_is_described(catalog):
    """With a UCD of the controlled vocabulary where it is physical, which is everywhere."""
    for table in (catalog, plain_catalog(catalog)):
        seen = {}
        for name in table.colnames:
            info = table[name].info
            assert info.description
            assert info.description != name
            assert seen.setdefault(info.description, name) == name
            assert check_ucd(info.meta["ucd"], check_controlled_vocabulary=True)
    described = {name: catalog[name].info.description for name in catalog.colnames}
    assert described["gal_mag_flux_p84_2"] == (
        "gal_mag: total flux in the cutout, band 2, posterior quantile of 0.84"
    )
    assert described["gal_mag_1"] == "gal: magnitude of the total flux, band 1, posterior mean"
    assert catalog["los_flux_error_1"].info.meta["ucd"] == "stat.error;phot.flux"


def test_columns_of_others_keep_their_names():
    table = QTable({"something": [1], "chi2_hst": [1.0], "CRVAL1": [2.0]})
    describe(table, ["galaxy"])
    assert table["something"].info.description == "something"
    assert table["chi2_hst"].info.description.endswith("of the images of hst")
    assert "CRVAL1 of the WCS" in table["CRVAL1"].info.description


@pytest.mark.parametrize("ending", CATALOG_ENDINGS)
def test_what_other_programs_read(catalog, tmp_path, ending):
    if ending == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / f"catalog{ending}"
    write_catalog(catalog, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no UnitsWarning
        if ending == ".parquet":  # astropy would ask for pandas, too
            again = parquet.read_table(path)
            again = QTable({n: again[n].to_pylist() for n in again.column_names})
            meta = parquet.read_schema(path).metadata[b"table_meta_yaml"].decode()
            assert "gal_flux_1" in meta
            assert "nJy" in meta
            assert "gal: total flux in the cutout, band 1, posterior mean" in meta
        else:
            again = QTable.read(path)
    expected = catalog if ending == ".ecsv" else plain_catalog(catalog)
    assert again.colnames == expected.colnames
    assert again["id"].tolist() == ["a", "b", "ü"]
    for name in ("gal_flux_1", "gal_mag_p16_2", "gal_half_light_radius_sky_1"):
        np.testing.assert_allclose(
            getattr(again[name], "value", again[name]), expected[name].value, rtol=1e-12
        )
    if ending not in {".csv", ".fits", ".parquet"}:  # astropy does not read TCOMM
        assert again["gal_flux_1"].info.description == expected["gal_flux_1"].info.description
    if ending not in {".csv", ".parquet"}:
        assert again["gal_flux_1"].unit == u.nJy
    with pytest.raises(InputError, match="existing file"):
        write_catalog(catalog, path)


def test_fits_says_what_it_holds(catalog, samples, tmp_path):
    write_catalog(catalog, tmp_path / "c.fits")
    samples.write(tmp_path / "s.fits", catalog=catalog)
    for name in ("c.fits", "s.fits"):
        with fits.open(tmp_path / name) as hdus:
            hdus.verify("exception")
            header = hdus["CATALOG"].header
            n = 1 + hdus["CATALOG"].columns.names.index("gal_aperture_flux_2")
            assert header[f"TCOMM{n}"] == "gal: flux in the aperture, band 2, posterior mean"
            assert header[f"TUCD{n}"] == "phot.flux;stat.mean"
            assert header["APERTURE"] == "2.0 pix"
            assert all(f"TCOMM{i + 1}" in header for i in range(header["TFIELDS"]))
            frames = header.get("RADESYS"), "RADESYS" in hdus["CATALOG"].columns.names
            assert frames == (("ICRS", False) if name == "c.fits" else (None, True))


def test_votable_says_what_it_holds(catalog, tmp_path):
    write_catalog(catalog, tmp_path / "c.vot")
    votable = parse(tmp_path / "c.vot", verify="exception")
    (table,) = list(votable.iter_tables())
    assert {param.name: param.value for param in table.params}["aperture"] == "2.0 pix"
    fields = {field.name: field for field in table.fields}
    assert fields["ra"].ref == fields["gal_dec_1"].ref == "sky"
    assert fields["ra"].ucd == "pos.eq.ra;meta.main"
    (frame,) = list(votable.iter_coosys())
    assert frame.system == "ICRS"


def test_catalogs_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"c.txt: found the ending '.txt', expected one of .ecsv"):
        check_catalog_path(tmp_path / "c.txt")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match="found no pyarrow, expected it for Parquet"):
        check_catalog_path(tmp_path / "c.parquet")
