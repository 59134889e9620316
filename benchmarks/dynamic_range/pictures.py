"""The picture of the study of dynamic range: how right fluxes are, from faint to bright."""

from pathlib import Path

import matplotlib as mpl
import numpy as np

__all__ = ["draw_fluxes"]


def draw_fluxes(path: Path, results: list[dict]):
    """Bias and scatter of galaxies' fluxes against their brightest pixel, a column a problem.

    Parameters
    ----------
    path : path-like
        The picture.
    results : list of dict
        Rows of the study.
    """
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in results if row["source"] == "galaxy"]
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    colours = {way: f"C{k}" for k, way in enumerate(dict.fromkeys(r["way"] for r in rows))}
    figure, axes = plt.subplots(
        2, len(problems), figsize=(9, 5), sharex=True, sharey="row", squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for (upper, lower), problem in zip(axes.T, problems, strict=True):
        for row in (row for row in rows if row["problem"] == problem):
            peak, bias, scatter = np.array(
                [[d["peak"], d["bias"], d["scatter"]] for d in row["decades"]]
            ).T
            style = {"color": colours[row["way"]], "label": row["way"], "marker": "o", "ms": 4}
            upper.plot(peak, bias, **style)
            lower.plot(peak, scatter, **style)
        upper.axhline(0, color="black", lw=1)
        upper.set(title=problem, xscale="log")
        upper.set_yscale("symlog", linthresh=0.01)
        lower.set(xlabel="brightest pixel / noise", yscale="log")
    axes[0, 0].set(ylabel="median of flux / truth - 1")
    axes[1, 0].set(ylabel="scatter of flux / truth")
    axes[1, -1].legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=80)
    plt.close(figure)
