"""Digits in front of grass, at full resolution: what each method makes of them.

Of one draw of every observation of the second view, clipped to [0, 1], at amplitude 1: the mean
PSNR, as published ``-20 log10(rmse + 1e-6)``; of digits that the fit did not see,
``psnr_held_out``; and of the mean of 16 draws of some, ``psnr_of_mean``. With processor time of the
fit, and of a draw.

    python -m benchmarks.grassy_mnist --out benchmarks/results/grassy_mnist.json [--quick]
"""

import time

import numpy as np

from astro_ddprism.separator import SEPARATORS

from ..record import run_study
from .problem import load

#: Mean PSNR of one draw, with the published grass (arXiv:2510.05205, table 1).
PUBLISHED = {"pcpca": 18.99, "clvm-linear": 13.30, "clvm-vae": 14.56, "diffusion": 25.60}
COMMON = {"seed": 1, "progress": False, "execution": {"batch_size": 1024}}
NONE = {"grass": [], "digit": []}
METHODS = {
    "gaussian: EM in subspaces": {"method": "gaussian", "symmetries": NONE},
    "gaussian: moments": {"method": "gaussian", "symmetries": NONE, "warm_start": "moments"},
    "pcpca": {"method": "pcpca", "rank": 64, "gamma": 0.9},
    "clvm-linear": {
        "method": "clvm-linear",
        "rank": {"grass": 265, "digit": 6},
        "training": {"n_first_images": 200_000, "batch_size": 256, "learning_rate": 1e-2},
    },
    "clvm-vae": {
        "method": "clvm-vae",
        "rank": {"grass": 380, "digit": 15},
        "training": {"n_first_images": 2_000_000, "batch_size": 256, "learning_rate": 1e-3},
    },
}
SIZES = {"n_grass": 32_768, "n_digits": 12_800, "n_held_out": 1024, "n_mean": 128}
FULL = SIZES | {"methods": METHODS}
QUICK = {
    "n_grass": 4096,
    "n_digits": 2048,
    "n_held_out": 512,
    "n_mean": 32,
    "methods": {name: METHODS[name] for name in ("gaussian: moments", "pcpca")},
}


def psnr(draws, digits) -> np.ndarray:
    """Of each observation, in dB, clipped as published."""
    error = np.clip(np.asarray(draws), 0, 1) - digits
    return -20 * np.log10(np.sqrt(np.mean(error**2, axis=(-3, -2, -1))) + 1e-6)


def run(configuration, device) -> dict:
    """All methods on the same views."""
    views, digits = load(configuration["n_grass"], configuration["n_digits"])
    others, unseen = load(1, configuration["n_held_out"], 1, configuration["n_digits"])
    rows = []
    for name, options in configuration["methods"].items():
        kind = SEPARATORS[options["method"]]
        separator = kind.from_config({**COMMON, **options, "device": str(device)})
        started = time.process_time()
        separator.fit(views)
        fitted = time.process_time()
        samples = separator.sample(views["digit"])
        drawn = time.process_time()
        few = configuration["n_mean"]
        mean = separator.sample(views["digit"][:few], n_samples=16).samples["digit"].mean(axis=0)
        held_out = separator.sample(others["digit"]).samples["digit"][0]
        values = psnr(samples.samples["digit"][0], digits)
        rows.append(
            {
                "method": name,
                "psnr_published": PUBLISHED.get(options["method"]),
                "psnr_mean": float(values.mean()),
                "psnr_median": float(np.median(values)),
                "psnr_held_out": float(psnr(held_out, unseen).mean()),
                "psnr_of_mean": float(psnr(mean, digits[:few]).mean()),
                "chi2_median": float(np.median(samples.chi2)),
                "fit_time_s": fitted - started,
                "draw_time_ms": 1e3 * (drawn - fitted) / len(digits),
            }
        )
        print(rows[-1], flush=True)
    return {"methods": rows}


def main(arguments=None):
    """Run the study and write its record."""
    description = __doc__.partition("\n")[0]
    run_study("grassy_mnist", description, run, FULL, QUICK, arguments)
