import os
import time

import asdf
import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS, DistortionLookupTable

from astro_ddprism import InputError, MultiViewDataset, View
from astro_ddprism.io import asdf as module
from astro_ddprism.io.asdf import read_tree, write_tree
from astro_ddprism.mixing import (
    Amplitude,
    Composition,
    Convolution,
    CorrelatedNoise,
    DenseMatrix,
    DiagonalNoise,
    Identity,
    LowRankNoise,
    Mask,
)
from astro_ddprism.views import dataset as views_module
from astro_ddprism.views.files import get_extensions

SHAPE = (2, 6, 5)


def tile_wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.1, 2.2]
    wcs.wcs.cdelt = [-1e-4 / 3, 1e-4 / 3]
    return wcs


def cutout_wcs(n):
    tile = tile_wcs()
    return [tile[2 * i : 2 * i + 6, 3 * i : 3 * i + 5] for i in range(n)]


@pytest.fixture
def dataset():
    """Every operator, every field, and bad pixels."""
    rng, n = np.random.default_rng(0), 4
    data = rng.normal(size=(n, *SHAPE))
    data[0, 0, 0, 0] = np.nan
    psf = rng.normal(size=(n, 2, 3, 3))
    mixing = {
        "identity": Identity(SHAPE),
        "amplitude": Amplitude(rng.normal(size=n), SHAPE),
        "number": Amplitude(0.5, SHAPE),
        "mask": Mask(rng.normal(size=SHAPE) > 1),
        "masks": Mask(rng.normal(size=(n, *SHAPE)) > 1, SHAPE),
        "psf": Convolution(psf, SHAPE),
        "matrix": DenseMatrix(rng.normal(size=(60, 7)), observation_shape=SHAPE),
        "matrices": DenseMatrix(rng.normal(size=(n, 60, 60)), SHAPE, SHAPE, dtype=torch.float64),
        "all": Composition(Amplitude(2.0, SHAPE), Convolution(psf[0, 0], SHAPE)),
    }
    view = View(
        data,
        variance=rng.uniform(1, 2, size=data.shape),
        mixing=mixing,
        unit="nJy",
        wcs=cutout_wcs(n),
        coordinates=SkyCoord(rng.uniform(size=n), rng.uniform(size=n), unit="deg", frame="fk5"),
        ids=["Sombrero", "M31", "α", "x" * 50],
    )
    plain = View(data, variance=1.0, mixing={"identity": Identity(SHAPE)}, unit="nJy")
    return MultiViewDataset({"z first": view, "a second": plain})


def assert_same_operator(one, other):
    assert type(one) is type(other)

    def check(a, b):
        if isinstance(a, dict):
            assert list(a) == list(b)
            for key in a:
                check(a[key], b[key])
        elif isinstance(a, list):
            assert len(a) == len(b)
            for pair in zip(a, b, strict=True):
                check(*pair)
        else:
            assert np.asarray(a).dtype == np.asarray(b).dtype
            np.testing.assert_array_equal(a, b)

    check(one.state(), other.state())


def assert_same(one, other):
    assert list(one) == list(other)
    assert one.sources == other.sources
    assert one.source_shapes == other.source_shapes
    for a, b in zip(one.values(), other.values(), strict=True):
        assert (a.name, a.unit) == (b.name, b.unit)
        for name in ("data", "variance", "mask", "ids"):
            assert getattr(a, name).dtype == getattr(b, name).dtype
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        for source in b.sources:
            assert_same_operator(a.mixing[source], b.mixing[source])
        assert (a.wcs is None) == (b.wcs is None)
        for left, right in zip(a.wcs or [], b.wcs or [], strict=True):
            assert left.wcs.compare(right.wcs)
            assert left.pixel_shape == right.pixel_shape
        assert (a.coordinates is None) == (b.coordinates is None)
        if b.coordinates is not None:
            assert a.coordinates.frame.name == b.coordinates.frame.name
            np.testing.assert_array_equal(a.coordinates.ra, b.coordinates.ra)
            np.testing.assert_array_equal(a.coordinates.dec, b.coordinates.dec)


def test_round_trip(dataset, tmp_path):
    path = tmp_path / "views.asdf"
    dataset.write(path)
    again = MultiViewDataset.read(path)
    assert_same(again, dataset)
    path.unlink()  # everything is in memory, and works
    x = torch.ones(2, *SHAPE)
    for source in ("identity", "amplitude", "mask", "masks", "psf", "all"):
        one, other = (d["z first"].batch([0, 3]).mixing[source] for d in (again, dataset))
        assert torch.equal(one(x), other(x))
    again["z first"].data[0] = 1  # and can be written to


