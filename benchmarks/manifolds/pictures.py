"""Pictures of sources on curves: learned against true, and the ranks of the truth."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

__all__ = ["draw_calibration", "draw_sources"]

#: Points of a picture: what still shows gaps.
_N_POINTS = 4000
#: Pairs of features that are shown.
_PLANES = ((0, 1), (2, 3))


def draw_sources(path: Path, truth: dict, prior: dict, posterior: dict):
    """True samples, prior samples and posterior draws of every source, in two planes.

    Parameters
    ----------
    path : path-like
        The picture.
    truth, prior, posterior : dict of str to ndarray, shape (n, D)
        Samples of every source.
    """
    columns = {"truth": truth, "prior samples": prior, "posterior draws": posterior}
    figure, axes = plt.subplots(
        len(truth) * len(_PLANES),
        len(columns),
        figsize=(9, 3 * len(truth) * len(_PLANES)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for k, source in enumerate(truth):
        for p, (i, j) in enumerate(_PLANES):
            for axis, (title, samples) in zip(
                axes[k * len(_PLANES) + p], columns.items(), strict=True
            ):
                x = samples[source][:_N_POINTS]
                axis.plot(x[:, i], x[:, j], ".", ms=1.5, alpha=0.5, color=f"C{k}", rasterized=True)
                axis.set(xlim=(-2.4, 2.4), ylim=(-2.4, 2.4), aspect="equal")
                axis.set_title(f"{source}: {title}", fontsize=9)
            axes[k * len(_PLANES) + p, 0].set(ylabel=f"features {i + 1}, {j + 1}")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def draw_calibration(path: Path, ranks: dict):
    """Histograms of the rank of the truth among posterior draws, for every source.

    Parameters
    ----------
    path : path-like
        The picture.
    ranks : dict of str to ndarray
        Ranks in [0, 1], of all features of all observations.
    """
    figure, axes = plt.subplots(
        1, len(ranks), figsize=(4 * len(ranks), 3), sharey=True, squeeze=False, layout="constrained"
    )
    for k, (source, values) in enumerate(ranks.items()):
        axes[0, k].hist(
            np.ravel(values), bins=20, range=(0, 1), density=True, color=f"C{k}", alpha=0.6
        )
        axes[0, k].axhline(1, color="black", lw=1)
        axes[0, k].set(title=source, xlabel="rank of the truth among the draws")
    axes[0, 0].set(ylabel="density")
    figure.savefig(path, dpi=80)
    plt.close(figure)
