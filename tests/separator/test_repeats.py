"""The same seed repeats a fit bit for bit, whether its data and draws are in memory or in files."""

import numpy as np
import pytest
import torch

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset
from astro_ddprism.diffusion import scratch
from astro_ddprism.io import asdf as asdf_module
from astro_ddprism.io import mapped
from astro_ddprism.mixing import Identity
from astro_ddprism.separator import loader as loader_module

SHAPE = (1, 8, 8)
SMALL = {"name": "unet", "channels": [4], "blocks": [1], "embedding": 8}
IMAGES = {
    "network": SMALL,
    "training": {"n_first_images": 640, "n_images": 320},
    "chains": {"n_steps": 2, "max_chi2": 9.0},
    "warm_start": {"rank": 6, "iterations": 1},
    "n_em_iterations": 1,
}
AMORTIZED = {
    "posterior": {
        "name": "amortized",
        "network": SMALL,
        "n_images": 640,
        "n_steps": 2,
        "templates": ["galaxy"],
        "flux_factors": {"galaxy": [0.2, 4.0]},
    }
}
VECTORS = {
    "network": {"name": "mlp", "width": 16},
    "training": {"n_first_images": 640, "n_images": 320},
    "chains": {"n_steps": 2},
    "warm_start": {"components": 4},
    "n_em_iterations": 1,
}


def image_views():
    """Faint light everywhere, and blobs in the middle of galaxies; some pixels are masked."""
    rng, n = np.random.default_rng(2), 40
    y, x = np.mgrid[:8, :8] - 4
    blob = np.exp(-(x**2 + y**2) / 4) * rng.uniform(20, 60, (n, 1, 1, 1))
    views = {"random": ("los",), "galaxy": ("los", "galaxy")}
    return MultiViewDataset.from_arrays(
        {
            name: {
                "data": rng.normal((len(sources) - 1) * blob, 1.2, (n, *SHAPE)),
                "variance": 1.0,
                "mask": rng.random((n, *SHAPE)) < 0.01,
                "mixing": dict.fromkeys(sources, Identity(SHAPE)),
            }
            for name, sources in views.items()
        }
    )


def vector_views():
    rng = np.random.default_rng(1)
    matrices = rng.normal(size=(200, 3, 2))
    data = np.einsum("nij,nj->ni", matrices, rng.normal(0, 3, (200, 2)))
    data += rng.normal(0, 0.5, data.shape)
    return MultiViewDataset.from_arrays(
        {"one": {"data": data, "variance": 0.25, "mixing": {"a": matrices}}}
    )


CASES = {
    "moment matching": (image_views, IMAGES),
    "amortized": (image_views, {**IMAGES, **AMORTIZED}),
    "vectors": (vector_views, VECTORS),
}


def weights(dataset, options):
    separator = DiffusionSourceSeparator.from_config(
        {"device": "cpu", "progress": False, "seed": 5, **options}
    ).fit(dataset)
    networks = {**separator.priors_, **separator.posterior_}
    found = {name: network.state_dict() for name, network in networks.items()}
    numbers = [[row["loss"], row["chi2"], row["power"]] for row in separator._fitted.state.history]
    return found, numbers


def assert_same_bits(one, other):
    assert one[0].keys() == other[0].keys()
    for name, own in one[0].items():
        for key, value in own.items():
            assert torch.equal(value, other[0][name][key]), (name, key)
    assert one[1] == other[1]


@pytest.mark.parametrize("case", CASES)
def test_a_fit_is_repeated_from_memory_and_from_files(case, tmp_path, monkeypatch):
    """Once as it is; once more with views, draws and templates in files, in many parts."""
    views, options = CASES[case]
    first = weights(views(), options)
    views().write(tmp_path / "views.asdf")
    with monkeypatch.context() as patch:
        for module in (mapped, asdf_module):
            patch.setattr(module, "LEAST", 64)
        patch.setattr(mapped.row_slices, "__defaults__", (3000,))
        patch.setattr(scratch, "MOST_IN_MEMORY", 0)
        patch.setattr(scratch, "PART", 3000)
        patch.setattr(loader_module, "MOST_BYTES", 0)
        views().write(tmp_path / "lazy.asdf")
        lazy = MultiViewDataset.read(tmp_path / "lazy.asdf", memmap=True)
        assert all(mapped.is_mapped(view.data) for view in lazy.values())
        assert_same_bits(weights(lazy, options), first)
    assert_same_bits(weights(MultiViewDataset.read(tmp_path / "views.asdf"), options), first)
