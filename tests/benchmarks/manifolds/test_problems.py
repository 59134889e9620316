import numpy as np
import pytest
import torch

from benchmarks.manifolds.problems import (
    RandomCurve,
    generate_contrastive,
    generate_mixed,
    load_contrastive,
    load_mixed,
    to_dataset,
)


def residuals(problem, view):
    """Observations less what the truth predicts."""
    truth, chosen = problem.truth(view), problem.views[view]
    seen = [np.einsum("nij,nj->ni", A, truth[source]) for source, A in chosen.mixing.items()]
    return chosen.y - sum(seen)


def check_noise(problem, n):
    """Residuals are noise, to five standard deviations of its estimated scale."""
    for name, view in problem.views.items():
        noise = residuals(problem, name)
        assert noise.shape == view.y.shape
        assert len(view) == n
        assert noise.std() == pytest.approx(problem.noise_std, rel=5 / np.sqrt(2 * noise.size))
        assert abs(noise.mean()) < 5 * problem.noise_std / np.sqrt(noise.size)


@pytest.mark.parametrize("n_sources", [2, 3])
def test_published_contrastive(manifolds, n_sources):
    problem = load_contrastive(4096, n_sources=n_sources, folder=manifolds)
    assert problem.name == f"contrastive-{n_sources}"
    assert problem.x.shape == (65_536, n_sources, 5)
    views = {name: list(view.mixing) for name, view in problem.views.items()}
    assert views == {
        f"view {k}": [f"source {s}" for s in range(1, k + 1)] for k in range(1, n_sources + 1)
    }
    check_noise(problem, 4096)


def test_published_mixed(manifolds):
    problem = load_mixed(4096, folder=manifolds)
    first, second = problem.views.values()
    assert first.y.shape == second.y.shape == (4096, 3)
    np.testing.assert_array_equal(first.mixing["source 1"], second.mixing["source 2"])
    np.testing.assert_allclose(first.mixing["source 2"], 0.1 * second.mixing["source 2"], rtol=1e-6)
    assert not set(first.truth) & set(second.truth)
    check_noise(problem, 4096)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"contrastive\.npz: not found; ASTRO_DDPRISM_DATA"):
        load_contrastive(folder=tmp_path)


def test_a_dataset_has_all_but_the_truth():
    problem = generate_mixed(20, f=0.3, noise_std=0.02, seed=1, n_spare=0)
    dataset = to_dataset(problem)
    assert dataset.sources == problem.sources == ("source 1", "source 2")
    assert dataset.noise_scale == pytest.approx(0.02)
    for name, view in dataset.items():
        batch = view.batch()
        truth = {source: torch.as_tensor(x) for source, x in problem.truth(name).items()}
        model = sum(batch.mixing[source](x) for source, x in truth.items())
        expected = torch.as_tensor(residuals(problem, name))
        torch.testing.assert_close(batch.y - model, expected, atol=1e-6, rtol=0)


def test_generated_contrastive():
    options = {"dimension": 4, "n_observed": 2, "noise_std": 0.05, "n_spare": 100}
    problem = generate_contrastive(5000, 3, seed=5, **options)
    assert problem.x.shape == (15_100, 3, 4)
    assert [list(view.mixing) for view in problem.views.values()] == [
        ["source 1"], ["source 1", "source 2"], ["source 1", "source 2", "source 3"]
    ]  # fmt: skip
    check_noise(problem, 5000)
    noise = [residuals(problem, name).ravel() for name in problem.views]
    np.testing.assert_allclose(np.corrcoef(noise), np.eye(3), atol=5 / np.sqrt(noise[0].size))
    rows = [view.truth for view in problem.views.values()]
    np.testing.assert_array_equal(np.concatenate(rows), np.arange(15_000))

    again = generate_contrastive(5000, 3, seed=5, **options)
    other = generate_contrastive(5000, 3, seed=6, **options)
    np.testing.assert_array_equal(again.views["view 3"].y, problem.views["view 3"].y)
    assert abs(np.corrcoef(other.views["view 3"].y.T, problem.views["view 3"].y.T)[2, 0]) < 0.1


def test_generated_like_published(manifolds):
    """Matrices and ranges are those of the shared file."""
    published = load_contrastive(5000, folder=manifolds)
    generated = generate_contrastive(5000, seed=0)
    for problem in (published, generated):
        A = problem.views["view 1"].mixing["source 1"]
        np.testing.assert_allclose(np.linalg.norm(A, axis=-1), 1, rtol=1e-6)
        assert A.mean() == pytest.approx(0, abs=5 / np.sqrt(5 * A.size))
        # Of two random directions in five dimensions.
        angles = np.einsum("nj,nj->n", A[:, 0], A[:, 1])
        assert angles.std() == pytest.approx(5**-0.5, rel=5 / np.sqrt(2 * len(A)))
        np.testing.assert_allclose(problem.x.min(0), -2, atol=0.01)
        np.testing.assert_allclose(problem.x.max(0), 2, atol=0.01)


@pytest.mark.parametrize(("f", "n_in_view"), [(0, 1), (0.25, 3), (1, 3)])
def test_generated_mixed(f, n_in_view):
    problem = generate_mixed(2000, 3, f=f, seed=0, n_spare=0)
    assert problem.name == f"mixed-{f}"
    for own, view in zip(problem.sources, problem.views.values(), strict=True):
        assert len(view.mixing) == n_in_view
        norms = {s: np.linalg.norm(A, axis=-1).mean() for s, A in view.mixing.items()}
        assert norms.pop(own) == pytest.approx(1)
        assert list(norms.values()) == pytest.approx([f] * (n_in_view - 1))
    check_noise(problem, 2000)


def test_a_curve_is_its_series():
    curve = RandomCurve(np.random.default_rng(3), 5, 4)
    a, b, c = np.random.default_rng(3).random((3, 5, 6))
    z = np.linspace(0, 1, 1000)
    points = curve(z)
    for d in range(5):
        series = sum(
            a[d, k - 1] / k**4 * np.sin(2 * np.pi * (k * b[d, k - 1] * z + c[d, k - 1]))
            for k in range(1, 7)
        )
        slope, offset = np.polyfit(series, points[:, d], 1)
        np.testing.assert_allclose(slope * series + offset, points[:, d], atol=1e-12)
        assert slope > 0
        assert (points[:, d].min(), points[:, d].max()) == pytest.approx((-2, 2), abs=1e-3)
