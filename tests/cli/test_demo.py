"""The demonstration with a stand-in for the separator, and its figures against an oracle."""

import json
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset, PosteriorSamples
from astro_ddprism.cli import demo
from astro_ddprism.cli.demo import QUICK, DemoSettings, evaluate, format_metrics, run_demo
from astro_ddprism.errors import InputError
from astro_ddprism.posterior.apertures import aperture_flux
from astro_ddprism.simulate.population import simulate_field

SHAPE = (320, 320)
FILES = ["catalog.ecsv", "demo.png", "field.fits", "metrics.json", "model.asdf", "separated.fits",
         "views.asdf"]  # fmt: skip


class CentralLight:
    """Takes what is near the centre for the galaxy, as no one should."""

    def __init__(self, sources, *, device, seed, progress, width=3.0):  # noqa: ARG002
        assert sources == ("los", "galaxy")
        self.width = width

    def fit(self, dataset):
        assert set(dataset) == {"random", "galaxy"}
        return self

    def write(self, path, overwrite=False):
        assert overwrite
        path.write_text(str(self.width))

    @classmethod
    def read(cls, path, device, *, progress):
        return cls(("los", "galaxy"), device=device, seed=0, progress=progress,
                   width=float(path.read_text()))  # fmt: skip

    def sample(self, view, n_samples, *, seed):
        ny, nx = view.data.shape[-2:]
        y, x = np.mgrid[:ny, :nx]
        part = np.exp(-((x - nx // 2) ** 2 + (y - ny // 2) ** 2) / (2 * self.width**2))
        noise = np.random.default_rng(seed).normal(size=(n_samples, *view.data.shape))
        signal = view.data + 0.5 * noise * np.sqrt(np.where(view.mask, 0, view.variance))
        return PosteriorSamples({"los": (1 - part) * signal, "galaxy": part * signal}, view)


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(demo, "DiffusionSourceSeparator", CentralLight)


@pytest.mark.parametrize("deconvolve", [False, True])
def test_leaves_what_it_says(stand_in, tmp_path, capsys, deconvolve):
    settings = DemoSettings(
        shape=SHAPE, size=24, n_samples=8, separator={"width": 3.5}, n_rows=3, n_random=20,
        deconvolve=deconvolve, detection={}, aperture=5.0,
    )  # fmt: skip
    out = tmp_path / "new" / "demo"
    metrics = run_demo(out, seed=2, device="cpu", settings=settings)
    assert sorted(p.name for p in out.iterdir()) == FILES
    printed = capsys.readouterr()
    assert format_metrics(metrics) in printed.out
    assert "learn the priors" in printed.err
    stored = json.loads((out / "metrics.json").read_text())
    for key in ("aperture_error_vs_observed", "aperture_error_vs_photutils", "coverage_68",
                "residual_std", "wall_time_s", "peak_memory_bytes"):  # fmt: skip
        assert stored[key] == metrics[key]
        assert np.isfinite(stored[key])
    assert stored["seed"] == 2
    assert stored["settings"]["separator"] == {"width": 3.5}
    views = MultiViewDataset.read(out / "views.asdf")
    assert len(views["galaxy"]) == metrics["n_galaxies"]
    assert len(views["random"]) == 20
    assert len(QTable.read(out / "catalog.ecsv")) == metrics["n_galaxies"]
    with fits.open(out / "separated.fits") as hdus:
        assert hdus["GALAXY_MEAN"].data.shape == (metrics["n_galaxies"], 1, 24, 24)
        assert hdus["CATALOG"].header["APERTURE"] == "5.0"
    run_demo(out, seed=2, device="cpu", settings=settings, progress=False)  # again, in its place


def test_figures_against_an_oracle():
    """Posterior samples of known error give the figures that follow from it."""
    field = simulate_field((512, 512), seed=5)
    view = MultiViewDataset.from_image(field.image, size=24, n_random=1)["galaxy"]
    truth = field.truth_of(view)
    galaxy, los = (np.nan_to_num(images.value) for images in (truth.galaxy, truth.los))
    rng = np.random.default_rng(0)
    sigma = 2e-4  # of each pixel; the same error at all pixels adds up in the aperture
    error = sigma * rng.normal(size=(33, len(view), 1, 1, 1))
    draws = galaxy + error[0] + error[1:]
    samples = PosteriorSamples({"los": np.broadcast_to(los, draws.shape), "galaxy": draws}, view)
    metrics, rows, labels = evaluate(samples, field, DemoSettings(aperture=5.0))
    assert metrics["n_used"] > 60
    assert metrics["n_contaminated"] > 10
    # Median of |N(0, 1)| is 0.674; the error is that of 25 pi pixels.
    expected = 0.674 * sigma * 25 * np.pi
    assert metrics["error_separated"] == pytest.approx(expected, rel=0.6)
    assert metrics["coverage_68"] == pytest.approx(0.68, abs=0.15)
    assert metrics["residual_std"] == pytest.approx(1, abs=0.1)
    # The cutout is wrong by more than a tenth of the flux; photutils takes some of it out.
    assert metrics["error_observed"] > 0.1
    method = metrics["photutils_method"]
    assert metrics[f"error_photutils_{method}"] < metrics["error_observed"]
    ratio = metrics["error_separated"] / metrics["error_observed"]
    assert metrics["aperture_error_vs_observed"] == pytest.approx(ratio)
    assert len(rows) == len(labels) == DemoSettings().n_rows
    separated = aperture_flux(draws, 5.0, samples.positions)[..., 0].mean(axis=0)[rows]
    wrong = np.abs(separated / aperture_flux(galaxy, 5.0, samples.positions)[rows, 0] - 1)
    assert (np.diff(wrong) >= 0).all()
    assert [label.split("\n")[0] for label in labels] == ["good"] * 4 + ["bad"] * 4
    assert float(labels[-1].split()[-1].strip("+-%")) == pytest.approx(100 * wrong[-1], abs=0.6)


def test_figures_that_cannot_be_had_are_none():
    field = simulate_field((320, 320), seed=2)
    view = MultiViewDataset.from_image(field.image, size=24, n_random=1)["galaxy"][:4]
    half = np.repeat(view.data[None] / 2, 2, axis=0)
    samples = PosteriorSamples({"los": half, "galaxy": half}, view)
    metrics, rows, labels = evaluate(samples, field, DemoSettings(contamination=1.0))
    assert metrics["n_contaminated"] == 0
    for key in ("aperture_error_vs_observed", "error_separated", "coverage_68"):
        assert metrics[key] is None
    assert len(rows) > 0
    metrics |= {"n_galaxies": 4, "n_randoms": 8, "wall_time_s": 1.0, "peak_memory_bytes": None,
                "coverage_68_contaminated": None, "device": "none",
                "settings": {"aperture": 5.0, "contamination": 1.0}}  # fmt: skip
    table = format_metrics(metrics)
    assert "separated / observed" in table
    assert "of those with over 100% line-of-sight light" in table
    assert labels[-1].startswith("bad")


def test_a_model_that_comes_with_the_package(tmp_path, capsys):
    settings = replace(QUICK, shape=(256, 256), n_samples=2, detection={"min_snr": 60})
    metrics = run_demo(tmp_path, seed=2, device="cpu", settings=settings, progress=False)
    assert metrics["n_randoms"] == 0
    assert not (tmp_path / "model.asdf").exists()
    assert metrics["residual_std"] == pytest.approx(1, abs=0.15)
    assert "separated well, and badly" in capsys.readouterr().out


def test_out_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: cannot be made a folder"):
        run_demo(tmp_path / "file")


def test_with_the_separator_itself(tmp_path, capsys):
    """Small, and too short to separate well; but nothing is a stand-in."""
    options = {
        "n_em_iterations": 1,
        "training": {"n_first_images": 640, "n_images": 160},
        "chains": {"sampler": "adams-bashforth", "n_steps": 4},  # right with few steps, too
        "warm_start": {"name": "gaussian", "iterations": 1},
        "network": {"name": "unet", "channels": (4, 8), "blocks": (1, 1), "embedding": 8},
    }
    settings = DemoSettings(
        shape=SHAPE, size=16, n_samples=8, separator=options, n_rows=3, detection={}
    )
    metrics = run_demo(tmp_path, seed=2, device="cpu", settings=settings, progress=False)
    assert "posterior samples" not in capsys.readouterr().err  # no bars
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES
    assert metrics["n_randoms"] == 2 * metrics["n_galaxies"]
    assert metrics["residual_std"] == pytest.approx(1, abs=0.25)
    assert metrics["peak_memory_bytes"] < 4 * 2**30
    separator = DiffusionSourceSeparator.read(tmp_path / "model.asdf")
    assert separator.sources_ == ("los", "galaxy")
    assert len(separator.history_) == 4