def noises():
    rng, shape = np.random.default_rng(1), (3, 2, 6, 5)
    variance = rng.uniform(1, 2, size=shape)
    variance[1, 0, 2, 3] = np.nan
    patches = np.array([[[0.2, 1, 0.2]], [[0.3, 1, 0.3]]])
    correlated = CorrelatedNoise(variance, patches)
    patterns = rng.normal(size=(3, 2, *shape[1:]))
    return {
        "diagonal": DiagonalNoise(variance, dtype=torch.float64),
        "correlated": correlated,
        "low rank": LowRankNoise(correlated, patterns),
    }


@pytest.mark.parametrize("kind", noises())
def test_noise(kind, tmp_path):
    rng, path = np.random.default_rng(2), tmp_path / "views.asdf"
    noise = noises()[kind]
    data = rng.normal(size=(3, 2, 6, 5))
    data[0, 1, 1, 1] = np.nan
    view = View(data, noise=noise, mixing={"a": Identity(SHAPE)}, unit="nJy")
    MultiViewDataset({"v": view}).write(path)
    assert b"format_version: 2\n" in path.read_bytes()
    again = MultiViewDataset.read(path)["v"]
    assert type(again.noise) is type(noise)
    for name in ("data", "variance", "mask"):
        np.testing.assert_array_equal(getattr(again, name), getattr(view, name))
    path.unlink()
    one, other = again.batch([2, 0]), view.batch([2, 0])
    assert torch.equal(one.noise.whiten(one.y), other.noise.whiten(other.y))


@pytest.mark.parametrize("gain", [2.5, [2.5, 4.0], np.linspace(1, 2, 30).reshape(6, 5)])
def test_effective_gain(gain, tmp_path):
    rng, path = np.random.default_rng(2), tmp_path / "views.asdf"
    data = rng.normal(size=(3, *SHAPE))
    data[0, 1, 1, 1] = np.nan
    view = View(data, variance=1.0, effective_gain=gain, mixing={"a": Identity(SHAPE)}, unit="nJy")
    MultiViewDataset({"v": view}).write(path)
    assert b"format_version: 3\n" in path.read_bytes()
    again = MultiViewDataset.read(path)["v"]
    assert again.effective_gain.unit == u.electron / u.nJy
    np.testing.assert_array_equal(again.effective_gain, view.effective_gain)
    path.unlink()
    one, other = again.batch([2, 0]), view.batch([2, 0])
    assert torch.equal(one.noise.at(one.y).variance, other.noise.at(other.y).variance)


def test_several_instruments(pairs, dataset, tmp_path):
    view, _ = pairs()
    path = tmp_path / "views.asdf"
    plain = dataset["a second"]
    MultiViewDataset({"pairs": view}).write(path)
    assert b"format_version: 2\n" in path.read_bytes()
    again = MultiViewDataset.read(path)["pairs"]
    path.unlink()
    assert repr(again) == repr(view)
    for name, part in again.images.items():
        expected = view.images[name]
        for attribute in ("data", "variance", "mask", "ids"):
            np.testing.assert_array_equal(getattr(part, attribute), getattr(expected, attribute))
        for one, other in zip(part.source_wcs, expected.source_wcs, strict=True):
            assert one.wcs.compare(other.wcs)
    np.testing.assert_array_equal(again.coordinates.ra, view.coordinates.ra)
    x = torch.ones(2, 2, 16, 16)
    for one, other in zip(again.batch([4, 1]), view.batch([4, 1]), strict=True):
        assert torch.equal(one.mixing["galaxy"](x), other.mixing["galaxy"](x))
        assert torch.equal(one.noise.whiten(one.y), other.noise.whiten(other.y))
    framed = View(plain.data, variance=1.0, mixing=plain.mixing, source_wcs=cutout_wcs(4))
    MultiViewDataset({"framed": framed}).write(path)
    found = MultiViewDataset.read(path)["framed"].source_wcs
    assert all(a.wcs.compare(b.wcs) for a, b in zip(found, framed.source_wcs, strict=True))


def test_without_noise_older_versions_read_it(dataset, tmp_path):
    dataset.write(tmp_path / "views.asdf")
    assert b"format_version: 1\n" in (tmp_path / "views.asdf").read_bytes()


