"""The study of a real pair of images, small enough to run here."""

import json

import numpy as np
import pytest

from benchmarks.instruments import study as instruments


@pytest.fixture
def quick(monkeypatch):
    """A study of few iterations and one draw, where its images are."""
    if not instruments.data_folder().is_dir():
        pytest.skip(f"no images at {instruments.data_folder()} (ASTRO_DDPRISM_DATA: parent folder)")
    toy = {"n_iterations": 1, "cg_iterations": 6, "n_samples": 1}
    monkeypatch.setattr(instruments, "QUICK", instruments.QUICK | toy)


@pytest.mark.usefixtures("quick")
def test_study(tmp_path):
    out = tmp_path / "instruments.json"
    (tmp_path / "_static").mkdir()
    instruments.main(["--quick", "--out", str(out), "--docs", str(tmp_path)])
    figures = json.loads(out.read_text())["figures"]
    # What no header tells: HST's astrometry is off by two of its pixels.
    assert 1 < np.hypot(*figures["shift_hst_pixels"]) < 3
    assert figures["weights_hst"][:2] == [0, 0]  # nothing of g and r is in F814W
    for name in ("sky_noise_alone", "with_photon_noise"):
        assert {k: len(v["bands"]) for k, v in figures[name].items()} == {"hst": 1, "hsc": 5}
    # Six iterations bring the images into the source, though not to the noise.
    bands = figures["with_photon_noise"]["hsc"]["bands"]
    assert 0.7 < min(band["rms_faint"] for band in bands) < 3
    assert (tmp_path / "_static" / "instruments.png").exists()
