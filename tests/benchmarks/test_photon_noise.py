"""What becomes of fluxes whose photons make noise, by what is taken for it."""

import json

import numpy as np
import pytest

from benchmarks.photon_noise import study as photon_noise
from benchmarks.record import run_study


def test_counts_have_the_noise_of_their_photons():
    rng = np.random.default_rng(1)
    setting = photon_noise.FULL | {"flux": [400.0, 400.0 + 1e-9]}
    flux, data = photon_noise.observe(4000, setting, rng)
    light = flux[0] * photon_noise.profile_of(setting)
    assert light.sum() == pytest.approx(400)
    np.testing.assert_allclose(data.mean(axis=0), light, atol=0.7)  # five standard deviations
    np.testing.assert_allclose(data.var(axis=0), 1 + light, rtol=0.12)


def test_the_whole_study(tmp_path):
    """That of a few objects: whoever forgets the photons is too sure."""
    out = tmp_path / "photons.json"
    quick = photon_noise.QUICK
    run_study(
        "photon_noise", "", photon_noise.run, quick, quick, ["--out", str(out), "--device", "cpu"]
    )
    rows = {row["noise"]: row for row in json.loads(out.read_text())["figures"]["rows"]}
    assert list(rows) == ["effective gain", "noise of the data", "background alone"]
    assert all(row["n"] == quick["n_held_out"] for row in rows.values())
    assert rows["background alone"]["coverage_95"] < 0.8 < rows["effective gain"]["coverage_95"]
    assert abs(rows["effective gain"]["bias"]) < 0.6
    assert rows["noise of the data"]["bias"] < -0.3