def test_saturated_pixels(tmp_path):
    saturated = np.zeros((2, 1, 3, 3), dtype=bool)
    for found in (False, True):
        saturated[1, 0, 1, 2] = found
        view = View(np.ones((2, 1, 3, 3)), variance=1, mixing={"a": Identity((1, 3, 3))},
                    saturated=saturated)  # fmt: skip
        MultiViewDataset({"v": view}).write(tmp_path / "v.asdf", overwrite=True)
        again = MultiViewDataset.read(tmp_path / "v.asdf")["v"]
        assert (again.saturated is not None) == found
    np.testing.assert_array_equal(again.saturated, saturated)
    np.testing.assert_array_equal(again.mask, saturated)


@pytest.mark.parametrize("unit", ["", "adu", "nmgy", "1e-9 Jy", "electron / s", "W / m2"])
def test_units(unit, tmp_path):
    view = View(np.ones((2, 3)), variance=1, mixing={"a": Identity((3,))}, unit=unit)
    MultiViewDataset({"v": view}).write(tmp_path / "v.asdf")
    assert MultiViewDataset.read(tmp_path / "v.asdf").unit == view.unit


def test_float64_survives(tmp_path):
    view = View(np.full((2, 3), 1e-60), variance=1e-122, mixing={"a": Identity((3,))})
    MultiViewDataset({"v": view}).write(tmp_path / "v.asdf")
    again = MultiViewDataset.read(tmp_path / "v.asdf")["v"]
    assert again.data.dtype == np.float64
    np.testing.assert_array_equal(again.variance, view.variance)


def test_wcs_with_a_lookup_table(tmp_path):
    wcs = cutout_wcs(2)
    for one in wcs:
        table = np.full((4, 4), 0.5, np.float32)
        one.cpdis1 = one.cpdis2 = DistortionLookupTable(table, (1, 1), (1, 1), (3, 3))
        one.wcs.set()
    view = View(np.ones((2, 6, 5)), variance=1, mixing={"a": Identity((6, 5))}, wcs=wcs)
    MultiViewDataset({"v": view}).write(tmp_path / "v.asdf")
    again = MultiViewDataset.read(tmp_path / "v.asdf")["v"].wcs
    for one, other in zip(again, wcs, strict=True):
        np.testing.assert_allclose(
            one.all_pix2world(2, 3, 0), other.all_pix2world(2, 3, 0), rtol=0, atol=1e-11
        )
        assert abs(one.all_pix2world(2, 3, 0)[0] - one.wcs_pix2world(2, 3, 0)[0]) > 1e-6


@pytest.mark.parametrize("distinct", [False, True])
def test_thousands_of_observations(distinct, tmp_path):
    n = 3000
    wcs = []
    for i in range(n):
        one = tile_wcs()
        one.wcs.crpix = [-i / 3, 2 * i]
        if distinct:
            one.wcs.crval = [150 + i / 1000, 2]
        one.wcs.set()
        wcs.append(one)
    view = View(
        np.ones((n, 1, 32, 32)),
        variance=1,
        mixing={"los": Identity((1, 32, 32))},
        wcs=wcs,
        coordinates=SkyCoord(np.arange(n) / n, 0, unit="deg"),
    )
    start = time.perf_counter()
    MultiViewDataset({"random": view}).write(tmp_path / "views.asdf")
    again = MultiViewDataset.read(tmp_path / "views.asdf")["random"]
    assert time.perf_counter() - start < 10  # about 1 s; one WCS after the other takes minutes
    for i in (0, 1234, n - 1):
        assert again.wcs[i].wcs.compare(wcs[i].wcs)


# -- as others see them ----------------------------------------------------------------------


def test_arrays_are_binary_blocks(dataset, tmp_path):
    dataset.write(tmp_path / "views.asdf")
    text = (tmp_path / "views.asdf").read_bytes().partition(b"\n...\n")[0].decode()
    assert "source: 0" in text
    assert "kind: views" in text
    assert "0.25" not in text


def test_asdf_finds_the_converters_by_itself(dataset, tmp_path):
    dataset.write(tmp_path / "views.asdf")
    with asdf.config_context() as config:
        for extension in get_extensions():  # what the entry point does
            config.add_extension(extension)
        with asdf.open(tmp_path / "views.asdf") as file:
            found = file["astro_ddprism"]["dataset"]
        assert_same(found, dataset)
        assert_same(MultiViewDataset.read(tmp_path / "views.asdf"), dataset)


