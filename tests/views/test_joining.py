"""Views of several tiles as one, and their rows by name."""

import copy
import pickle

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord

from astro_ddprism import MultiViewDataset, View
from astro_ddprism.errors import InputError
from astro_ddprism.frame import SourceFrame
from astro_ddprism.mixing import Convolution, CorrelatedNoise, Identity
from astro_ddprism.views.joining import join_views
from astro_ddprism.views.multi import MultiInstrumentView

SHAPE = (1, 8, 8)


def tile(seed, n=3, *, name="galaxy", psf=None, unit="uJy", noise=None, **options):
    rng = np.random.default_rng(seed)
    where = SkyCoord(150 + rng.uniform(size=n), 2 + rng.uniform(size=n), unit="deg")
    frame = SourceFrame(0.2 * u.arcsec, SHAPE)
    operator = Identity(SHAPE) if psf is None else Convolution(np.ones((1, psf)) / psf, SHAPE)
    if noise is None:
        options["variance"] = rng.uniform(1, 2, (n, *SHAPE))
    else:
        options["noise"] = CorrelatedNoise(np.ones((n, *SHAPE)), [[noise, 1, noise]])
    return View(
        rng.normal(size=(n, *SHAPE)),
        mask=rng.random((n, *SHAPE)) < 0.1,
        unit=unit,
        wcs=[frame.wcs(place) for place in where],
        coordinates=where,
        mixing={"los": operator, "galaxy": operator},
        name=name,
        **options,
    )


def test_rows_are_those_of_each():
    views = [tile(0), tile(1, 2, unit="mgy", psf=3), tile(2, 4, psf=5, noise=0.2)]
    joined = join_views(views, names=["a", "b", "c"])
    assert joined.ids.tolist() == [f"{t}/{i}" for t, n in (("a", 3), ("b", 2), ("c", 4))
                                   for i in range(n)]  # fmt: skip
    first = 0
    for view in views:
        rows, first = slice(first, first + len(view)), first + len(view)
        view = view.to("uJy")
        np.testing.assert_array_equal(joined.data[rows], view.data)
        np.testing.assert_array_equal(joined.mask[rows], view.mask)
        np.testing.assert_allclose(joined.coordinates[rows].separation(view.coordinates), 0)
        assert joined.wcs[rows] == view.wcs
        one, other = joined.batch(rows), view.batch()
        x = other.y
        np.testing.assert_allclose(one.mixing["los"](x), other.mixing["los"](x), atol=1e-6)
        np.testing.assert_allclose(one.noise.whiten(x), other.noise.whiten(x), rtol=2e-5)
    assert joined.noise is not None


def test_names_that_are_found_twice():
    with pytest.raises(InputError, match=r"ids: found '0' 2 times.*names"):
        join_views([tile(0), tile(1)])
    with pytest.raises(InputError, match="names: found 1 of them"):
        join_views([tile(0), tile(1)], names=["a"])


def test_views_that_do_not_fit(pairs):
    with pytest.raises(InputError, match="found none, expected several"):
        join_views([])
    with pytest.raises(InputError, match="found View, MultiInstrumentView"):
        join_views([tile(0), pairs()[0]])
    other = View(
        np.ones((1, 1, 4, 4)), variance=1.0, mixing={"los": Identity((1, 4, 4))}, ids=["x"]
    )
    with pytest.raises(InputError, match="views: found sources"):
        join_views([tile(0), other])


def test_several_instruments(pairs):
    views = [pairs(3)[0], pairs(4, seed=1)[0]]
    joined = join_views(views, names=["a", "b"])
    assert joined.ids.tolist() == ["a/0", "a/1", "a/2", "b/0", "b/1", "b/2", "b/3"]
    for name, image in joined.images.items():
        np.testing.assert_array_equal(image.data[3:], views[1].images[name].data)
    fine = MultiInstrumentView({"fine": views[0].images["fine"][[1, 2]]})  # it saw these
    with pytest.raises(InputError, match="found instruments fine, coarse, expected fine"):
        join_views([fine, views[1]], names=["a", "b"])


def test_datasets_are_joined_and_kept(tmp_path):
    datasets = [
        MultiViewDataset({"galaxy": tile(seed, psf=3 + 2 * seed, noise=0.1 * (1 + seed))})
        for seed in (0, 1)
    ]
    joined = MultiViewDataset.join(datasets, names=["tile 0", "tile 1"])
    joined.write(tmp_path / "views.asdf")
    again = MultiViewDataset.read(tmp_path / "views.asdf")["galaxy"]
    np.testing.assert_array_equal(again["tile 1/2"].data[0], datasets[1]["galaxy"].data[2])
    batch, expected = again["tile 1/2"].batch(), datasets[1]["galaxy"][2].batch()
    np.testing.assert_allclose(
        batch.mixing["los"](batch.y), expected.mixing["los"](expected.y), atol=1e-6
    )
    with pytest.raises(InputError, match="datasets: found views galaxy; random"):
        MultiViewDataset.join([datasets[0], MultiViewDataset({"random": tile(0)})])


def test_rows_by_id():
    view = tile(0, ids=["a", "b", "c"])
    assert view["b"].ids.tolist() == ["b"]
    assert view[["c", "a"]].ids.tolist() == ["c", "a"]
    np.testing.assert_array_equal(view["c"].data, view[2].data)
    with pytest.raises(
        InputError, match="id 'x': found none of this name, expected one of the 3: a"
    ):
        view["x"]
    with pytest.raises(InputError, match="found 2 of this name"):
        view[[0, 0]]["a"]


@pytest.mark.parametrize("psf", [None, 3])
def test_pickles_and_copies(psf):
    view = tile(0, psf=psf)
    for again in (pickle.loads(pickle.dumps(view)), copy.deepcopy(view), copy.copy(view)):
        np.testing.assert_array_equal(again.data, view.data)
        assert again.wcs[1].wcs.compare(view.wcs[1].wcs)
        assert (again.wcs[1].wcs.crval == view.wcs[1].wcs.crval).all()
        batch = again.batch()
        np.testing.assert_array_equal(
            batch.mixing["los"](batch.y), view.batch().mixing["los"](batch.y)
        )
    assert copy.copy(view).wcs is view.wcs


def test_pickles_of_several_instruments(pairs):
    view, _ = pairs()
    again = pickle.loads(pickle.dumps(MultiViewDataset({"pairs": view})))["pairs"]
    for name, image in view.images.items():
        np.testing.assert_array_equal(again.images[name].data, image.data)
        assert again.images[name].source_wcs[2].wcs.compare(image.source_wcs[2].wcs)


def test_names_of_views():
    dataset = MultiViewDataset({"galaxy": tile(0)})
    with pytest.raises(KeyError, match=r"^view: found 'galaxies', expected one of galaxy$"):
        dataset["galaxies"]
    assert dataset.get("galaxies") is None
    assert dataset.richest.name == "galaxy"


def test_notebooks_show_tables(pairs):
    html = MultiViewDataset({"<a>": tile(0)})._repr_html_()
    assert "&lt;a&gt;" in html
    assert "1 × 8 × 8" in html
    assert "coarse" in pairs()[0]._repr_html_()
