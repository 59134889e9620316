"""Surveys of tiles that overlap: every object once, and nothing is made twice."""

import json

import distributed
import numpy as np
import pyarrow.dataset
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table

from astro_ddprism import (
    GaussianSourceSeparator,
    InputError,
    MultiViewDataset,
    Tile,
    separate_tiles,
)
from astro_ddprism.separator import many, workers
from astro_ddprism.separator.merge import BORDER, read_parquet
from astro_ddprism.simulate.population import simulate_field
from astro_ddprism.survey.footprints import Footprint

SIDE, STEP = 128, 80
OPTIONS = {"psf_fwhm": 0.85, "detection": {"reject_stars": False, "min_snr": 8}, "n_samples": 2}
RUN = {"progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """Four tiles of a field, and a model of it."""
    folder = tmp_path_factory.mktemp("survey")
    field = simulate_field((SIDE + STEP, SIDE + STEP), seed=5, star_density=0.5 / u.arcmin**2)
    field.image.write(folder / "field.fits")
    for i in range(2):
        for j in range(2):
            rows, columns = (slice(k * STEP, k * STEP + SIDE) for k in (i, j))
            field.image[rows, columns].write(folder / f"t{i}{j}.fits")
    views = MultiViewDataset.from_image(
        folder / "field.fits", size=8, n_random=40, psf_fwhm=0.85, detection=OPTIONS["detection"]
    )
    separator = GaussianSourceSeparator(
        device="cpu", progress=False, warm_start={"name": "gaussian", "iterations": 2, "rank": 4}
    )
    separator.fit(views).write(folder / "model.asdf")
    return folder


def tiles_of(sky):
    return sorted(sky.glob("t??.fits"))


@pytest.fixture(scope="module")
def done(sky, tmp_path_factory):
    """A run in this process: its folder and its records."""
    folder = tmp_path_factory.mktemp("done")
    records = separate_tiles(
        tiles_of(sky), sky / "model.asdf", folder, n_workers=0, **OPTIONS, **RUN
    )
    return folder, records


def catalog_of(folder):
    """The whole data set by what reads Parquet, without this package."""
    data = pyarrow.dataset.dataset(folder / "catalog", partitioning="hive").to_table()
    table = Table({name: np.asarray(data[name].to_pylist()) for name in data.column_names})
    table.sort("id")
    return table


def assert_same(first, second):
    assert first.colnames == second.colnames
    for name in first.colnames:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_every_object_comes_out_once_from_where_it_lies_deepest(sky, done):
    folder, records = done
    assert [(r.name, r.status) for r in records] == [
        (f"t{i}{j}", "done") for i in "01" for j in "01"
    ]
    catalog = catalog_of(folder)
    assert len(catalog) == sum(record.counts["published"] for record in records) > 20
    where = SkyCoord(catalog["ra"], catalog["dec"], unit="deg")
    _, apart, _ = where.match_to_catalog_sky(where, nthneighbor=2)
    # Two objects of one tile may be near; two tiles have none in common.
    near = where.search_around_sky(where, 1.5 * u.arcsec)
    tiles = np.asarray(catalog["tile"])
    assert all(tiles[i] == tiles[j] for i, j in zip(*near[:2], strict=True))
    depths = np.array([Footprint.of([(path, {})]).depth(where) for path in tiles_of(sky)])
    assert (depths.max(axis=0) - catalog["depth"] < BORDER).all()
    # What the whole field shows, but for what is told otherwise on a tile.
    whole = MultiViewDataset.from_image(
        sky / "field.fits", size=8, n_random=0, psf_fwhm=0.85, detection=OPTIONS["detection"]
    )["galaxy"]
    _, apart, _ = whole.coordinates.match_to_catalog_sky(where)
    assert np.mean(apart < 0.5 * u.arcsec) > 0.9


def test_files_that_others_read(done):
    folder, records = done
    table = read_parquet(folder / "catalog" / "tile=t00" / "part-0.parquet")
    assert table["galaxy_flux"].unit == u.uJy
    assert {"id", "ra", "dec", "flags", "chi2", "depth", "galaxy_mag"} <= set(table.colnames)
    assert all(name.startswith("t00-") for name in table["id"])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [tile["name"] for tile in manifest["tiles"]] == [record.name for record in records]
    for kind in ("times", "processor_times"):
        assert set(manifest["tiles"][0][kind]) == {
            "reading", "detection", "cutting out", "sampling", "photometry", "writing", "rest"
        }  # fmt: skip
    assert len(manifest["model"]) == len(manifest["tiles"][0]["files"][0][2]) == 64
    assert not list((folder / "products").iterdir())


def test_only_what_is_missing_or_changed_is_made(sky, tmp_path, monkeypatch):
    made, work = [], many._separate_tile

    def counted(task, worker):
        made.append(task.tile.name)
        return work(task, worker)

    monkeypatch.setattr(many, "_separate_tile", counted)
    tiles = [tmp_path / path.name for path in tiles_of(sky)[:2]]
    for path in tiles:
        path.write_bytes((sky / path.name).read_bytes())
    out = tmp_path / "out"

    def run(**options):
        made.clear()
        options = {**OPTIONS, **RUN, "n_workers": 0, **options}
        records = separate_tiles(tiles, sky / "model.asdf", out, **options)
        return made[:], [record.status for record in records], catalog_of(out)

    names, status, first = run()
    assert (names, status) == (["t00", "t01"], ["done", "done"])
    assert run()[0] == []
    (out / "tiles" / "t00.parquet").unlink()
    names, _, again = run()
    assert names == ["t00"]
    assert_same(first, again)
    # One that is damaged fails alone, its objects are gone, and it is made once it is whole again.
    content = tiles[1].read_bytes()
    tiles[1].write_bytes(content[:5000])
    names, status, left = run()
    # What it shared with the other is the other's now.
    assert (names, status) == (["t00"], ["done", "failed"])
    assert set(left["tile"]) == {"t00"}
    assert "t01.fits: the file is truncated" in (out / "manifest.json").read_text()
    tiles[1].write_bytes(content)
    names, status, again = run()
    assert (names, status) == (["t00", "t01"], ["done", "done"])
    assert_same(first, again)
    assert run(n_samples=3)[0] == ["t00", "t01"]
    names, _, _ = run(n_samples=3, products=True)
    assert names == ["t00", "t01"]
    assert fits.getheader(out / "products" / "t01.fits")["NSAMPLES"] == 3


def test_a_tile_without_galaxies_is_done(sky, tmp_path):
    """Noise alone, and a tile whose pixels are all masked; what an earlier run has left goes."""
    with fits.open(tiles_of(sky)[0]) as hdus:
        noise = np.random.default_rng(1).normal(0, hdus[1].data.mean(), hdus[0].shape)
        hdus[0].data = noise.astype(hdus[0].data.dtype)
        hdus.writeto(tmp_path / "noise.fits")
        hdus["MASK"].data[:] = 1
        hdus.writeto(tmp_path / "masked.fits")
    tiles = [tmp_path / "noise.fits", tmp_path / "masked.fits", tiles_of(sky)[3]]
    run = {**OPTIONS, **RUN, "n_workers": 0, "products": True}
    (tmp_path / "out" / "products").mkdir(parents=True)
    (tmp_path / "out" / "products" / "noise.fits").write_bytes(b"old")
    records = separate_tiles(tiles, sky / "model.asdf", tmp_path / "out", **run)
    assert [record.status for record in records] == ["done"] * 3
    assert [record.counts["published"] for record in records[:2]] == [0, 0]
    assert all(record.message.startswith("nothing to separate: ") for record in records[:2])
    assert "all pixels are masked" in records[1].message
    assert set(catalog_of(tmp_path / "out")["tile"]) == {"t11"}
    assert [path.name for path in (tmp_path / "out" / "products").iterdir()] == ["t11.fits"]


def test_workers_make_the_same(sky, done, tmp_path):
    """Of a scheduler that is running, here in threads."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        separate_tiles(
            tiles_of(sky), sky / "model.asdf", tmp_path, scheduler=address, **OPTIONS, **RUN
        )
    assert_same(catalog_of(tmp_path), catalog_of(done[0]))


