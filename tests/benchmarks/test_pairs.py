"""The study of learned pairs: its simulation, its figures, and a run of a few steps."""

import json

import numpy as np
import pytest
import torch

from benchmarks.pairs import study as pairs

TOY = pairs.QUICK | {"n_observations": 24, "n_held_out": 6, "n_samples": 2}


@pytest.fixture(scope="module")
def galaxies():
    if not pairs.data_folder().is_dir():
        pytest.skip(f"no catalog at {pairs.data_folder()} (ASTRO_DDPRISM_DATA: parent folder)")
    return pairs.catalog_galaxies(pairs.data_folder(), TOY)


@pytest.fixture(scope="module")
def sky(galaxies):
    return pairs.Sky(galaxies["fit"], 6, TOY, 0, share_fine=0.5)


def test_operators_see_what_galsim_drew(sky):
    """The truth in its frame, seen by each instrument, is its image up to noise."""
    dataset = sky.dataset(["fine", "coarse"], TOY)
    n_valid = {name: image.n_valid() for name, image in dataset["sky"].images.items()}
    assert (n_valid["fine"] > 0).tolist() == [True] * 3 + [False] * 3
    assert (n_valid["coarse"] == 144).all()
    for name, image in dataset["sky"].images.items():
        seen = n_valid[name] > 0
        truth = torch.as_tensor(sky.truth, dtype=torch.float32)
        residual = image.data - image.mixing["galaxy"](truth).numpy()
        chi2 = (residual**2 / image.variance)[seen].mean(axis=(1, 2, 3))
        # The light of the largest galaxies reaches beyond the frame; that of most does not.
        assert 0.85 < np.median(chi2) < 1.2, name


def test_figures_of_known_images(sky):
    modes = pairs.Modes(TOY)
    truth = sky.truth
    assert modes.share_explained(truth, truth) == 1
    assert modes.share_explained(0 * truth, truth) == 0
    assert 1.2 < modes.limit < 2.5  # around one over the FWHM of 0.7 arcsec
    correlation, power = modes.correlation(2 * truth, truth)
    np.testing.assert_allclose(correlation, 1)
    np.testing.assert_allclose(power, 4)
    # What the coarse instrument sees of them says nothing of the finer modes.
    blurred = np.fft.ifft2(np.fft.fft2(truth) * modes.transfer).real
    assert abs(modes.share_explained(blurred, truth)) < 0.02


def test_estimates_without_diffusion(sky):
    view = sky.dataset(["coarse"], TOY)["sky"].images["coarse"]
    flux = sky.truth.sum(axis=(1, 2, 3))
    interpolated = pairs.interpolated(view, TOY)
    np.testing.assert_allclose(interpolated.sum(axis=(1, 2, 3)), flux, rtol=0.4)
    # With the truths themselves for a sample the posterior mean has to be near, if nearer theirs.
    linear = pairs.best_linear(view, sky.truth)
    np.testing.assert_allclose(linear.sum(axis=(1, 2, 3)), flux, rtol=0.2)
    errors = [((x - sky.truth) ** 2).mean() for x in (linear, interpolated)]
    assert errors[0] < 0.2 * errors[1]


@pytest.mark.usefixtures("galaxies")
def test_study(tmp_path, monkeypatch):
    """It learns both priors; a second time it finds them."""
    config = {
        "network": {"name": "unet", "channels": [4, 8], "embedding": 8},
        "warm_start": {"name": "gaussian", "iterations": 1},
        "training": {"n_first_images": 320, "n_images": 160},
        "chains": {"n_steps": 4},
        "n_em_iterations": 1,
    }
    monkeypatch.setattr(pairs, "QUICK", TOY | {"config": config})
    (tmp_path / "_static").mkdir()
    out = tmp_path / "pairs.json"
    arguments = ["--quick", "--out", str(out), "--docs", str(tmp_path), "--work", str(tmp_path)]
    pairs.main(arguments)
    figures = json.loads(out.read_text())["figures"]
    assert [row["estimate"] for row in figures["estimates"]] == [
        "pairs, mean", "pairs, a draw", "coarse alone, mean", "coarse alone, a draw",
        "best linear", "interpolated",
    ]  # fmt: skip
    assert figures["fits"]["pairs"]["n_observations"] == {"fine": 8, "coarse": 24}
    assert figures["fits"]["coarse alone"]["n_observations"] == {"coarse": 24}
    assert (tmp_path / "_static" / "pairs.png").exists()
    models = {name: (tmp_path / f"{name}.asdf").stat().st_mtime_ns
              for name in ("pairs", "coarse_alone")}  # fmt: skip
    pairs.main(arguments)
    assert json.loads(out.read_text())["figures"]["estimates"] == figures["estimates"]
    for name, time in models.items():
        assert (tmp_path / f"{name}.asdf").stat().st_mtime_ns == time
