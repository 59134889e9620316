"""Pictures of injected galaxies: flux errors, calibration, and blends before and after."""

__all__ = ["draw_blends", "draw_calibration", "draw_errors", "draw_injected"]

from itertools import pairwise

import numpy as np
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure

from .figures import BLENDED, ISOLATED, MAGNITUDE_EDGES, corrected_ratios


def draw_errors(path, measurements, scene):
    """Relative flux errors against magnitude: median and central 68 % of each method.

    Parameters
    ----------
    path : path-like
        The picture.
    measurements : list of Measurement
        Of all methods.
    scene : Scene
        The truth.
    """
    figure = Figure(figsize=(9, 6.5), layout="constrained", dpi=80)
    axes = figure.subplots(2, 1, sharex=True)
    magnitude, neighbours = scene.catalog["magnitude"], scene.catalog["neighbours"]
    panels = {"isolated": neighbours < ISOLATED, "blended": neighbours > BLENDED}
    for axis, (title, members) in zip(axes, panels.items(), strict=True):
        for k, one in enumerate(measurements):
            error = corrected_ratios(one, scene) - 1
            place = (k + 0.5) / len(measurements) - 0.5
            rows = []
            for low, high in pairwise(MAGNITUDE_EDGES):
                chosen = members & (magnitude >= low) & (magnitude < high) & np.isfinite(error)
                if chosen.sum() > 2:
                    quantiles = np.quantile(error[chosen], [0.16, 0.5, 0.84])
                    rows.append([(low + high) / 2 + 0.8 * place, *quantiles])
            if rows:
                x, low, middle, high = np.transpose(rows)
                axis.errorbar(
                    x, middle, [middle - low, high - middle], fmt="o", ms=4, lw=1.2, label=one.name,
                    color="k" if k == 0 else f"C{k - 1}",
                )  # fmt: skip
        axis.axhspan(-0.2, 0.2, color="0.93", zorder=0)
        axis.axhline(0, color="0.6", lw=0.8, zorder=1)
        axis.set_yscale("symlog", linthresh=0.3)
        axis.set_yticks([-1, -0.2, 0, 0.2, 1, 10], ["-1", "-0.2", "0", "0.2", "1", "10"])
        axis.set(ylabel="relative error of flux", title=title)
    _legend(axes, ncols=3, loc="upper left")
    axes[1].set_xlabel("magnitude")
    figure.savefig(path)


def draw_calibration(path, calibration, methods):
    """Coverage of intervals, ranks of the truth and TARP.

    Parameters
    ----------
    path : path-like
        The picture.
    calibration : dict
        See `injection_figures.calibration`.
    methods : dict
        Figures of this package, see `injection_figures.summarise`.
    """
    groups = [name for name in ("all", "isolated", "blended") if name in calibration]
    figure = Figure(figsize=(9, 5.6), layout="constrained", dpi=80)
    axes = figure.subplots(2, 3)
    for axis, name in zip(axes[0], groups, strict=False):
        for k, (what, row) in enumerate(calibration[name]["ranks"].items()):
            counts = np.array(row["histogram"])
            edges = np.linspace(0, 1, len(counts) + 1)
            density = counts / counts.mean()
            axis.stairs(density, edges, label=what, color=f"C{k}", lw=1.5)
        error = 1 / np.sqrt(counts.mean())
        axis.axhspan(1 - error, 1 + error, color="0.9", zorder=0)
        axis.set(title=f"{name}: ranks", xlabel="rank / samples", ylim=(0, None))
        _legend([axis])
    for k, name in enumerate(groups):
        tarp = calibration[name]["tarp"]
        axes[1, 0].plot(tarp["level"], tarp["expected_coverage"], label=name, color=f"C{k}")
    axes[1, 0].plot([0, 1], [0, 1], color="0.6", lw=0.8)
    axes[1, 0].set(title="TARP", xlabel="credibility", ylabel="expected coverage")
    _legend([axes[1, 0]])
    for axis, level in zip(axes[1, 1:], (68, 95), strict=True):
        axis.axhspan(level / 100 - 0.05, level / 100 + 0.05, color="0.9", zorder=0)
        axis.axhline(level / 100, color="0.6", lw=0.8)
        for k, group in enumerate(("isolated", "blended")):
            rows = [row for row in methods["bins"]
                    if row["by"] == "magnitude" and row["class"] == group
                    and row.get(f"coverage_{level}") is not None]  # fmt: skip
            x = np.array([np.mean([float(v) for v in row["range"].split(" to ")]) for row in rows])
            y, error = ([row[f"coverage_{level}{end}"] for row in rows] for end in ("", "_error"))
            axis.errorbar(x + 0.1 * k - 0.05, y, error, fmt="o", color=f"C{k + 1}", label=group)
        low, high = MAGNITUDE_EDGES[0], MAGNITUDE_EDGES[-1]
        axis.set(title=f"coverage of {level} %", xlabel="magnitude", ylim=(0, 1.05))
        axis.set_xlim(low, high)
        _legend([axis], loc="lower left")
    figure.savefig(path)


