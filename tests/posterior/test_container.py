"""Posterior samples as objects: rows, copies, files, and what a second process sees."""

import copy
import multiprocessing
import pickle

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable

from astro_ddprism import PosteriorSamples, View
from astro_ddprism.errors import InputError
from astro_ddprism.mixing import Convolution, Identity

SHAPE = (2, 12, 12)


@pytest.fixture
def samples(wcs):
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 40, size=(4, 2))
    y, x = np.mgrid[:12, :12] - 6
    light = np.exp(-(x**2 + y**2) / 8)
    view = View(
        rng.normal(size=(4, *SHAPE)) + light,
        variance=rng.uniform(0.5, 2.0, (4, *SHAPE)),
        mask=rng.random((4, *SHAPE)) < 0.05,
        saturated=rng.random((4, *SHAPE)) < 0.01,
        mixing={"los": Convolution(np.ones((3, 3)) / 9, SHAPE), "galaxy": Identity(SHAPE)},
        unit="nJy",
        wcs=[wcs[y : y + 12, x : x + 12] for x, y in corners],
        coordinates=wcs.pixel_to_world(*(corners + 6.2).T),
        ids=["a", "b", "c", "d"],
        name="galaxy",
    )
    draws = {s: (5 * light + rng.normal(size=(6, 4, *SHAPE))).astype("f4") for s in view.sources}
    return PosteriorSamples(draws, view, provenance={"seed": 3, "model": "m.asdf"})


def same(one, other):
    """Whether two sets of samples have the same light, places and catalog."""
    for source in one.sources:
        np.testing.assert_array_equal(one.samples[source], other.samples[source])
    first, second = one.catalog(3), other.catalog(3)
    assert first.colnames == second.colnames
    for name in first.colnames:
        if name.endswith(("coord", "centroid")) and "sky" in name:
            assert (first[name].separation(second[name]) < 1e-9 * u.arcsec).all()
        else:
            np.testing.assert_array_equal(first[name], second[name])
    assert one.provenance == other.provenance
    return True


def n_bright(samples):
    """What a worker does."""
    return len(samples), float(samples.flux("galaxy").value.sum()), samples.mean["galaxy"].wcs[1]


def test_pickles_copies_and_files(samples, tmp_path):
    samples.chi2  # what is computed is not carried along  # noqa: B018
    assert "_light" not in pickle.loads(pickle.dumps(samples)).__dict__
    samples.write(tmp_path / "separated.fits", samples=True)
    for again in (
        pickle.loads(pickle.dumps(samples)),
        copy.copy(samples),
        copy.deepcopy(samples),
        PosteriorSamples.read(tmp_path / "separated.fits"),
    ):
        assert same(again, samples)
        assert again.mean["galaxy"].wcs is again.view.wcs


def test_a_second_process(samples):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        number, flux, wcs = pool.apply(n_bright, (samples,))
    assert (number, flux) == n_bright(samples)[:2]
    assert wcs.wcs.compare(samples.view.wcs[1].wcs, tolerance=1e-9)


def test_several_instruments_from_a_file(pairs, tmp_path):
    view, truth = pairs()
    draws = {"galaxy": truth * np.linspace(0.9, 1.1, 3).reshape(3, 1, 1, 1, 1)}
    samples = PosteriorSamples(draws, view)
    samples.write(tmp_path / "separated.fits", samples=True)
    again = PosteriorSamples.read(tmp_path / "separated.fits")
    assert same(again, samples)
    assert list(again.images) == ["fine", "coarse"]


def test_products_without_samples_are_refused(samples, tmp_path):
    samples.write(tmp_path / "separated.fits")
    with pytest.raises(InputError, match=r"separated.fits: found a product without its samples"):
        PosteriorSamples.read(tmp_path / "separated.fits")
    fits.PrimaryHDU().writeto(tmp_path / "other.fits")
    with pytest.raises(InputError, match="found a FITS file of another kind"):
        PosteriorSamples.read(tmp_path / "other.fits")
    samples.write(tmp_path / "whole.fits", samples=True)
    with fits.open(tmp_path / "whole.fits") as hdus:
        hdus["VIEW"].data = hdus["VIEW"].data[:-700]
        hdus.writeto(tmp_path / "short.fits")
    with pytest.raises(InputError, match=r"short.fits, HDU .*VIEW: found .*the file is damaged"):
        PosteriorSamples.read(tmp_path / "short.fits")


def test_rows(samples):
    assert [len(one) for one in samples] == [1] * 4
    assert [str(one.view.ids[0]) for one in samples] == ["a", "b", "c", "d"]
    for index in (2, "c", [2], ["c"], slice(2, 3)):
        part = samples[index]
        assert part.view.ids.tolist() == ["c"]
        np.testing.assert_array_equal(part.samples["los"], samples.samples["los"][:, 2:3])
        assert part.provenance == samples.provenance
    np.testing.assert_allclose(samples[["d", "a"]].chi2, samples.chi2[:, [3, 0]], rtol=1e-6)
    assert samples.nddata("galaxy", "c").meta["OBJECT"] == "c"


def test_join(samples):
    again = PosteriorSamples.join([samples[:1], samples[1:]])
    assert same(again, samples)
    named = PosteriorSamples.join([samples, samples], names=["x", "y"])
    assert named["y/b"].view.ids.tolist() == ["y/b"]
    with pytest.raises(InputError, match="ids: found 'a' 2 times"):
        PosteriorSamples.join([samples, samples])
    fewer = PosteriorSamples({s: x.value[:2] for s, x in samples.samples.items()}, samples.view)
    with pytest.raises(InputError, match="found 2, 6 samples"):
        PosteriorSamples.join([samples, fewer])
    other = samples[2:]
    other.provenance["model"] = "n.asdf"
    assert PosteriorSamples.join([samples[:2], other]).provenance == {"seed": 3}


def test_one_sample_is_told(samples, caplog):
    one = PosteriorSamples({s: x.value[:1] for s, x in samples.samples.items()}, samples.view)
    table = one.catalog()
    assert "1 sample of each observation: no errors" in caplog.text
    assert np.isnan(table["galaxy_flux_p84_1"]).all()
    assert np.isfinite(table["galaxy_flux_1"]).all()
    caplog.clear()
    samples.catalog()
    assert not caplog.text


def test_notebooks_show_a_table(samples):
    html = samples._repr_html_()
    assert html.startswith("<table>")
    assert "4 of view &#x27;galaxy&#x27;" in html
    assert isinstance(samples.catalog(), QTable)
