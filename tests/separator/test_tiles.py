"""Separations in parts: the same product as of all at once, whole or not at all, and going on."""

import os
import warnings

import numpy as np
import pytest
from astropy.io import fits

from astro_ddprism import GaussianSourceSeparator, InputError, MultiViewDataset, PosteriorSamples
from astro_ddprism.separator import tiles
from astro_ddprism.separator.tiles import separate_view


class Kill(BaseException):
    """In place of a signal that nobody catches."""


@pytest.fixture(scope="module")
def gaussian(images):
    warm_start = {"name": "gaussian", "iterations": 2, "rank": 2}
    return GaussianSourceSeparator(device="cpu", progress=False, warm_start=warm_start).fit(images)


@pytest.fixture
def few(monkeypatch):
    """Five observations at a time, of 12."""
    monkeypatch.setattr(tiles, "MOST_AT_A_TIME", 5)


def arrays(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(path, checksum=True) as hdus:
            return {hdu.name: hdu.data for hdu in hdus[1:]}


def same(first, second, **tolerance):
    assert list(first) == list(second)
    for name, data in first.items():
        columns = data.names if data.dtype.names else [None]
        for column in columns:
            one, other = (d if column is None else d[column] for d in (data, second[name]))
            if one.dtype.kind == "f":
                np.testing.assert_allclose(one, other, **tolerance, err_msg=f"{name} {column}")
            else:
                np.testing.assert_array_equal(one, other)


def test_parts_make_the_product_of_all(gaussian, images, tmp_path, few):
    view, options = images["galaxy"], {"n_samples": 3, "seed": 4}
    separate_view(gaussian, view, tmp_path / "parts.fits", keep_samples=True, aperture=3,
                  **options)  # fmt: skip
    samples = gaussian.sample(view, **options)
    samples.write(tmp_path / "whole.fits", samples=True, aperture=3)
    found, expected = (arrays(tmp_path / f"{name}.fits") for name in ("parts", "whole"))
    del found["VIEW"], expected["VIEW"]  # bytes, which say in what order ASDF met its extensions
    # Batches of other lengths round otherwise.
    same(found, expected, rtol=2e-3, atol=2e-3)
    one, other = (PosteriorSamples.read(tmp_path / f"{name}.fits") for name in ("parts", "whole"))
    np.testing.assert_array_equal(one.view.data, other.view.data)
    np.testing.assert_array_equal(one.view.mask, view.mask)
    assert list(one.view.ids) == list(view.ids)
    assert one.provenance == other.provenance
    for name in ("DATA", "GALAXY_SAMPLES", "CATALOG"):
        assert found[name].shape == expected[name].shape
    heads = [fits.getheader(tmp_path / f"{name}.fits") for name in ("parts", "whole")]
    assert heads[0]["NSAMPLES"] == heads[1]["NSAMPLES"] == 3
    assert sorted(os.listdir(tmp_path)) == ["parts.fits", "whole.fits"]


@pytest.mark.parametrize("moment", [0, 1, 2])
@pytest.mark.parametrize("half", [False, True])
def test_a_killed_separation_goes_on(gaussian, images, tmp_path, few, monkeypatch, moment, half):
    view, sample, calls = images["galaxy"], type(gaussian).sample, []
    unbroken = separate_view(gaussian, view, tmp_path / "unbroken.fits", n_samples=2)

    def counted(self, some, **options):
        calls.append(len(some))
        if len(calls) == moment + 1 and not half:
            raise Kill
        return sample(self, some, **options)

    monkeypatch.setattr(type(gaussian), "sample", counted)
    remove, write = tiles._Parts.remove, tiles._Parts.write

    def killed(parts, first, catalog):
        if half and first == 5 * moment:
            raise Kill  # the product of the part is there, and its catalog is not
        write(parts, first, catalog)

    monkeypatch.setattr(tiles._Parts, "remove", lambda _: None)  # as of a process that is no more
    monkeypatch.setattr(tiles._Parts, "write", killed)
    path = tmp_path / "killed.fits"
    with pytest.raises(Kill):
        separate_view(gaussian, view, path, n_samples=2)
    assert not path.exists()
    monkeypatch.setattr(tiles._Parts, "remove", remove)
    monkeypatch.setattr(tiles._Parts, "write", write)
    calls.clear()
    calls += [0] * 10
    catalog = separate_view(gaussian, view, path, n_samples=2)
    assert len(calls) - 10 == 3 - moment
    same(arrays(path), arrays(tmp_path / "unbroken.fits"), rtol=0)
    assert catalog.colnames == unbroken.colnames
    for name in catalog.colnames:
        np.testing.assert_array_equal(catalog[name], unbroken[name], err_msg=name)
    assert sorted(os.listdir(tmp_path)) == ["killed.fits", "unbroken.fits"]


def test_without_a_product_the_catalog_is_the_same(gaussian, images, tmp_path, few, monkeypatch):
    view = images["galaxy"]
    expected = separate_view(gaussian, view, tmp_path / "a.fits", n_samples=2)
    remove = tiles._Parts.remove
    monkeypatch.setattr(tiles._Parts, "remove", lambda _: None)
    separate_view(gaussian, view, tmp_path / "b.fits", n_samples=2, product=False)
    assert not list((tmp_path / ".b.fits.parts").glob("*.fits"))
    # What a run that was killed has left is taken.
    monkeypatch.setattr(tiles._Parts, "remove", remove)
    monkeypatch.setattr(type(gaussian), "sample", None)
    found = separate_view(gaussian, view, tmp_path / "b.fits", n_samples=2, product=False)
    assert found.colnames == expected.colnames
    for name in expected.colnames:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert os.listdir(tmp_path) == ["a.fits"]


def test_parts_of_another_separation_are_not_taken(gaussian, images, tmp_path, few):
    view, path = images["galaxy"], tmp_path / "a.fits"
    options = (2, None, 5, False, None, None)
    parts = tiles._Parts(path, tiles._fingerprint(gaussian, view, *options))
    parts.product(0).write_text("spoiled")
    parts.write(0, view.table())
    assert parts.read(0, True) is None  # that of which the product is damaged
    parts.write(5, view.table())
    separate_view(gaussian, view, path, n_samples=2, seed=9)
    assert len(arrays(path)["CATALOG"]) == len(view)
    assert os.listdir(tmp_path) == ["a.fits"]


def test_what_is_refused_leaves_nothing(gaussian, images, tmp_path, few):
    view = images["galaxy"]
    with pytest.raises(InputError, match="aperture: found a radius"):
        separate_view(gaussian, view, tmp_path / "a.fits", aperture=1e9)
    with pytest.raises(InputError, match="n_samples"):
        separate_view(gaussian, view, tmp_path / "a.fits", n_samples=0)
    assert os.listdir(tmp_path) == []


def test_several_instruments(pairs, tmp_path, few):
    """Tables and cubes of each, of views without and with images of an observation."""
    view = MultiViewDataset({"pairs": pairs(7)[0]})["pairs"]
    warm_start = {"name": "gaussian", "iterations": 1, "rank": 2}
    separator = GaussianSourceSeparator(device="cpu", progress=False, warm_start=warm_start)
    separator.fit(MultiViewDataset({"pairs": view}))
    separate_view(separator, view, tmp_path / "parts.fits", n_samples=2)
    separator.sample(view, n_samples=2).write(tmp_path / "whole.fits")
    same(arrays(tmp_path / "parts.fits"), arrays(tmp_path / "whole.fits"), rtol=1e-2, atol=1e-2)
