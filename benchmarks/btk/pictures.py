"""Blends of the toolkit, and what deblenders take their galaxies for."""

__all__ = ["draw_blends"]

import numpy as np
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure

MIDDLE = slice(15, 55)  # pixels of the blends that are shown
N_GALAXIES = 2  # of each blend
LABELS = {"SepSingleBand": "SEP", "SeparatorDeblender": "astro-ddprism"}


def draw_blends(path, arrays, names, most=8):
    """Draw blends, the brightest of their galaxies, and those galaxies by each deblender.

    Parameters
    ----------
    path : path-like
        The picture.
    arrays : dict of str to ndarray
        What `benchmarks.btk.run_btk` wrote.
    names : sequence of str
        Of the deblenders.
    most : int
        Blends; those in which as many galaxies as are shown were matched by all deblenders.
    """
    names = [name for name in names if name in LABELS]
    blends, truth, sky = arrays["blends"], arrays["truth"], float(arrays["sky"])
    found = [arrays[f"{name}/images"] for name in names]
    seen = np.all([image.any(axis=(2, 3)) for image in found], axis=0)
    rows = np.flatnonzero(seen.sum(axis=1) >= N_GALAXIES)[:most]
    if not len(rows):
        return
    columns = ["blend", *(["truth", *(LABELS[name] for name in names)] * N_GALAXIES)]
    figure = Figure(figsize=(1.5 * len(columns), 1.5 * len(rows) + 0.3), layout="constrained",
                    dpi=80)  # fmt: skip
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=10)
    for line, row in zip(axes, rows, strict=True):
        galaxies = np.flatnonzero(seen[row])
        galaxies = galaxies[np.argsort(-truth[row, galaxies].sum(axis=(1, 2)))][:N_GALAXIES]
        images = [blends[row]]
        for galaxy in galaxies:
            images += [truth[row, galaxy], *(image[row, galaxy] for image in found)]
        for axis, image in zip(line, images, strict=True):
            norm = AsinhNorm(2 * np.sqrt(sky), -2 * np.sqrt(sky), blends[row].max())
            axis.imshow(image[MIDDLE, MIDDLE], norm=norm, cmap="gray", origin="lower")
            axis.set(xticks=[], yticks=[])
    figure.savefig(path)
