import numpy as np
import pytest
import torch
from astropy import units as u

from astro_ddprism import InputError, MultiViewDataset, View
from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.mixing import DenseMatrix, Identity
from astro_ddprism.views.multi import InstrumentImages, MultiInstrumentView

SHAPE = (1, 4, 4)


def image(n=5, shape=SHAPE, seed=0, kind=View, **options):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(n, int(np.prod(shape)), 16))
    arguments = {"variance": 0.04, "mixing": {"a": DenseMatrix(matrix, SHAPE, shape)}} | options
    return kind(rng.normal(size=(n, *shape)), **arguments)


def missing(n, *rows):
    mask = np.zeros((n, 1, 1, 1), bool)
    mask[list(rows)] = True
    return mask


@pytest.fixture
def view():
    """One instrument missed observations 1 and 3, the other number 0."""
    return MultiInstrumentView(
        {
            "hst": image(kind=InstrumentImages, mask=missing(5, 1, 3), unit="nJy"),
            "hsc": image(
                shape=(2, 3, 3), seed=1, kind=InstrumentImages, mask=missing(5, 0), unit="uJy"
            ),
        },
        name="pairs",
    )


def test_what_is_stored(view):
    assert list(view.images) == ["hst", "hsc"]
    assert len(view) == 5
    assert view.sources == ("a",)
    assert view.source_shapes == {"a": SHAPE}
    assert view.ids.tolist() == list("01234")
    assert view.unit == view.images["hsc"].unit == u.nJy
    np.testing.assert_allclose(view.images["hsc"].variance[1], 0.04e6, rtol=1e-6)
    assert type(view.images["hsc"]) is InstrumentImages  # after the conversion, too
    assert view.coordinates is view.source_wcs is None
    assert view.n_valid().tolist() == [16, 18, 34, 18, 34]
    assert view.n_valid([2, 0]).tolist() == [34, 16]
    assert view.table()["n_valid"].tolist() == view.n_valid().tolist()
    assert repr(view) == (
        "<MultiInstrumentView 'pairs': 5 observations in nJy, sources: a\n"
        "  hst: 3 of shape (1, 4, 4)\n  hsc: 4 of shape (2, 3, 3)>"
    )


@pytest.mark.parametrize("index", [slice(1, 4), [4, 0, 0], np.arange(5) > 2, 3, torch.tensor([2])])
def test_selection(view, index):
    some = view[index]
    rows = np.atleast_1d(np.arange(5)[index])
    assert some.ids.tolist() == [str(i) for i in rows]
    assert len(some) == len(rows)
    for name, part in some.images.items():
        np.testing.assert_array_equal(part.data, view.images[name].data[rows])
    for one, two in zip(view.batch(index, scale=2.0), some.batch(scale=2.0), strict=True):
        assert torch.equal(one.y, two.y)
        assert torch.equal(one.mixing["a"].matrix, two.mixing["a"].matrix)
    assert len(view) == 5
    assert [one.ids[0] for one in view] == list("01234")


def test_conversion(view):
    other = view.to("uJy")
    assert other.name == "pairs"
    for name, part in other.images.items():
        np.testing.assert_allclose(part.data, view.images[name].data / 1000, rtol=1e-6)


def test_all_images_constrain_the_sources(view):
    """The whitened observation against the stacked matrices of both instruments."""
    observation = JointObservation(view.batch(dtype=torch.float64), {"other": (3,), "a": SHAPE})
    A, y = [], []
    for part in view.images.values():
        weight = np.where(part.mask, 0, part.variance**-0.5).reshape(5, -1)
        A.append(weight[..., None] * part.mixing["a"].matrix.numpy().astype(float))
        y.append(weight * part.data.reshape(5, -1))
    A, y = np.concatenate(A, axis=1), np.concatenate(y, axis=1)
    rng = np.random.default_rng(3)
    x, r = rng.normal(size=(5, 19)), rng.normal(size=y.shape)
    np.testing.assert_allclose(observation.y, y, rtol=1e-6)
    forward = (A @ x[:, 3:, None])[..., 0]
    np.testing.assert_allclose(observation.forward(torch.tensor(x)), forward, rtol=1e-5)
    back = observation.adjoint(torch.tensor(r)).numpy()
    np.testing.assert_allclose(back[:, 3:], (A.swapaxes(1, 2) @ r[..., None])[..., 0], rtol=1e-5)
    assert (back[:, :3] == 0).all()
    expected = np.square(y - forward).sum(axis=1) / view.n_valid()
    np.testing.assert_allclose(observation.chi2(torch.tensor(x)), expected, rtol=1e-5)
    assert observation.n_valid.tolist() == view.n_valid().tolist()


def test_in_a_dataset(view):
    plain = View(np.ones((2, *SHAPE)), variance=9.0, mixing={"a": Identity(SHAPE)}, unit="nJy")
    dataset = MultiViewDataset({"plain": plain, "both": view})
    assert dataset.sources == ("a",)
    assert dataset["both"].name == "both"
    assert view.name == "pairs"
    # 32 pixels of noise 3, 48 of 0.2, 72 of 200
    assert dataset.noise_scale == pytest.approx(3)
    other = MultiViewDataset({"plain": plain.to("uJy"), "both": view})
    assert other["both"].unit == u.uJy
    wrong = View(np.ones((2, 16)), variance=1.0, mixing={"a": Identity((16,))}, unit="nJy")
    with pytest.raises(InputError, match=r"view 'both': source 'a': found shape \(1, 4, 4\)"):
        MultiViewDataset({"wrong": wrong, "both": view})


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({}, "images: found {}"),
        ([1], "images: found"),
        ({"hst": 1}, r"images\['hst'\]: found int, expected a View"),
        ({"": image()}, "images: found '', expected names of instruments"),
        ({"hst": image(), "hsc": image(4)}, r"images\['hsc'\]: found 4 observations, expected 5"),
        (
            {"hst": image(), "hsc": image(ids=list("01243"))},
            r"images\['hsc'\]: found observation '4' in place 3, expected '3', as hst has it",
        ),
        (
            {"hst": image(), "hsc": image(mixing={"b": Identity(SHAPE)})},
            r"images\['hsc'\]: found sources {'b': .*expected those of hst, {'a'",
        ),
        ({"hst": image(unit="nJy"), "hsc": image(unit="m")}, "data: found unit m, expected .*nJy"),
        (
            {
                "hst": image(kind=InstrumentImages, mask=missing(5, 2, 4), ids=list("abcde")),
                "hsc": image(kind=InstrumentImages, mask=missing(5, 1, 4), ids=list("abcde")),
            },
            r"images: found no valid pixel of any instrument in 1 of 5 observations \(e\)",
        ),
    ],
)
def test_errors_name_the_instrument(images, message):
    with pytest.raises(InputError, match=message):
        MultiInstrumentView(images, name="pairs")


def test_source_wcs_for_all_or_none(pairs):
    view, _ = pairs()
    fine, coarse = view.images.values()
    alone = View(coarse.data, variance=1.0, mixing=coarse.mixing, unit="nJy")
    with pytest.raises(InputError, match=r"images\['coarse'\]: found no source_wcs, expected one"):
        MultiInstrumentView({"fine": fine, "coarse": alone})
    assert len(view.source_wcs) == 6
    assert view[[4]].source_wcs[0] is view.source_wcs[4]
    assert view.coordinates[2].separation(coarse.coordinates[2]) == 0