# -- written whole or not at all -------------------------------------------------------------


def test_existing_files(dataset, tmp_path):
    path = tmp_path / "views.asdf"
    path.write_text("precious")
    with pytest.raises(InputError, match=r"views.asdf: found an existing file"):
        dataset.write(path)
    assert path.read_text() == "precious"
    dataset.write(path, overwrite=True)
    assert_same(MultiViewDataset.read(path), dataset)
    assert os.listdir(tmp_path) == ["views.asdf"]


def test_a_link_stays_a_link(dataset, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.asdf").symlink_to(tmp_path / "real" / "views.asdf")
    dataset.write(tmp_path / "link.asdf", overwrite=True)
    assert (tmp_path / "link.asdf").is_symlink()
    assert os.listdir(tmp_path / "real") == ["views.asdf"]


def test_a_failed_write_leaves_the_old_file(dataset, tmp_path):
    path = tmp_path / "views.asdf"
    dataset.write(path)
    before = path.read_bytes()
    with pytest.raises(Exception, match="object"):
        write_tree(path, {"kind": "views", "big": np.ones(1000), "bad": object()}, overwrite=True)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["views.asdf"]


def test_an_interrupted_write_leaves_the_old_file(dataset, tmp_path, monkeypatch):
    path = tmp_path / "views.asdf"
    path.write_text("precious")

    def interrupted(file):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dataset.write(path, overwrite=True)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["views.asdf"]


# -- what cannot be read or written ----------------------------------------------------------


def test_a_folder(dataset, tmp_path):
    with pytest.raises(InputError, match="found a folder"):
        MultiViewDataset.read(tmp_path)
    with pytest.raises(InputError, match="found a folder"):
        dataset.write(tmp_path, overwrite=True)
    with pytest.raises(InputError, match="found no folder"):
        dataset.write(tmp_path / "no" / "views.asdf")


def test_wrong_kind(dataset, tmp_path):
    dataset.write(tmp_path / "views.asdf")
    with pytest.raises(InputError, match=r"views.asdf: found a dataset of views, expected a model"):
        read_tree(tmp_path / "views.asdf", "model")
    with pytest.raises(InputError, match="kind: found 'nothing', expected one of views, model"):
        write_tree(tmp_path / "x.asdf", {"kind": "nothing"})


def test_newer_version(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(views_module, "format_version", lambda _: 4)
    monkeypatch.setattr(module, "__version__", "9.9")
    dataset.write(tmp_path / "views.asdf")
    monkeypatch.undo()
    with pytest.raises(
        InputError, match=r"views.asdf: found format version 4, written by astro-ddprism 9\.9"
    ):
        MultiViewDataset.read(tmp_path / "views.asdf")


def test_truncated_anywhere(dataset, tmp_path):
    """Cut short where one may: refused by name, or complete."""
    dataset.write(tmp_path / "whole.asdf")
    whole, path = (tmp_path / "whole.asdf").read_bytes(), tmp_path / "cut.asdf"
    end = whole.index(b"#ASDF BLOCK INDEX")  # what follows repeats what the blocks themselves say
    for n in np.linspace(5, end - 1, 60, dtype=int):
        path.write_bytes(whole[:n])
        with pytest.raises(InputError, match=r"cut\.asdf: found a truncated or damaged ASDF file"):
            MultiViewDataset.read(path)
    path.write_bytes(whole[:end])
    assert_same(MultiViewDataset.read(path), dataset)


def test_damaged_anywhere(dataset, tmp_path):
    """Flip one bit: refused by name, or where it does not matter (padding, history)."""
    dataset.write(tmp_path / "whole.asdf")
    whole, path = (tmp_path / "whole.asdf").read_bytes(), tmp_path / "flipped.asdf"
    rng = np.random.default_rng(4)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.integers(5, len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            again = MultiViewDataset.read(path)
        except InputError as error:
            assert str(error).startswith(str(path))  # noqa: PT017
        else:
            np.testing.assert_array_equal(again["z first"].data, dataset["z first"].data)
    start = whole.index(dataset["z first"].data.tobytes())
    damaged = bytearray(whole)
    damaged[start + 100] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"flipped\.asdf: found a truncated or damaged ASDF file"):
        MultiViewDataset.read(path)
