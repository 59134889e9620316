"""Views of grass alone, and of digits in front of it, as published (arXiv:2510.05205).

Grass has the amplitude 1, digits have 0.5, and every pixel of both views noise of 0.01. Digits are
the published ones in their order; the grass is of other pictures than the published.
"""

__all__ = ["AMPLITUDE", "load"]

import numpy as np

from astro_ddprism import MultiViewDataset
from astro_ddprism.mixing import Amplitude, Identity

from ..manifolds.problems import data_folder

AMPLITUDE, NOISE, SIZE = 0.5, 0.01, 28


def load(n_grass: int, n_digits: int, seed: int = 0, first: int = 0):
    """Views, and the digits of the second one.

    Parameters
    ----------
    n_grass, n_digits : int
        Observations of each view.
    seed : int
        Of the crops of grass and the noise.
    first : int
        The first digit.

    Returns
    -------
    dataset : MultiViewDataset
        Views ``"grass"`` and ``"digit"``.
    digits : ndarray, shape (n_digits, 1, 28, 28)
        At amplitude 1.
    """
    folder, rng = data_folder().parent / "grassy_mnist", np.random.default_rng(seed)
    grass = np.load(folder / "grass.npz")
    pictures = np.stack(
        [
            grass[name][i : i + 100, j : j + 100] / 255.0
            for name in sorted(grass.files)
            for i in range(0, grass[name].shape[0] - 99, 100)
            for j in range(0, grass[name].shape[1] - 99, 100)
        ]
    )
    digits = np.load(folder / "digits_01.npz")["digits"][first : first + n_digits] / 255.0

    def crops(n):
        k, y, x = rng.integers(0, len(pictures), n), *rng.integers(0, 101 - SIZE - 1, (2, n))
        return np.stack(
            [pictures[a, b : b + SIZE, c : c + SIZE] for a, b, c in zip(k, y, x, strict=True)]
        )

    light = {"grass": crops(n_grass), "digit": crops(n_digits) + AMPLITUDE * digits}
    shape = (1, SIZE, SIZE)
    mixing = (
        {"grass": Identity(shape)},
        {
            "grass": Identity(shape),
            "digit": Amplitude(AMPLITUDE, shape),
        },
    )
    views = {
        name: {
            "data": (image + NOISE * rng.standard_normal(image.shape))[:, None],
            "variance": NOISE**2,
            "mixing": held,
        }
        for (name, image), held in zip(light.items(), mixing, strict=True)
    }
    return MultiViewDataset.from_arrays(views), digits[:, None]
