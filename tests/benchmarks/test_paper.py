"""The published tables: what is measured, on a handful of observations."""

import json

import numpy as np
import pytest
import torch

from benchmarks.grassy_mnist import problem as grassy
from benchmarks.grassy_mnist import study as grassy_study
from benchmarks.manifolds.problems import data_folder
from benchmarks.paper import manifolds

pytestmark = pytest.mark.skipif(
    not data_folder().is_dir(), reason=f"{data_folder()}: not found (ASTRO_DDPRISM_DATA)"
)


def test_curves(tmp_path, monkeypatch):
    """Every figure of a baseline, in the record; PSNR in the range of linear methods."""
    training = {"n_first_images": 4000, "batch_size": 64, "learning_rate": 0.03}
    quick = manifolds.QUICK | {
        "n": 128,
        "n_sources": [3],
        "n_calibration": 8,
        "baselines": {"pcpca": {"rank": 5, "training": training}},
        "samplers": {},
    }
    monkeypatch.setattr(manifolds, "QUICK", quick)
    manifolds.main(["--quick", "--device", "cpu", "--out", str(tmp_path / "out.json")])
    (row,) = json.loads((tmp_path / "out.json").read_text())["figures"]["methods"]
    assert (row["problem"], row["method"], row["kind"]) == ("contrastive-3", "pcpca", "baseline")
    assert row["psnr_published"] == 6.89
    assert 3 < row["psnr_mean"] < 16
    assert 0.5 < row["chi2_mean"] < 2  # of exact draws


def test_grass_and_digits():
    views, digits = grassy.load(6, 5, seed=1, first=2)
    assert views.source_shapes == {"grass": (1, 28, 28), "digit": (1, 28, 28)}
    assert (len(views["grass"]), views["digit"].data.shape) == (6, digits.shape)
    left = views["digit"].data - grassy.AMPLITUDE * digits
    assert -0.05 < left.min() < left.max() < 1.05
    _, others = grassy.load(1, 3, seed=2, first=4)
    np.testing.assert_array_equal(others, digits[2:])
    light = views["digit"].mixing["digit"](torch.tensor(digits).float())
    np.testing.assert_allclose(light, digits / 2, rtol=1e-6)
    wrong = digits + np.where(digits > 0.5, -0.1, 0.1)
    np.testing.assert_allclose(grassy_study.psnr(wrong, digits), 20, atol=1e-3)
    np.testing.assert_allclose(grassy_study.psnr(digits - 5 * (digits == 0), digits), 120)
