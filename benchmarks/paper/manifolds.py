"""Sources on curves: every method on the published contrastive problems, beside published figures.

For each problem and method, of the newest source in the view that brings it: the mean PSNR of one
draw over all observations of the study, the coverage of the central intervals of 32 draws, the mean
reduced chi-squared of draws, and processor time: of the fit, and of a draw. The baselines learn
sources of their own; samplers draw under the diffusion priors of one fit, each as its options say.

    python -m benchmarks.paper manifolds --out benchmarks/results/paper_manifolds.json
    python -m benchmarks.paper manifolds --quick --out benchmarks/results/paper_manifolds.json
"""

import copy
import time

import numpy as np

from astro_ddprism.separator import SEPARATORS
from astro_ddprism.separator.parts import POSTERIORS

from ..manifolds.metrics import summarise_psnr
from ..manifolds.problems import load_contrastive, to_dataset
from ..manifolds.study import calibrate
from ..record import run_study

#: Mean PSNR of one draw (arXiv:2510.05205, table 1), by number of sources and method.
PUBLISHED = {
    2: {"pcpca": 9.35, "clvm-linear": 9.58, "clvm-vae": 17.15, "gibbs": 12.66, "joint": 38.27},
    3: {"pcpca": 6.89, "clvm-linear": 11.64, "clvm-vae": 13.09, "gibbs": 9.50, "joint": 19.78},
}
COMMON = {"seed": 20, "progress": False, "execution": {"batch_size": 2048}}
ASCENT = {"batch_size": 256, "learning_rate": 1e-2}
FULL = {
    "n_sources": [2, 3],
    "n": 65_536,
    "n_calibration": 1024,
    "baselines": {
        "pcpca": {"rank": 5, "gamma": 0.3, "training": {"n_first_images": 500_000, **ASCENT}},
        "clvm-linear": {"rank": 5, "training": {"n_first_images": 2_000_000, **ASCENT}},
        "clvm-vae": {
            "rank": 5,
            "training": {"n_first_images": 60_000_000, "batch_size": 1024, "learning_rate": 2e-3},
        },
    },
    "diffusion": {
        "network": "mlp",
        "posterior": {"name": "moment-matching", "solver": "dense"},
        "warm_start": {"name": "gaussian", "components": 128},
        "training": {"n_first_images": 1_000_000, "n_images": 500_000, "batch_size": 512},
        "chains": {"sampler": "adams-bashforth", "n_steps": 64, "start": 0.5},
        "n_em_iterations": 1,
    },
    "samplers": {
        "joint": {},
        "gibbs": {"posterior": {"name": "gibbs", "n_rounds": 64, "solver": "dense"}},
        "langevin": {"posterior": {"name": "langevin", "n_repeats": 32}, "chains__n_steps": 128},
    },
}
QUICK = FULL | {
    "n": 2048,
    "n_calibration": 32,
    "baselines": {
        "pcpca": {"rank": 5, "gamma": 0.3, "training": {"n_first_images": 50_000, **ASCENT}},
        "clvm-linear": {"rank": 5, "training": {"n_first_images": 150_000, **ASCENT}},
        "clvm-vae": {
            "rank": 5,
            "width": 128,
            "training": {"n_first_images": 200_000, "batch_size": 128, "learning_rate": 3e-3},
        },
    },
    "diffusion": FULL["diffusion"]
    | {
        "network": {"name": "mlp", "width": 64, "depth": 2},
        "warm_start": {"name": "gaussian", "components": 32},
        "training": {"n_first_images": 100_000, "batch_size": 256},
        "n_em_iterations": 0,
    },
    "samplers": {
        "joint": {"chains__n_steps": 16},
        "gibbs": {
            "posterior": {"name": "gibbs", "n_rounds": 4, "solver": "dense"},
            "chains__n_steps": 16,
        },
        "langevin": {"posterior": {"name": "langevin", "n_repeats": 6}, "chains__n_steps": 40},
    },
}


def run(configuration, device) -> dict:
    """All problems, and all methods on each."""
    rows = []
    for n_sources in configuration["n_sources"]:
        problem = load_contrastive(configuration["n"], n_sources=n_sources)
        views, common = to_dataset(problem), COMMON | {"device": str(device)}
        for name, options in configuration["baselines"].items():
            separator = SEPARATORS[name](**common, **options)
            fit_time = timed(lambda s=separator, v=views: s.fit(v))
            rows.append(measure(name, separator, problem, views, configuration, fit_time))
        if configuration["samplers"]:
            separator = SEPARATORS["diffusion"](**common, **configuration["diffusion"])
            fit_time = timed(lambda s=separator, v=views: s.fit(v))
        for name, options in configuration["samplers"].items():
            other = copy.copy(separator).set_params(**options)
            rows.append(measure(name, other, problem, views, configuration, fit_time))
    return {"methods": rows}


def timed(work) -> float:
    """Processor time of some work, in seconds."""
    started = time.process_time()
    work()
    return time.process_time() - started


def measure(name, separator, problem, views, configuration, fit_time) -> dict:
    """What a fitted separator makes of the view that brings the newest source."""
    n_sources, view = len(problem.sources), list(views)[-1]
    source, drawn = problem.sources[-1], {}
    draw_time = timed(lambda: drawn.update(all=separator.sample(views[view])))
    samples, truth = drawn["all"], problem.truth(view)[source]
    calibration = calibrate(separator, problem, view, views[view][: configuration["n_calibration"]])
    row = {
        "problem": problem.name,
        "method": name,
        "kind": "sampler" if name in {"joint", *POSTERIORS} else "baseline",
        **summarise_psnr(np.asarray(samples.samples[source][0]), truth),
        "psnr_published": PUBLISHED[n_sources].get(name),
        "coverage_68": calibration[source]["coverage_68"],
        "coverage_95": calibration[source]["coverage_95"],
        "chi2_mean": float(samples.chi2.mean()),
        "chi2_median": float(np.median(samples.chi2)),
        "fit_time_s": fit_time,
        "draw_time_ms": 1e3 * draw_time / len(views[view]),
    }
    print(row, flush=True)
    return row


def main(arguments=None):
    """Run the study and write its record."""
    description = __doc__.partition("\n")[0]
    run_study("paper.manifolds", description, run, FULL, QUICK, arguments)
