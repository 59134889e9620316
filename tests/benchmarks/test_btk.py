"""The study of the Blending ToolKit, without the toolkit, which needs an environment of its own."""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from astropy import units as u
from astropy.table import Table

from astro_ddprism.survey.images import pixel_angle
from benchmarks.btk.pictures import draw_blends
from benchmarks.btk.separation import MAGGIES, lay_out, separate_blends
from benchmarks.btk.study import summarise

ELECTRONS = 2e13
SETTINGS = {"sky": 400.0, "electrons": ELECTRONS, "pixel_scale": 0.339}
PLACES = np.array([[[20.3, 17.8], [3.0, 36.0]], [[25.0, 20.0], [np.nan, np.nan]]])
# Stands for the command that separates: object m of blend k is m + 1 where the blend is not 0.
STAND_IN = """
import sys, numpy as np
file = np.load(sys.argv[1])
assert str(file["model"]) == "some-model" and int(file["n_samples"]) == 16
there = np.isfinite(file["places"]).all(axis=2)
objects = (file["images"] != 0)[:, None] * (np.arange(there.shape[1]) + 1.0)[:, None, None]
objects *= there[..., None, None] * float(file["sky"])
np.savez(sys.argv[2], images=objects, seconds=2.5)
"""


@pytest.fixture
def toolkit(monkeypatch):
    """Modules with the names of the toolkit that the deblender asks for."""

    class Deblender:
        def __init__(self, max_n_sources):
            self.max_n_sources = max_n_sources

    def result(*values):
        names = ("max_n_sources", "catalog", "n_bands", "image_size", "segmentation", "images")
        return SimpleNamespace(**dict(zip(names[-len(values) :], values, strict=True)))

    def batch(batch_size, max_n_sources, catalogs, *values):
        return SimpleNamespace(catalogs=catalogs, **vars(result(max_n_sources, None, *values)))

    deblend, utilities = ModuleType("btk.deblend"), ModuleType("surveycodex.utilities")
    deblend.Deblender, deblend.DeblendExample, deblend.DeblendBatch = Deblender, result, batch
    utilities.mag2counts = lambda *_: 1e13 * u.electron
    utilities.mean_sky_level = lambda *_: 100.0 * u.electron
    for module in (ModuleType("btk"), deblend, ModuleType("surveycodex"), utilities):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delitem(sys.modules, "benchmarks.btk.deblender", raising=False)
    yield importlib.import_module("benchmarks.btk.deblender")
    sys.modules.pop("benchmarks.btk.deblender")


def test_deblender_in_the_interface_of_the_toolkit(toolkit):
    catalogs = [
        Table({"x_peak": [3.0, 5.0], "y_peak": [4.0, 6.0]}),
        Table({"x_peak": [], "y_peak": []}),
    ]
    detector = SimpleNamespace(
        max_n_sources=3,
        deblend=lambda ii, _: SimpleNamespace(catalog=catalogs[ii]),
        batch_call=lambda *_: SimpleNamespace(catalog_list=catalogs),
    )
    images = np.zeros((2, 1, 8, 8))
    images[0, 0, :4], images[1, 0] = 1, 1
    survey = SimpleNamespace(
        available_filters=["r"], get_filter=lambda name: name, pixel_scale=0.3 * u.arcsec
    )
    batch = SimpleNamespace(blend_images=images, survey=survey, batch_size=2, image_size=8)
    command = [sys.executable, "-c", STAND_IN]
    deblender = toolkit.SeparatorDeblender(
        detector, command, "some-model", psf_fwhm=0.9, threshold=15
    )
    found = deblender.batch_call(batch)
    assert found.catalogs is catalogs
    assert found.images.shape == (2, 3, 1, 8, 8)
    np.testing.assert_array_equal(found.images[0, :, 0, 0, 0], [100, 200, 0])
    assert not found.images[0, :, :, 4:].any()
    assert not found.images[1].any()  # nothing was detected there
    # 15 times the sky's standard deviation of 10 electrons.
    np.testing.assert_array_equal(found.segmentation[0, :, 0, 0], [False, True, False])
    one = deblender.deblend(0, batch)
    np.testing.assert_array_equal(one.images, found.images[0])
    np.testing.assert_array_equal(one.segmentation, found.segmentation[0])
    assert one.catalog is catalogs[0]
    assert (deblender.seconds, deblender.n_separated) == (5.0, 4)


