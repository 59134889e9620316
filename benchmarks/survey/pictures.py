"""The picture of the study: where the time goes, and memory from the first tile to the last."""

__all__ = ["draw"]

import matplotlib as mpl
from matplotlib import pyplot as plt


def draw(figures, path):
    """Draw the picture.

    Parameters
    ----------
    figures : dict
        Of the study.
    path : path-like
        A PNG.
    """
    with mpl.rc_context({"font.size": 8}):
        figure, (steps, memory) = plt.subplots(
            1, 2, figsize=(8.5, 3.0), layout="constrained", width_ratios=(3, 2)
        )
        _steps(steps, figures["costs"])
        _memory(memory, figures)
        figure.savefig(path, dpi=130)
        plt.close(figure)


def _steps(axes, costs):
    labels = [f"{one['objects']} objects, {one['samples']} samples" for one in costs]
    left = [0.0] * len(costs)
    for name in costs[0]["steps"]:
        seconds = [1e3 * one["steps"][name] / one["objects"] for one in costs]
        axes.barh(labels, seconds, left=left, label=name)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="processor time of an object [ms]")
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)


def _memory(axes, figures):
    histories = {f"worker {n}": h for n, h in enumerate(figures["scaling"][-1]["history"], 1)}
    histories["one process"] = figures["one_process"]["history"][0]
    for label, history in histories.items():
        tiles, peaks = zip(*history, strict=True)
        axes.plot(tiles, peaks, drawstyle="steps-post", label=label)
    axes.set(xlabel="tiles done", ylabel="peak memory [MiB]", ylim=(0, None), xlim=(0, None))
    axes.legend(frameon=False)
