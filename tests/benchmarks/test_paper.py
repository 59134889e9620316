"""The published tables: what is measured, on a handful of observations."""

import json

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from benchmarks.basis import study as basis
from benchmarks.colorization import study as colorization
from benchmarks.grassy_mnist import metrics
from benchmarks.grassy_mnist import problem as grassy
from benchmarks.grassy_mnist import study as grassy_study
from benchmarks.manifolds.problems import data_folder, generate_mixed
from benchmarks.paper import figures, manifolds, table1

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


def test_sources_with_operators_of_their_own():
    """What is observed is the sum of what each source's matrix makes of it, but for the noise."""
    options = {"n": 64, "seed": 3, "n_spare": 8, "noise_std": 1e-5}
    for own in (False, True):
        problem = generate_mixed(f=1, own_operators=own, **options)
        view = problem.views["view 2"]
        first, second = view.mixing.values()
        assert (abs(first - second).max() > 0.5) == own
        truth = problem.truth("view 2")
        seen = sum(np.einsum("nij,nj->ni", A, truth[s]) for s, A in view.mixing.items())
        np.testing.assert_allclose(view.y, seen, atol=1e-4)


def test_table_and_figures(tmp_path):
    """One row for every method of both studies, and pictures of what was recorded."""
    rows = {
        "paper_manifolds": [
            {"problem": "c", "method": "joint", "psnr_mean": 4.0, "psnr_published": 3.0}
        ],
        "grassy_mnist": [{"problem": "full", "method": "pcpca", "psnr_mean": 1.0, "frechet": 2.0}],
    }
    for name, methods in rows.items():
        em = [{"problem": "full", "time_s": 60.0, "psnr": 20.0}]
        record = {"figures": {"methods": methods, "em": em}, "configuration": {}}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    out = tmp_path / "table1.json"
    table1.main(["--records", str(tmp_path), "--out", str(out), "--device", "cpu"])
    first, second = json.loads(out.read_text())["figures"]["rows"]
    assert (first["method"], first["psnr"], first["psnr_published"]) == ("diffusion", 4.0, 3.0)
    assert (second["frechet"], second["pqmass"]) == (2.0, None)
    mixing_rows = [
        {"weight": f, "sampler": name, "sinkhorn_posterior": 0.1, "sinkhorn_prior": 0.2}
        for f in (0, 1)
        for name in ("joint", "gibbs")
    ]
    record = {"figures": {"weights": mixing_rows}}
    (tmp_path / "paper_mixing.json").write_text(json.dumps(record))
    (tmp_path / "_static").mkdir()
    figures.main(["--records", str(tmp_path), "--docs", str(tmp_path)])
    assert len(list((tmp_path / "_static").iterdir())) == 2


def test_grass_and_digits():
    views, truth = grassy.load(6, 5, seed=1, first=2)
    digits = truth["digit"]
    assert views.source_shapes == {"grass": (1, 28, 28), "digit": (1, 28, 28)}
    assert (len(views["grass"]), views["digit"].data.shape) == (6, digits.shape)
    left = views["digit"].data - grassy.AMPLITUDE * digits
    assert -0.05 < left.min() < left.max() < 1.05
    _, others = grassy.load(1, 3, seed=2, first=4)
    np.testing.assert_array_equal(others["digit"], digits[2:])
    light = views["digit"].mixing["digit"](torch.tensor(digits).float())
    np.testing.assert_allclose(light, digits / 2, rtol=1e-6)
    _, ten = grassy.load(1, 40, digits="ten")
    np.testing.assert_array_equal(ten["digit"][:, 0], grassy.labelled_digits()[0][:40])


def test_mixed_resolutions():
    """A third each; a pixel is the mean of its patch, and its noise its own."""
    same, _ = grassy.load(6, 7, seed=1)
    views, truth = grassy.load(6, 7, seed=1, resolutions=(1, 2, 4))
    assert {name: len(view) for name, view in views.items()} == {
        "grass 1": 2, "grass 2": 2, "grass 4": 2, "digit 1": 3, "digit 2": 2, "digit 4": 2
    }  # fmt: skip
    image = np.random.default_rng(0).normal(size=(28, 28))
    for k, side in enumerate((1, 2, 4)):
        mean = image.reshape(28 // side, side, 28 // side, side).mean(axis=(1, 3))
        expected = np.kron(mean, np.ones((side, side)))
        np.testing.assert_allclose(
            (grassy.patch_mean(side) @ image.ravel()).reshape(28, 28), expected
        )
        view = views[f"digit {side}"]
        x = {s: torch.tensor(image[None, None]).float() for s in ("grass", "digit")}
        light = {s: operator[:1](x[s]) for s, operator in view.mixing.items()}
        np.testing.assert_allclose(light["grass"][0, 0], expected, atol=1e-5)
        np.testing.assert_allclose(light["digit"][0, 0], expected / 2, atol=1e-5)
        whole = same["digit"].data[k::3].reshape(-1, 784) @ grassy.patch_mean(side)
        left = view.data.reshape(-1, 784) - whole
        assert 0.009 < left.std() < 0.015  # of both noises
        assert len(truth[f"digit {side}"]) == len(view)


def test_figures_of_digits():
    rng = np.random.default_rng(0)
    digits = rng.uniform(size=(5, 1, 28, 28))
    wrong = digits + np.where(digits > 0.5, -0.1, 0.1)
    np.testing.assert_allclose(metrics.psnr(wrong, digits), 20, atol=1e-3)
    np.testing.assert_allclose(metrics.psnr(digits - 5 * (digits == 0), digits), 120)
    u = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 3))
    v = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3)) + 1
    means, whole = metrics.frechet(u, v)
    c_u, c_v = np.cov(u.T), np.cov(v.T)
    expected = np.sum((u.mean(axis=0) - v.mean(axis=0)) ** 2)
    assert means == pytest.approx(expected)
    expected += np.trace(c_u + c_v - 2 * sqrtm(c_u @ c_v).real)
    assert whole == pytest.approx(expected, rel=1e-6)


