"""Every public object goes to another process and comes back as it was."""

import multiprocessing
import pickle

import numpy as np
import pytest
from astropy.coordinates import SkyCoord

import astro_ddprism
from astro_ddprism import (
    DiffusionSourceSeparator,
    GaussianSourceSeparator,
    InputError,
    LinearCLVMSourceSeparator,
    MultiViewDataset,
    PCPCASourceSeparator,
    PosteriorSamples,
    Tile,
    VariationalCLVMSourceSeparator,
)
from astro_ddprism.separator.base import SourceSeparator

QUICK = {"device": "cpu", "progress": False, "training": {"n_first_images": 640, "n_images": 320}}


def make_views():
    rng = np.random.default_rng(0)
    background, both = rng.normal(size=(2, 24, 3)) * [3, 1, 1]
    both = both + rng.normal(size=(24, 3)) * [1, 3, 1]
    identity = np.eye(3)
    return MultiViewDataset.from_arrays(
        {
            "first": {"data": background, "variance": 0.1, "mixing": {"a": identity}},
            "second": {
                "data": both,
                "variance": 0.1,
                "mixing": {"a": identity, "b": identity},
                "coordinates": SkyCoord(np.arange(24), np.arange(24), unit="deg"),
            },
        }
    )


@pytest.fixture(scope="module")
def objects(pairs):
    """One of each public class, fitted where it can be."""
    views = make_views()
    network = {"name": "mlp", "width": 8, "depth": 1, "embedding": 4}
    separators = [
        GaussianSourceSeparator(device="cpu", progress=False),
        DiffusionSourceSeparator(
            **QUICK, network=network, n_em_iterations=1, chains={"n_steps": 4}
        ),
        PCPCASourceSeparator(**QUICK, rank=1),
        LinearCLVMSourceSeparator(**QUICK, rank=1),
        VariationalCLVMSourceSeparator(**QUICK),
    ]
    separators = [separator.fit(views) for separator in separators]
    view, truth = pairs()
    samples = PosteriorSamples({"galaxy": np.stack([truth, 1.1 * truth])}, view)
    return [
        *separators,
        views,
        views["second"],
        view,
        samples,
        Tile("a", ("a.fits",), {"psf_fwhm": 0.9}),
        InputError("size: found 0, expected at least 1"),
    ]


def told_by(thing):
    """Numbers and words that tell what an object holds."""
    if isinstance(thing, SourceSeparator):
        draws = thing.sample(make_views()["second"], n_samples=2, seed=3)
        return [thing.sources_, *(x.value.tolist() for x in draws.samples.values())]
    if isinstance(thing, PosteriorSamples):
        return [thing.flux("galaxy").value.tolist(), [w.wcs.crval.tolist() for w in thing.grid.wcs]]
    if isinstance(thing, MultiViewDataset):
        return [told_by(view) for view in thing.values()]
    if hasattr(thing, "ids"):
        images = thing.images if isinstance(thing.images, dict) else {}
        return [thing.ids.tolist(), *(i.data.tolist() for i in images.values())]
    return repr(thing)


def there_and_back(things):
    """In another process: what it finds, and the objects again."""
    return [told_by(thing) for thing in things], things


def test_there_is_one_of_each(objects):
    classes = {
        name for name in astro_ddprism.__all__ if isinstance(getattr(astro_ddprism, name), type)
    }
    assert {type(thing).__name__ for thing in objects} == classes


def test_a_second_process(objects):
    expected = [told_by(thing) for thing in objects]
    assert [told_by(pickle.loads(pickle.dumps(thing))) for thing in objects] == expected
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found, again = pool.apply(there_and_back, (objects,))
    assert found == expected
    assert [told_by(thing) for thing in again] == expected


def test_joblib(objects):
    joblib = pytest.importorskip("joblib")
    jobs = [joblib.delayed(there_and_back)([thing]) for thing in objects]
    results = joblib.Parallel(n_jobs=2, backend="loky")(jobs)
    joblib.externals.loky.get_reusable_executor().shutdown(wait=True)
    for thing, (found, again) in zip(objects, results, strict=True):
        assert found == [told_by(again[0])] == [told_by(thing)]
