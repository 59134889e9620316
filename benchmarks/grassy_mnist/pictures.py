"""Pictures of digits: observed, true, and as each method draws them."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

__all__ = ["draw_separations"]


def draw_separations(path: Path, data, truth, draws: dict):
    """Observations, their digits, and one draw of each by every method.

    Parameters
    ----------
    path : path-like
        The picture.
    data, truth : ndarray, shape (n, 1, 28, 28)
        Observations, and their digits at amplitude 1.
    draws : dict of str to ndarray, shape (n, 1, 28, 28)
        By the names of the methods.
    """
    rows = {"observed": data, "digit": truth, **draws}
    figure, axes = plt.subplots(
        len(rows), len(data), figsize=(len(data), 1.05 * len(rows)), layout="constrained"
    )
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(np.asarray(image)[0], cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=100)
    plt.close(figure)