def test_positions_of_a_catalog(sky, done, tmp_path):
    """Each is separated in the tile in which it lies deepest, under its own name."""
    whole = catalog_of(done[0])
    table = Table(
        {"id": [f"g{i}" for i in range(len(whole))], "ra": whole["ra"], "dec": whole["dec"]}
    )
    table.write(tmp_path / "positions.ecsv")
    options = {**OPTIONS, **RUN, "positions": str(tmp_path / "positions.ecsv"), "n_workers": 0}
    separate_tiles(tiles_of(sky), sky / "model.asdf", tmp_path / "out", **options)
    found = catalog_of(tmp_path / "out")["id"].tolist()
    lost = set(table["id"]) - set(found)
    assert len(set(found)) == len(found)
    assert len(lost) < 0.1 * len(whole)  # those that are masked


def test_what_is_refused(sky, tmp_path, monkeypatch):
    model, image = sky / "model.asdf", tiles_of(sky)[0]
    for tiles, message in (
        ([], "expected a name of its own"),
        ([image, image], "found 2 with 1 names"),
        ([Tile("a/b", (image,))], "found the name 'a/b'"),
    ):
        with pytest.raises(InputError, match=message):
            separate_tiles(tiles, model, tmp_path, **RUN)
    with pytest.raises(InputError, match="scheduler: found none at 'nonsense://x'"):
        separate_tiles([image], model, tmp_path, scheduler="nonsense://x", **OPTIONS, **RUN)
    monkeypatch.setattr(workers, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'astro-ddprism\[survey\]'"):
        separate_tiles([image], model, tmp_path, n_workers=2, **OPTIONS, **RUN)
    monkeypatch.setattr("astro_ddprism.separator.merge.pa", None)
    with pytest.raises(InputError, match="pyarrow: found none"):
        separate_tiles([image], model, tmp_path, n_workers=0, **OPTIONS, **RUN)