def draw_injected(path, separation, scene, n=6):
    """Some of the injected blends: observed, truth, separated, line of sight, residual.

    Parameters
    ----------
    path : path-like
        The picture.
    separation : Separation
        By this package.
    scene : Scene
        The truth.
    n : int
        How many.
    """
    catalog = scene.catalog
    chosen = (catalog["neighbours"] > BLENDED) & (catalog["neighbours"] < 10)
    rows = np.flatnonzero(chosen & (catalog["magnitude"] < 23))[:n]
    images = separation.images
    columns = {
        "observed": images["observed"][rows],
        "injected": scene.truth[rows],
        "separated": images["galaxy"][rows],
        "line of sight": images["los"][rows],
        "residual / noise": images["residual"][rows],
    }
    labels = [f"{m:.1f} mag" for m in catalog["magnitude"][rows]]
    _draw_grid(path, columns, labels, _noise(scene))


def draw_blends(path, separation, models, labels, scene):
    """Real blends: observed, separated, line of sight, residual, and what peers make of them.

    Parameters
    ----------
    path : path-like
        The picture.
    separation : Separation
        By this package.
    models : dict of str to ndarray, shape (n, size, size)
        The galaxies by other methods.
    labels : list of str
        What is written beside each.
    scene : Scene
        Where they are.
    """
    images = separation.images
    columns = {
        "observed": images["observed"],
        "separated": images["galaxy"],
        "line of sight": images["los"],
        "residual / noise": images["residual"],
        **models,
    }
    _draw_grid(path, columns, labels, _noise(scene))


def _legend(axes, **style):
    """A legend in the first of the panels that shows something."""
    for axis in axes:
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, **style)
            return


def _noise(scene):
    return float(np.sqrt(np.median(scene.image.variance[~scene.image.mask])))


def _draw_grid(path, columns, labels, noise):
    """Rows of images on one scale, that of what was observed; residuals on their own."""
    number = len(labels)
    figure = Figure(
        figsize=(1.35 * len(columns) + 0.3, 1.35 * number + 0.3), layout="constrained", dpi=80
    )
    axes = figure.subplots(number, len(columns), squeeze=False)
    for i, line in enumerate(axes):
        top = np.nanmax(columns["observed"][i]) / noise
        norm = AsinhNorm(linear_width=2, vmin=-2, vmax=top)
        for axis, (title, images) in zip(line, columns.items(), strict=True):
            if title.startswith("residual"):
                style = {"vmin": -4, "vmax": 4, "cmap": "RdBu_r"}
                axis.imshow(images[i], origin="lower", **style)
            else:
                axis.imshow(images[i] / noise, norm=norm, cmap="gray_r", origin="lower")
            axis.set(xticks=[], yticks=[])
            if i == 0:
                axis.set_title(title, fontsize=9)
        line[0].set_ylabel(labels[i], fontsize=8)
    figure.savefig(path)
