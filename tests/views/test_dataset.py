import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.wcs import WCS

from astro_ddprism import InputError, MultiViewDataset, View
from astro_ddprism.io import asdf as asdf_module
from astro_ddprism.io import mapped
from astro_ddprism.io.mapped import row_slices
from astro_ddprism.mixing import (
    Amplitude,
    Convolution,
    CorrelatedNoise,
    DenseMatrix,
    DiagonalNoise,
    Identity,
    PhotonNoise,
)
from astro_ddprism.psf import read_psf
from astro_ddprism.separator.state import contents, digest
from astro_ddprism.views.pixels import median


def arrays(n=8, m=3, k=5):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(n, m, k))
    return {
        "one": {"data": rng.normal(size=(n, m)), "variance": 0.01, "mixing": {"a": A}},
        "two": {"data": rng.normal(size=(n, m)), "variance": 0.04, "mixing": {"b": A, "a": 2 * A}},
    }


# -- the mapping -----------------------------------------------------------------------------


def test_mapping():
    dataset = MultiViewDataset.from_arrays(arrays())
    assert list(dataset) == ["one", "two"]
    assert len(dataset) == 2
    assert "two" in dataset
    assert dataset["two"].name == "two"
    assert dataset.sources == ("a", "b")  # in the order in which they first appear
    assert dataset["two"].sources == ("b", "a")
    assert dataset.source_shapes == {"a": (5,), "b": (5,)}
    assert "<View 'one': 8 observations of shape (3,), sources: a>" in repr(dataset)
    with pytest.raises(KeyError):
        dataset["three"]


def test_names_are_those_of_the_mapping():
    view = MultiViewDataset.from_arrays(arrays())["one"]
    assert MultiViewDataset({"other": view})["other"].name == "other"
    assert view.name == "one"


def test_noise_scale_is_the_median_over_valid_pixels():
    views = arrays()
    views["two"]["mask"] = np.zeros((8, 3), bool)
    views["two"]["mask"][:, 1:] = True
    dataset = MultiViewDataset.from_arrays(views)
    assert dataset.noise_scale == pytest.approx(0.1)
    views["one"]["variance"] = np.full((8, 3), np.inf)
    views["one"]["variance"][:, 0] = 0.09
    assert MultiViewDataset.from_arrays(views).noise_scale == pytest.approx(0.25, abs=0.051)


def test_units_follow_the_first_view():
    views = arrays()
    views["one"]["unit"], views["two"]["unit"] = "nJy", "uJy"
    dataset = MultiViewDataset.from_arrays(views)
    assert dataset.unit == dataset["two"].unit == u.nJy
    np.testing.assert_allclose(dataset["two"].data, views["two"]["data"] * 1000, rtol=1e-6)
    views["two"]["unit"] = "nmgy"
    two = MultiViewDataset.from_arrays(views)["two"]
    np.testing.assert_allclose(two.data, views["two"]["data"] * 3630.780548, rtol=1e-6)
    views["two"]["unit"] = "m"
    with pytest.raises(InputError, match="view 'two': data: found unit m, expected one like nJy"):
        MultiViewDataset.from_arrays(views)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ({}, "views: found {}"),
        ([1], "views: found"),
        ({"a": 1}, r"views\['a'\]: found int, expected a View"),
    ],
)
def test_bad_views(views, message):
    with pytest.raises(InputError, match=message):
        MultiViewDataset(views)


def test_views_must_agree_on_a_source():
    views = arrays()
    views["two"]["mixing"]["a"] = np.ones((3, 4))
    with pytest.raises(
        InputError, match=r"view 'two': source 'a': found shape \(4,\), expected \(5,\)"
    ):
        MultiViewDataset.from_arrays(views)


# -- from_arrays -----------------------------------------------------------------------------