def test_digits_are_learned_in_turns(tmp_path, monkeypatch):
    """The whole study, of a few observations and tiny networks; a second run has nothing to do."""
    tiny = {"name": "unet", "channels": [4, 8], "blocks": [1, 1], "embedding": 8}
    own = dict(grassy_study.QUICK["methods"]["diffusion"])
    own |= {
        "network": tiny,
        "training": {"n_first_images": 640, "n_images": 640, "n_observations": 6},
    }
    own |= {"n_em_iterations": {"grass": 0, "digit": 2}, "chains": {"n_steps": 3, "start": 0.7}}
    own["posterior"] = own["posterior"] | {"network": tiny, "n_images": 640, "n_matched": 2}
    quick = {"n_grass": 12, "n_digits": 8, "n_held_out": 4, "n_mean": 2, "n_features": 256}
    quick |= {"n_tessellations": 2, "methods": {"diffusion": own}}
    monkeypatch.setattr(grassy_study, "QUICK", grassy_study.QUICK | quick)
    monkeypatch.setattr(metrics, "pqmass", lambda *_, **__: 0.25)  # which needs hundreds of them
    monkeypatch.setitem(
        grassy_study.SAMPLERS,
        "moment matching",
        {"posterior": "moment-matching", "chains__n_steps": 3},
    )
    (tmp_path / "_static").mkdir()
    options = ["--quick", "--device", "cpu", "--out", str(tmp_path / "out.json")]
    options += ["--work", str(tmp_path / "work"), "--docs", str(tmp_path)]
    grassy_study.main(options)
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    assert [row["method"] for row in figures["methods"]] == ["moment matching", "amortized"]
    assert [row["psnr_published"] for row in figures["methods"]] == [25.60, None]
    assert all(np.isfinite(row["psnr_held_out"]) for row in figures["methods"])
    # The draws of the last E-step are not kept beyond it.
    assert [row["iteration"] for row in figures["em"]] == [0, 1]
    assert figures["em"][1]["gain"] == figures["em"][1]["psnr"] - figures["em"][0]["psnr"]
    assert (tmp_path / "_static" / "grassy_mnist_full.png").exists()
    monkeypatch.setattr(grassy_study, "fit", None)
    grassy_study.main(options)
    assert json.loads((tmp_path / "out.json").read_text())["figures"] == figures


def test_pairs_of_digits():
    """Both methods on two pairs, under a prior that has learned next to nothing."""
    fit = basis.FIT | {
        "network": {"name": "unet", "channels": [4, 8], "blocks": [1, 1], "embedding": 8}
    }
    fit |= {"training": {"n_first_images": 320, "batch_size": 16}}
    methods = {"langevin": [16], "moment-matching": [16]}
    configuration = {"n_clean": 16, "n_pairs": 2, "methods": methods, "fit": fit}
    figures = basis.run(configuration, torch.device("cpu"))
    assert [row["evaluations"] for row in figures["methods"]] == [17, 17]
    assert figures["methods"][0]["residual"] < 0.05  # of mixtures whose noise is 1e-4
    view, truth = basis.pairs(grassy.labelled_digits()[0][:, None], 3, np.random.default_rng(0))
    assert abs(view.data - truth.mean(axis=0)).max() < 1e-3


def test_colours_of_galaxies():
    """Peaks wider than stars are found, and colours are those of the light in an aperture."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:200, :200]
    image = rng.normal(size=(200, 200))
    places = {(40, 50): 3.0, (120, 60): 1.0, (100, 150): 2.5}
    for (row, column), width in places.items():
        image += 100 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 2 / width**2)
    found = colorization.find_galaxies(image, 1.0, 24)
    assert {(40, 50), (100, 150)} == {tuple(p) for p in found}
    stamps = np.ones((2, 3, 9, 9)) * np.array([4.0, 2.0, 1.0])[:, None, None]
    flux = colorization.aperture_flux(stamps, 1.0)
    np.testing.assert_array_equal(flux, [[20.0, 10.0, 5.0]] * 2)
    np.testing.assert_allclose(colorization.colours(flux), -2.5 * np.log10(2))
    known = np.array([[0.0, 1.0], [1.0, 2.0], [5.0, 6.0]])
    near = colorization.of_same_flux(np.array([1.1]), np.array([1.0, 1.2, 9.0]), known, 2)
    np.testing.assert_allclose(near, [[0.5, 1.5]])
    error = np.append(rng.normal(size=4000), [50.0] * 5)
    assert colorization.clipped_rms(error) == pytest.approx(1, rel=0.05)
