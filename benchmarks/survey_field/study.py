"""The main job on a real survey field, by the command lines that a user would type.

Runs ``ddprism cutouts``, ``fit`` and ``separate`` on a tile, measures the time and the peak memory
of each, and reads the figures out of the files that they leave. Writes a JSON, and with ``--docs``
the pictures and the table of the documentation's page.

    python -m benchmarks.survey_field TILE.fits --work FOLDER \
        --out benchmarks/results/survey_field.json --docs docs
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
from astropy.io import fits

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset
from astro_ddprism.posterior.plotting import plot_history, plot_prior

from ..record import write_record

FULL = {"n_random": None, "samples": 16, "config": {}}
REDUCED = {
    "n_random": 600,
    "samples": 2,
    "config": {
        "n_em_iterations": 1,
        "training.n_first_images": 16_000,
        "training.n_images": 6_000,
    },
}


def run_command(arguments):
    """Run ``ddprism`` and return its wall time in seconds and its peak memory in bytes."""
    started = time.perf_counter()
    line = [sys.executable, "-m", "astro_ddprism.cli", *map(str, arguments)]
    process = subprocess.Popen(line)  # noqa: S603 (our own program)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"ddprism {arguments[0]} failed")
    return time.perf_counter() - started, usage.ru_maxrss * 1024


def main(argv=None):
    """Run the study."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tile", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder of the files made")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=Path, help="folder of the documentation")
    parser.add_argument("--full", action="store_true", help="at full size")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    setting = FULL if args.full else REDUCED
    args.work.mkdir(parents=True, exist_ok=True)
    views, model = args.work / "views.asdf", args.work / "model.asdf"
    product, catalog = args.work / "separated.fits", args.work / "catalog.ecsv"
    config = args.work / "config.toml"
    config.write_text("".join(f"{k} = {v}\n" for k, v in setting["config"].items()))
    randoms = [] if setting["n_random"] is None else ["--n-random", setting["n_random"]]
    commands = {
        "cutouts": ["cutouts", args.tile, "-o", views, "--estimate-noise", "--saturation", "auto",
                    *randoms],
        "fit": ["fit", views, "-o", model, "--config", config, "--device", args.device,
                "--preset", "none"],
        "separate": ["separate", views, "--model", model, "-o", product, "--catalog", catalog,
                     "--samples", setting["samples"], "--device", args.device],
    }  # fmt: skip
    cost = {}
    for name, arguments in commands.items():
        seconds, memory = run_command([*arguments, "--overwrite"])
        cost[name] = {"time_s": round(seconds, 1), "peak_memory_bytes": memory}
    figures = {
        "cost": cost,
        "commands": [
            " ".join(["ddprism", *(Path(a).name if isinstance(a, Path) else str(a) for a in line)])
            for line in commands.values()
        ],
        **measure(views, model, product),
    }
    write_record(
        args.out,
        study="survey_field",
        configuration=setting,
        figures=figures,
        device=DiffusionSourceSeparator.read(model, args.device).device_,
        started=started,
    )
    if args.docs:
        draw(args.docs / "_static", model, product)


def measure(views, model, product):
    """Read the figures out of the files."""
    dataset, separator = MultiViewDataset.read(views), DiffusionSourceSeparator.read(model)
    history = separator.history_
    with fits.open(product) as hdus:
        residual = hdus["RESIDUAL"].data
        power = {
            name: np.nansum(hdus[f"{name.upper()}_MEAN"].data, axis=(1, 2, 3), dtype=float)
            for name in separator.sources_
        }
        observed = np.nansum(hdus["DATA"].data, axis=(1, 2, 3), dtype=float)
    chi2 = np.nanmean(np.square(residual, dtype=float), axis=(1, 2, 3))
    total = sum(power.values())
    return {
        "n_observations": {name: len(view) for name, view in dataset.items()},
        "residual_std": float(np.nanstd(residual)),
        "chi2_percentiles": dict(
            zip(("5", "50", "95"), np.percentile(chi2, [5, 50, 95]).tolist(), strict=True)
        ),
        "median_flux_fraction": {n: float(np.median(f / total)) for n, f in power.items()},
        "total_flux_over_observed": float(total.sum() / observed.sum()),
        "em": [
            {
                "source": str(row["source"]),
                "iteration": int(row["iteration"]),
                "loss": float(row["loss"]),
                "chi2": float(row["chi2"]),
                "n_chains": int(row["n_chains"]),
                "n_left_out": int(row["n_left_out"]),
            }
            for row in history
        ],
    }


def draw(folder, model, product, n=8):
    """Draw separated galaxies, prior samples and the history."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    separator = DiffusionSourceSeparator.read(model)
    with fits.open(product) as hdus:
        data, residual = hdus["DATA"].data[:, 0], hdus["RESIDUAL"].data[:, 0]
        galaxy, los = hdus["GALAXY_MEAN"].data[:, 0], hdus["LOS_MEAN"].data[:, 0]
    scale = separator.noise_scale_
    crowded = np.argsort(-np.nansum(los, axis=(1, 2)) / np.nansum(galaxy, axis=(1, 2)).clip(scale))
    bright = np.nansum(galaxy, axis=(1, 2)) > 300 * scale
    rows = crowded[bright[crowded]][: 4 * n : 4]
    figure, axes = plt.subplots(len(rows), 4, figsize=(7, 1.8 * len(rows)), squeeze=False)
    for line, i in zip(axes, rows, strict=True):
        top = np.arcsinh(np.nanmax(data[i]) / scale)
        for axis, image in zip(line, (data[i], galaxy[i], los[i]), strict=False):
            axis.imshow(np.arcsinh(image / scale), vmin=-1, vmax=top, origin="lower", cmap="gray_r")
        line[3].imshow(residual[i], vmin=-4, vmax=4, origin="lower", cmap="RdBu_r")
        for axis in line:
            axis.set(xticks=[], yticks=[])
    titles = ("observed", "galaxy", "line of sight", "residual / noise")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(folder / "survey_field.png", dpi=80)
    plot_prior(separator.sample(n_samples=8)).savefig(folder / "survey_field_prior.png", dpi=80)
    plot_history(separator.history_).savefig(folder / "survey_field_history.png", dpi=80)
    plt.close("all")