def test_arrays_become_operators():
    y = np.zeros((4, 2, 3))
    mixing = {
        "number": 0.5,
        "numbers": np.arange(4.0),
        "matrix": np.ones((6, 7), np.float32),
        "matrices": np.ones((4, 6, 7)),
        "operator": Identity((2, 3)),
    }
    view = MultiViewDataset.from_arrays({"v": {"data": y, "variance": 1, "mixing": mixing}})["v"]
    kinds = {name: type(operator) for name, operator in view.mixing.items()}
    assert kinds == {
        "number": Amplitude,
        "numbers": Amplitude,
        "matrix": DenseMatrix,
        "matrices": DenseMatrix,
        "operator": Identity,
    }
    numbers = {name: operator.n_observations for name, operator in view.mixing.items()}
    assert list(numbers.values()) == [None, 4, None, 4, None]
    assert view.mixing["matrix"].matrix.dtype == torch.float32
    assert view.mixing["matrices"].matrix.dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variance": -1.0}, "view 'v': variance: found 24 negative values"),
        ({"mask": np.ones((4, 2, 3), bool)}, "view 'v': mask: found no valid pixel"),
        ({"weight": 1}, "view 'v': found unknown weight, expected"),
        ({"mixing": {"a": np.ones((5, 7))}}, r"view 'v': mixing\['a'\]: matrix: found 5 x 7"),
        ({"mixing": {"a": np.ones((3, 6, 7))}}, r"view 'v': mixing\['a'\]: found 3 observations"),
        ({"mixing": {"a": np.ones(3)}}, r"view 'v': mixing\['a'\]: found 3 observations"),
        ({"mixing": {"a": np.full((6, 7), np.nan)}}, r"mixing\['a'\]: matrix: .* not finite"),
        (
            {"mixing": {"a": "identity"}},
            r"mixing\['a'\]: found .* expected a MixingOperator",
        ),
        ({"mixing": {"a": np.ones((1, 1, 1, 1))}}, r"mixing\['a'\]: found an array of shape"),
        ({"mixing": 3}, "view 'v': mixing: found 3"),
    ],
)
def test_bad_arrays(change, message):
    arguments = {"data": np.zeros((4, 2, 3)), "variance": 1.0, "mixing": {"a": 1.0}} | change
    with pytest.raises(InputError, match=message):
        MultiViewDataset.from_arrays({"v": arguments})


def test_missing_arrays():
    with pytest.raises(InputError, match="view 'v': found no mixing, expected data, mixing, var"):
        MultiViewDataset.from_arrays({"v": {"data": np.zeros((4, 2))}})


# -- from_fits -------------------------------------------------------------------------------


def cutout(i, *, shape=(9, 8), unit="nJy"):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cdelt = [-1e-4, 1e-4]
    wcs.wcs.crval = [150.0 + i, 2.0]
    wcs.wcs.crpix = [5.0, 5.0]  # pixel (4, 4), the middle of a 9 x 8 image, holds the position
    data = np.full(shape, float(i))
    data[0, 0] = np.nan
    return CCDData(data, uncertainty=StdDevUncertainty(np.full(shape, 0.5)), wcs=wcs, unit=unit)


@pytest.fixture
def files(tmp_path):
    paths = []
    for i in range(4):
        paths.append(tmp_path / f"cutout_{i}.fits")
        cutout(i).write(paths[-1])
    return paths


def check(dataset):
    assert {name: view.sources for name, view in dataset.items()} == {
        "random": ("los",),
        "galaxy": ("los", "galaxy"),
    }
    galaxy = dataset["galaxy"]
    assert dataset.unit == u.nJy
    assert galaxy.data.shape == (2, 1, 9, 8)
    assert (galaxy.data[1][galaxy.mask[1] == 0] == 3).all()
    assert galaxy.mask.sum() == 2
    assert (galaxy.variance[~galaxy.mask] == 0.25).all()
    np.testing.assert_allclose(galaxy.coordinates.ra.deg, [152, 153])
    np.testing.assert_allclose(galaxy.coordinates.dec.deg, 2)
    np.testing.assert_allclose(galaxy.wcs[1].wcs.crval, [153, 2])


def test_from_fits_files(files):
    dataset = MultiViewDataset.from_fits({"random": files[:2], "galaxy": files[2:]})
    check(dataset)
    assert dataset["galaxy"].ids.tolist() == ["cutout_2", "cutout_3"]
    assert isinstance(dataset["random"].mixing["los"], Identity)


def test_from_fits_in_memory():
    images = [cutout(i) for i in range(4)]
    dataset = MultiViewDataset.from_fits({"random": images[:2], "galaxy": images[2:]})
    check(dataset)
    assert dataset["galaxy"].ids.tolist() == ["0", "1"]


def test_from_fits_with_psf_and_sources(files, tmp_path):
    psf = np.outer([1, 2, 1], [1, 2, 1]) / 16
    fits.writeto(tmp_path / "psf.fits", psf)
    dataset = MultiViewDataset.from_fits(
        {"star": files}, sources={"star": ["star"]}, psf=tmp_path / "psf.fits"
    )
    operator = dataset["star"].mixing["star"]
    assert isinstance(operator, Convolution)
    np.testing.assert_allclose(operator.kernel, read_psf(psf))


