"""Views of grass alone, and of digits in front of it, as published (arXiv:2510.05205).

Grass has the amplitude 1, digits have 0.5, and every pixel of both views noise of 0.01. Digits are
the published ones in their order, or all ten; the grass is of other pictures than the published.

At full resolution the operator is the identity (times the amplitude). Where resolutions are mixed,
a third of both views each has full, half and quarter resolution: every pixel then is the mean of
its patch of 2 x 2 or 4 x 4, with noise of its own in every copy.
"""

__all__ = ["AMPLITUDE", "NOISE", "labelled_digits", "load", "patch_mean"]

import numpy as np

from astro_ddprism import MultiViewDataset
from astro_ddprism.mixing import Amplitude, DenseMatrix, Identity

from ..manifolds.problems import data_folder

AMPLITUDE, NOISE, SIZE = 0.5, 0.01, 28
SHAPE = (1, SIZE, SIZE)


def load(
    n_grass: int, n_digits: int, seed: int = 0, first: int = 0, resolutions=(1,), digits="published"
):
    """Views, and the digits of those that hold some.

    Parameters
    ----------
    n_grass, n_digits : int
        Observations of grass, and of digits in front of it.
    seed : int
        Of the crops of grass, the noise, and the order of ten digits.
    first : int
        The first digit.
    resolutions : sequence of int
        Sides of the patches, in pixels; observations are shared out among them in turn.
    digits : str
        ``"published"``, zeros and ones, or ``"ten"``.

    Returns
    -------
    dataset : MultiViewDataset
        Views ``"grass"`` and ``"digit"``; of several resolutions ``"grass 1"``, ``"grass 2"``, ...
    digits : dict of str to ndarray, shape (N, 1, 28, 28)
        Of each view that holds some, at amplitude 1.
    """
    rng = np.random.default_rng(seed)
    shown = _digits(digits)[first : first + n_digits]
    if len(shown) < n_digits:
        raise ValueError(
            f"n_digits: found {n_digits} from {first} on, expected {len(shown)} or fewer"
        )
    pictures = _pictures()

    def crops(n):
        k, y, x = rng.integers(0, len(pictures), n), *rng.integers(0, 101 - SIZE - 1, (2, n))
        return np.stack(
            [pictures[a, b : b + SIZE, c : c + SIZE] for a, b, c in zip(k, y, x, strict=True)]
        )

    light = {"grass": crops(n_grass), "digit": crops(n_digits) + AMPLITUDE * shown}
    views, truth = {}, {}
    for name, image in light.items():
        for k, side in enumerate(resolutions):
            view = name if len(resolutions) == 1 else f"{name} {side}"
            part = slice(k, None, len(resolutions))
            seen = image[part].reshape(-1, SIZE**2)
            seen = (seen if side == 1 else seen @ patch_mean(side)).reshape(-1, *SHAPE)
            amplitudes = {"grass": 1.0} | ({"digit": AMPLITUDE} if name == "digit" else {})
            views[view] = {
                "data": seen + NOISE * rng.standard_normal(seen.shape),
                "variance": NOISE**2,
                "mixing": {s: _operator(side, amplitude) for s, amplitude in amplitudes.items()},
            }
            if name == "digit":
                truth[view] = shown[part, None]
    return MultiViewDataset.from_arrays(views), truth


def patch_mean(side: int) -> np.ndarray:
    """The matrix, (784, 784), that puts the mean of its patch into every pixel; symmetric."""
    along = np.kron(np.eye(SIZE // side), np.full((side, side), 1 / side))
    return np.kron(along, along)


def _operator(side: int, amplitude: float):
    if side == 1:
        return Identity(SHAPE) if amplitude == 1 else Amplitude(amplitude, SHAPE)
    return DenseMatrix(amplitude * patch_mean(side), SHAPE, SHAPE)


def _pictures() -> np.ndarray:
    """Pictures of grass, (380, 100, 100), between 0 and 1."""
    grass = np.load(data_folder().parent / "grassy_mnist" / "grass.npz")
    return np.stack(
        [
            grass[name][i : i + 100, j : j + 100] / 255.0
            for name in sorted(grass.files)
            for i in range(0, grass[name].shape[0] - 99, 100)
            for j in range(0, grass[name].shape[1] - 99, 100)
        ]
    )


def _digits(which: str) -> np.ndarray:
    """Digits, (N, 28, 28), between 0 and 1: the published ones, or as many of each of ten."""
    if which == "ten":
        return labelled_digits()[0]
    return np.load(data_folder().parent / "grassy_mnist" / "digits_01.npz")["digits"] / 255.0


def labelled_digits() -> tuple[np.ndarray, np.ndarray]:
    """All ten digits in a random order, (N, 28, 28) between 0 and 1, and which they are."""
    folder = data_folder().parent / "grassy_mnist"
    parts = [np.load(folder / f"digits_{name}.npz") for name in ("01", "2to9")]
    digits, labels = (
        np.concatenate([parts[0][name][:6000], parts[1][name]]) for name in ("digits", "labels")
    )
    order = np.random.default_rng(0).permutation(len(digits))
    return digits[order] / 255.0, labels[order]
