r"""Sources that every view mixes: how well they come apart, by how alike the views are.

Two views hold two curves each, the other one with the weight :math:`f`: 0, where each view has its
own source alone, 0.1 (the published set), 0.5 and 0.9; and 1, where both views are alike and the
operators tell the sources apart, each with a matrix of its own. Published were the mean Sinkhorn
divergence over these, and for f = 0.1 the PSNR.

For each, the mean over both sources of: the PSNR of one draw of all observations of both views; the
Sinkhorn divergence of draws, and of prior draws, from the truth, and that of one half of the truth
from the other; and the same of Gibbs sampling under the same priors.

    python -m benchmarks.paper mixing --out benchmarks/results/paper_mixing.json [--quick]
"""

import copy

import numpy as np

from astro_ddprism import DiffusionSourceSeparator

from ..manifolds.metrics import sinkhorn_divergence, summarise_psnr
from ..manifolds.problems import generate_mixed, load_mixed, to_dataset
from ..record import run_study
from .manifolds import FULL as CURVES
from .manifolds import QUICK as FEW
from .manifolds import timed

#: Mean PSNR of one draw (arXiv:2510.05205), by weight and sampler.
PUBLISHED = {(0.1, "joint"): 24.15, (0.1, "gibbs"): 17.69}
FULL = {
    "weights": [0.0, 0.1, 0.5, 0.9, 1.0],
    "n": 65_536,
    "n_sinkhorn": 16_384,
    "seed": 0,
    "diffusion": CURVES["diffusion"],
    "samplers": {name: CURVES["samplers"][name] for name in ("joint", "gibbs")},
}
QUICK = FULL | {
    "n": 2048,
    "n_sinkhorn": 2048,
    "diffusion": FEW["diffusion"],
    "samplers": {name: FEW["samplers"][name] for name in ("joint", "gibbs")},
}


def problem_of(weight: float, n: int, seed: int):
    """The published problem where there is one, else one of its kind."""
    if weight == 0.1:
        return load_mixed(n)
    return generate_mixed(n, f=weight, seed=seed, own_operators=weight == 1)


def run(configuration, device) -> dict:
    """All weights, and both samplers on each."""
    rows = []
    for weight in configuration["weights"]:
        problem = problem_of(weight, configuration["n"], configuration["seed"])
        views = to_dataset(problem)
        separator = DiffusionSourceSeparator.from_config(
            {"seed": 20, "progress": False, **configuration["diffusion"], "device": str(device)}
        )
        fit_time = timed(lambda s=separator, v=views: s.fit(v))
        sinkhorn = {"n_samples": configuration["n_sinkhorn"], "device": str(device)}
        priors = separator.sample(n_samples=configuration["n_sinkhorn"])
        for name, options in configuration["samplers"].items():
            sampler, drawn = copy.copy(separator).set_params(**options), {}
            draw_time = timed(
                lambda s=sampler, v=views, d=drawn: d.update(
                    {name: s.sample(view) for name, view in v.items()}
                )
            )
            figures = []
            for source in problem.sources:
                held = [view for view in views if source in views[view].sources]
                x = np.concatenate([np.asarray(drawn[view].samples[source][0]) for view in held])
                truth = np.concatenate([problem.truth(view)[source] for view in held])
                half = len(truth) // 2
                figures.append(
                    {
                        **summarise_psnr(x, truth),
                        "sinkhorn_posterior": sinkhorn_divergence(x, truth, **sinkhorn),
                        "sinkhorn_prior": sinkhorn_divergence(
                            np.asarray(priors[source]), truth, **sinkhorn
                        ),
                        "sinkhorn_truth": sinkhorn_divergence(
                            truth[:half], truth[half:], **sinkhorn
                        ),
                    }
                )
            row = {"weight": weight, "sampler": name}
            row |= {key: float(np.mean([f[key] for f in figures])) for key in figures[0]}
            row |= {
                "psnr_published": PUBLISHED.get((weight, name)),
                "fit_time_s": fit_time,
                "draw_time_ms": 1e3 * draw_time / sum(map(len, views.values())),
            }
            rows.append(row)
            print(row, flush=True)
    means = [
        {"sampler": name}
        | {
            key: float(np.mean([row[key] for row in rows if row["sampler"] == name]))
            for key in ("sinkhorn_posterior", "sinkhorn_prior", "sinkhorn_truth")
        }
        for name in configuration["samplers"]
    ]
    return {"weights": rows, "means": means}


def main(arguments=None):
    """Run the study and write its record."""
    description = __doc__.partition("\n")[0]
    run_study("paper.mixing", description, run, FULL, QUICK, arguments)
