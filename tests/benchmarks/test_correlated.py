"""What a fit makes of noise whose correlation it knows, or not."""

import json

import numpy as np
import pytest

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset
from astro_ddprism.evaluate.metrics import interval_coverage
from astro_ddprism.mixing import CorrelatedNoise, DenseMatrix
from astro_ddprism.separator.parts import (
    MLP,
    Chains,
    Execution,
    MomentMatching,
    Training,
    WarmStart,
)
from benchmarks.correlated import study as correlated


@pytest.fixture(scope="module")
def images():
    """The light of a star and how far it is off, in 4 x 4 pixels that share their noise."""
    rng = np.random.default_rng(3)
    x = rng.normal([30.0, 4.0], [8.0, 3.0], (800, 2))
    y0, x0 = np.mgrid[:4, :4] - 1.5
    star = np.exp(-(x0**2 + y0**2) / 4)
    A = np.stack([star, x0 * star], axis=-1).reshape(16, 2)
    row = np.array([0.45, 1, 0.45])
    noise = CorrelatedNoise(np.ones((800, 4, 4)), np.outer(row, row))
    distance = np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    one = np.choose(distance, [1, 0.45, 0, 0])
    draws = rng.multivariate_normal(np.zeros(16), np.kron(one, one), 800).reshape(800, 4, 4)
    data = (x @ A.T).reshape(800, 4, 4) + draws
    return x, data, DenseMatrix(A, (2,), (4, 4)), noise


@pytest.mark.parametrize("known", [True, False])
def test_only_a_fit_that_knows_the_correlation_is_calibrated(images, known):
    """The priors and their posteriors are learned and drawn; the truths are known."""
    x, data, A, noise = images
    noise = {"noise": noise} if known else {"variance": 1.0}
    views = MultiViewDataset.from_arrays({"sky": {"data": data, "mixing": {"a": A}, **noise}})
    separator = DiffusionSourceSeparator(
        device="cpu",
        progress=False,
        network=MLP(width=16, depth=1, embedding=8),
        posterior=MomentMatching(solver="dense"),
        warm_start=WarmStart(components=1),
        training=Training(n_first_images=640, learning_rate=1e-4),
        chains=Chains(n_steps=50, start=0.2),
        n_em_iterations=0,
        execution=Execution(batch_size=4096),
    ).fit(views)
    drawn = separator.sample(views["sky"], n_samples=39).samples["a"].value
    within_68, within_95 = np.array(
        [[interval_coverage(drawn[..., k], x[:, k], p) for k in (0, 1)] for p in (0.68, 0.95)]
    )
    if known:  # to three standard errors of 800 observations, and a hundredth for the draws
        np.testing.assert_allclose(within_68, 0.68, atol=0.06)
        np.testing.assert_allclose(within_95, 0.95, atol=0.033)
    else:  # least squares that weigh all pixels alike: 0.44 and 0.50, 0.74 and 0.81
        assert within_68.max() < 0.58
        assert within_95.max() < 0.88


def test_drizzled_noise_has_its_variance_and_correlation():
    """Against the covariance that exact areas of overlap lead to."""
    setting = correlated.FULL | {"size": 12}
    noise, variance = correlated.drizzled_noise(3000, setting, np.random.default_rng(0))
    assert variance.mean() == pytest.approx(1)
    assert noise.var() == pytest.approx(1, abs=0.02)
    standard = (noise / np.sqrt(variance))[:, 0]
    # Along an axis the noise is white noise of wide pixels, averaged over the drop and the pixel.
    pixel = setting["drizzle"]["pixel"]
    drop = pixel * setting["drizzle"]["pixfrac"]
    fine = np.linspace(-3, 3, 6001)
    overlap = np.clip(np.minimum(fine + drop / 2, 0.5) - np.maximum(fine - drop / 2, -0.5), 0, None)
    self_overlap = np.correlate(overlap, overlap, "full")[6000:8001:1000]
    expected = self_overlap / self_overlap[0]
    for lag in (1, 2):
        found = np.mean(standard[:, :, :-lag] * standard[:, :, lag:])
        assert found == pytest.approx(expected[lag], abs=0.02)


def test_study(tmp_path, monkeypatch):
    """Of a few galaxies and training steps."""
    config = {
        "network": {"name": "unet", "channels": [4, 8], "embedding": 8},
        "warm_start": {"name": "gaussian", "iterations": 1},
        "training": {"n_first_images": 320},
        "chains": {"n_steps": 4},
        "n_em_iterations": 0,
    }
    toy = {"n_observations": 48, "n_held_out": 24, "config": config}
    monkeypatch.setattr(correlated, "QUICK", correlated.QUICK | toy)
    (tmp_path / "_static").mkdir()
    out = tmp_path / "correlated.json"
    correlated.main(["--quick", "--out", str(out), "--docs", str(tmp_path)])
    rows = json.loads(out.read_text())["figures"]["rows"]
    assert [row["noise"] for row in rows] == ["correlated", "independent"]
    assert all(0 < row["coverage_68"] <= row["coverage_95"] <= 1 for row in rows)
    assert (tmp_path / "_static" / "correlated.png").exists()