def test_from_fits_with_correlated_noise():
    """Measured in the blank sky of all cutouts of a view, one of them all object."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(12, 32, 33))
    noise = 0.5 * (noise[..., 1:] + noise[..., :-1]) / np.sqrt(0.5)
    images = [cutout(i, shape=(32, 32)) for i in range(12)]
    for image, pixels in zip(images, noise, strict=True):
        image.data = pixels
    images[3].mask = np.ones((32, 32), bool)
    images[3].mask[10:13] = False
    dataset = MultiViewDataset.from_fits({"random": images}, correlated_noise=1)
    patches = dataset["random"].noise.autocorrelation.numpy()
    np.testing.assert_allclose(patches, [[[[0, 0, 0], [0.5, 1, 0.5], [0, 0, 0]]]], atol=0.05)
    np.testing.assert_allclose(dataset["random"].variance[0], 0.25)
    message = "and 11 more, band0: correlated_noise: .* found 0 pairs of blank pixels"
    with pytest.raises(InputError, match=message):
        MultiViewDataset.from_fits({"random": images}, correlated_noise=32)


def test_from_fits_converts_units():
    images = [cutout(1), cutout(2, unit="uJy")]
    view = MultiViewDataset.from_fits({"random": images})["random"]
    assert view.unit == u.nJy
    assert view.data[1, 0, 5, 5] == 2000
    assert view.variance[1, 0, 5, 5] == 250_000
    images[1] = cutout(1, unit="nmgy")
    gain = 3 * u.electron / u.nmgy
    view = MultiViewDataset.from_fits({"random": images}, effective_gain=gain)["random"]
    one = view.to("nmgy")
    np.testing.assert_allclose(view.data[1], 3630.780548 * view.data[0], rtol=1e-6)
    np.testing.assert_allclose(view.variance[1], 3630.780548**2 * view.variance[0], rtol=1e-6)
    np.testing.assert_allclose(one.effective_gain.value, 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("cutouts", "sources", "message"),
    [
        ({}, None, "cutouts: found {}"),
        (["a.fits"], None, "cutouts: found"),
        ({"random": []}, None, r"cutouts\['random'\]: found \[\]"),
        ({"random": "a.fits"}, None, r"cutouts\['random'\]: found 'a.fits', expected a list"),
        ({"mine": [1]}, None, "sources: found those of views none, expected those of mine"),
        ({"a": [1]}, {"a": ["x"], "b": ["x"]}, "sources: found those of views a, b, expected .* a"),
        ({"a": [1]}, {"a": "los"}, r"sources\['a'\]: found 'los', expected a list"),
    ],
)
def test_from_fits_bad_arguments(cutouts, sources, message):
    with pytest.raises(InputError, match=message):
        MultiViewDataset.from_fits(cutouts, sources=sources)


def test_from_fits_names_the_bad_file(files, tmp_path):
    cutout(0, shape=(9, 9)).write(tmp_path / "large.fits")
    with pytest.raises(InputError, match=r"large.fits.*: found shape \(1, 9, 9\).*cutout_0.fits"):
        MultiViewDataset.from_fits({"random": [*files, tmp_path / "large.fits"]})
    cutout(0, unit="adu").write(tmp_path / "adu.fits")
    with pytest.raises(InputError, match=r"adu.fits.*: found shape .* in adu, expected .* in nJy"):
        MultiViewDataset.from_fits({"random": [*files, tmp_path / "adu.fits"]})


# -- from_image, read and write --------------------------------------------------------------


def test_from_image_takes_what_the_survey_cuts_out(monkeypatch):
    calls = []

    def views_from_image(image, **options):
        calls.append((image, options))
        return {
            "random": View(np.ones((2, 1, 4, 4)), variance=1, mixing={"los": Identity((1, 4, 4))})
        }

    monkeypatch.setattr("astro_ddprism.views.dataset.views_from_image", views_from_image)
    dataset = MultiViewDataset.from_image("tile.fits", size=4, psf="psf.fits")
    assert calls == [("tile.fits", {"size": 4, "psf": "psf.fits"})]
    assert dataset["random"].name == "random"


def test_read_what_was_written(tmp_path):
    dataset = MultiViewDataset.from_arrays(arrays())
    dataset.write(tmp_path / "views.asdf")
    again = MultiViewDataset.read(tmp_path / "views.asdf")
    assert again.sources == dataset.sources
    for name in dataset:
        np.testing.assert_array_equal(again[name].data, dataset[name].data)
        assert torch.equal(again[name].mixing["a"].matrix, dataset[name].mixing["a"].matrix)
    with pytest.raises(InputError, match=r"views.asdf: found an existing file"):
        dataset.write(tmp_path / "views.asdf")
    dataset.write(tmp_path / "views.asdf", overwrite=True)


# -- in a file -------------------------------------------------------------------------------


def lazy_views(kind):
    """Two views whose noise is of a kind, with masked and saturated pixels."""
    rng, n, shape = np.random.default_rng(3), 40, (1, 6, 6)
    variance, mask = rng.uniform(0.5, 2, (n, *shape)), rng.random((n, *shape)) < 0.1
    noise = {"variance": variance}
    if kind != "variance":
        own = DiagonalNoise(torch.as_tensor(variance), torch.as_tensor(mask))
        if kind == "correlated":
            own = CorrelatedNoise(torch.as_tensor(variance), [[0.2, 1, 0.2]], torch.as_tensor(mask))
        noise = {"noise": PhotonNoise(own, 2.0) if kind == "photon" else own}
    kernels = rng.uniform(0, 1, (n, 1, 3, 3))
    return MultiViewDataset(
        {
            name: View(
                rng.normal(size=(n, *shape)),
                mask=mask,
                saturated=mask & (rng.random(mask.shape) < 0.3),
                mixing=dict.fromkeys(sources, Convolution(kernels, shape)),
                ids=[f"{name}-{i}" for i in range(n)],
                unit="uJy",
                **noise,
            )
            for name, sources in (("random", ["los"]), ("galaxy", ["los", "galaxy"]))
        }
    )


@pytest.fixture
def everything_stays(monkeypatch):
    for module in (mapped, asdf_module):
        monkeypatch.setattr(module, "LEAST", 64)
    monkeypatch.setattr(mapped, "MOST_IN_MEMORY", 64)
    monkeypatch.setattr(row_slices, "__defaults__", (1000,))


def assert_alike(one, other):
    assert list(one) == list(other)
    assert one.noise_scale == other.noise_scale
    assert digest(contents(one)) == digest(contents(other))
    for name in one:
        for attribute in ("data", "variance", "mask", "saturated", "ids"):
            np.testing.assert_array_equal(
                getattr(one[name], attribute), getattr(other[name], attribute)
            )
        index = [3, 1, 1]
        own, others = (each[name].batch(index, scale=1.7) for each in (one, other))
        assert torch.equal(own.y, others.y)
        assert torch.equal(own.noise.variance, others.noise.variance)
        assert torch.equal(own.mixing["los"](own.y), others.mixing["los"](own.y))
        np.testing.assert_array_equal(one[name].n_valid(), other[name].n_valid())


@pytest.mark.parametrize("kind", ["variance", "diagonal", "photon", "correlated"])
def test_views_in_a_file_are_those_in_memory(kind, tmp_path, everything_stays):
    """Read, joined, and written again."""
    lazy_views(kind).write(tmp_path / "views.asdf")
    plain = MultiViewDataset.read(tmp_path / "views.asdf", memmap=False)
    lazy = MultiViewDataset.read(tmp_path / "views.asdf", memmap=True)
    assert mapped.is_mapped(lazy["galaxy"].data)
    assert not mapped.is_mapped(plain["galaxy"].data)
    assert_alike(lazy, plain)
    joined = MultiViewDataset.join([lazy, lazy], names=["a", "b"])
    assert mapped.is_mapped(joined["galaxy"].data)
    joined.write(tmp_path / "joined.asdf")
    again = MultiViewDataset.read(tmp_path / "joined.asdf", memmap=True)
    assert_alike(again, MultiViewDataset.join([plain, plain], names=["a", "b"]))
    with pytest.raises(ValueError, match="read-only"):
        lazy["galaxy"].data[0] = 1


def test_a_file_of_which_a_view_changes_something(tmp_path, everything_stays):
    """Pixels that are no numbers, though the mask does not say so, carry no information."""
    data = mapped.mapped_file((30, 1, 4, 4), np.float32)
    data[:] = np.random.default_rng(0).normal(size=data.shape)
    data[3, 0, 1, 2] = np.nan
    one = View(data, variance=np.ones_like(data), mask=np.zeros(data.shape, bool),
               mixing={"los": Identity((1, 4, 4))})  # fmt: skip
    assert one.mask.sum() == 1
    assert one.data[3, 0, 1, 2] == 0
    assert not mapped.is_mapped(one.data)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 101, 1000])
def test_the_median_is_that_of_numpy(n, dtype):
    rng = np.random.default_rng(n)
    numbers = np.exp(rng.normal(0, 5, n)).astype(dtype)
    numbers[: n // 3] = numbers[-1]
    assert median(lambda: np.array_split(numbers, 7)) == np.median(numbers)
