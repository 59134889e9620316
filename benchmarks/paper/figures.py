"""Figures of arXiv:2510.05205 that are curves: drawn from the records of the studies.

``mixing``: Sinkhorn divergence against the weight of the other source. ``em``: PSNR of the digits
in front of grass against the processor time of their EM. Those that show sources are drawn by
``benchmarks.manifolds`` and ``benchmarks.grassy_mnist``, which hold them.

    python -m benchmarks.paper figures --records benchmarks/results --docs docs
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt

__all__ = ["draw_em", "draw_mixing", "main"]

#: PSNR of a published draw, with the published grass.
PUBLISHED = 25.60


def draw_mixing(figures: dict, path: Path):
    """Sinkhorn divergence of posterior draws and prior draws from the truth, by weight."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    names = dict.fromkeys(row["sampler"] for row in figures["weights"])
    for k, name in enumerate(names):
        rows = [row for row in figures["weights"] if row["sampler"] == name]
        weights = [row["weight"] for row in rows]
        drawn = [max(row["sinkhorn_posterior"], 1e-6) for row in rows]
        axis.plot(weights, drawn, "o-", color=f"C{k}", label=f"{name}: draws")
    prior = [max(row["sinkhorn_prior"], 1e-6) for row in rows]
    axis.plot(weights, prior, "s--", color="black", label="prior")
    axis.set(xlabel="weight of the other source", ylabel="Sinkhorn divergence", yscale="log")
    axis.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_em(figures: dict, path: Path):
    """PSNR of the draws of every E-step, against the processor time until then."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for problem in dict.fromkeys(row["problem"] for row in figures["em"]):
        rows = [row for row in figures["em"] if row["problem"] == problem]
        axis.plot(
            [row["time_s"] / 60 for row in rows], [row["psnr"] for row in rows], "o-", label=problem
        )
    axis.axhline(PUBLISHED, color="black", lw=1, label="published, full, after 68 hours of 4 A100")
    axis.set(xlabel="processor time of the fit [min]", ylabel="PSNR of one draw [dB]")
    axis.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


FIGURES = {
    "paper_mixing": ("paper_mixing.json", draw_mixing),
    "grassy_mnist_em": ("grassy_mnist.json", draw_em),
}


def main(arguments=None):
    """Draw all figures whose records are there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=Path, required=True, help="folder of the records")
    parser.add_argument("--docs", type=Path, required=True, help="folder of the documentation")
    options = parser.parse_args(arguments)
    for name, (record, draw) in FIGURES.items():
        figures = json.loads((options.records / record).read_text())["figures"]
        draw(figures, options.docs / "_static" / f"{name}.png")