def test_blends_in_one_image():
    blends = np.random.default_rng(0).normal(size=(3, 40, 40))
    image, corners = lay_out(blends, **SETTINGS)
    assert image.mask.sum() == image.mask.size - blends.size
    for blend, (x, y) in zip(blends, corners, strict=True):
        seen = image.data[0, y : y + 40, x : x + 40] * ELECTRONS / MAGGIES
        np.testing.assert_allclose(seen, blend, rtol=1e-6)
    unit = MAGGIES / ELECTRONS
    good = ~image.mask
    np.testing.assert_allclose(image.variance[good], 400 * unit**2, rtol=1e-6)
    # As many electrons as there are, their number's variance: Poisson's.
    np.testing.assert_allclose(image.effective_gain[good] * unit, 1, rtol=1e-6)
    assert pixel_angle(image).to_value(u.arcsec) == pytest.approx(0.339)


def test_objects_come_back_to_their_places():
    """Of a separator that takes all light for the galaxy: each object is its cutout."""
    blends = np.random.default_rng(1).normal(size=(2, 40, 40)) * 20

    class Separator:
        def sample(self, view, n_samples, seed):
            assert (n_samples, seed) == (4, 7)
            light = np.where(view.mask, 1e3, view.data)  # what is beyond the edge must not show
            return SimpleNamespace(mean={"galaxy": light * view.unit})

    objects = separate_blends(
        Separator(), blends, PLACES, psf_fwhm=0.9, n_samples=4, seed=7, **SETTINGS
    )
    y, x = np.mgrid[:40, :40]
    for (k, m), expected in np.ndenumerate(np.isfinite(PLACES).all(axis=2)):
        x0, y0 = np.rint(np.nan_to_num(PLACES[k, m])) - 16
        inside = (x >= x0) & (x < x0 + 32) & (y >= y0) & (y < y0 + 32) & expected
        np.testing.assert_allclose(
            objects[k, m], np.where(inside, blends[k].clip(min=0), 0), rtol=1e-5
        )
    nothing = np.full_like(PLACES, np.nan)
    assert not separate_blends(
        None, blends, nothing, psf_fwhm=0.9, n_samples=4, seed=7, **SETTINGS
    ).any()


def test_figures(tmp_path):
    rng = np.random.default_rng(2)
    n = 4000
    matched, blendedness = rng.random(n) < 0.5, rng.uniform(0, 0.6, n)
    flux = rng.normal(0.1, np.where(blendedness > 0.3, 0.4, 0.05))
    arrays = {"blendedness": blendedness, "one/matched": matched, "one/flux": flux}
    arrays |= {f"one/{name}": np.where(matched, 3.0, np.nan) for name in ("psnr", "ssim", "mse")}
    arrays |= {"one/iou": np.full(n, 0.5), "one/shape": np.full((n, 2), [0.3, 0.4])}
    arrays |= {"one/precision": 0.9, "one/recall": 0.8}
    found = summarise(arrays, "one")
    assert (found["precision"], found["recall"]) == (0.9, 0.8)
    rows = {row["blendedness"]: row for row in found["classes"]}
    few, most = rows["under 0.05"], rows["over 0.3"]
    assert rows["all"]["n"] == n == sum(row["n"] for row in found["classes"][1:])
    assert rows["all"]["n_matched"] == matched.sum()
    assert few["bias"] == pytest.approx(0.1, abs=0.02)
    assert few["scatter"] == pytest.approx(0.05, rel=0.3)
    assert few["outlier_fraction"] == pytest.approx(0.023, abs=0.03)  # beyond two sigma, above
    assert most["scatter"] == pytest.approx(0.4, rel=0.15)
    assert (most["psnr"], most["shape_error"]) == (3.0, pytest.approx(0.5))


def test_picture(tmp_path):
    truth = np.zeros((2, 3, 70, 70))
    truth[0, :2, 35, 35] = 100, 50
    arrays = {"blends": truth.sum(axis=1), "truth": truth, "sky": 4.0}
    arrays |= {"SepSingleBand/images": truth, "SeparatorDeblender/images": truth}
    path = tmp_path / "btk.png"
    draw_blends(path, arrays, ["SepSingleBand", "SeparatorDeblender"])
    assert path.read_bytes()[1:4] == b"PNG"
