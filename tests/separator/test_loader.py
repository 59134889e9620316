"""Views as the core asks for them, against what numpy makes of their arrays."""

import numpy as np
import pytest
import torch

from astro_ddprism import MultiViewDataset
from astro_ddprism.separator.loader import ViewLoader

CPU = torch.device("cpu")


@pytest.fixture
def view():
    rng = np.random.default_rng(0)
    mask = np.zeros((4, 3), dtype=bool)
    mask[1, 2] = mask[2, :2] = True
    return MultiViewDataset.from_arrays(
        {
            "view": {
                "data": rng.normal(0, 5, (4, 3)),
                "variance": rng.uniform(1, 4, (4, 3)),
                "mask": mask,
                "mixing": {"a": rng.normal(size=(4, 3, 2)), "b": 2.0 * np.eye(3)},
                "unit": "uJy",
            }
        }
    )["view"]


def test_what_a_view_holds(view):
    loader = ViewLoader(view, 0.5, CPU)
    assert loader.sources == ("a", "b")
    assert loader.source_shapes == {"a": (2,), "b": (3,)}
    assert len(loader) == 4
    assert loader.n_observed == 3
    assert list(loader.n_valid([1, 2, 0])) == [2, 1, 3]
    assert list(loader.ids) == list(view.ids)


def test_observations_are_whitened(view):
    """In units of the scale, which the sources have too; what is masked carries nothing."""
    scale, index = 0.5, np.array([2, 0, 3])
    observation = ViewLoader(view, scale, CPU).observe(index)
    weight = np.where(view.mask, 0, 1 / np.sqrt(view.variance))[index]
    y = observation.y.numpy()
    np.testing.assert_allclose(y, weight * np.where(view.mask, 0, view.data)[index], rtol=1e-5)
    x = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    matrix = view.mixing["a"].state()["matrix"][index]
    light = np.einsum("nij,nj->ni", matrix, x[:, :2]) + 2 * x[:, 2:]
    found = observation.forward(torch.as_tensor(x)).numpy()
    np.testing.assert_allclose(found, weight * scale * light, rtol=1e-4, atol=1e-5)


def test_repeated_observations_are_known_once(view):
    loader = ViewLoader(view, 1.0, CPU)
    observation = loader.observe(np.array([3, 1, 3, 3]))
    alone, inverse = observation.distinct
    assert len(alone) == 2
    assert torch.equal(alone.y[inverse], observation.y)
    whole = loader.observe(np.array([3, 1]))
    assert whole.distinct[0] is whole
