r"""The published problems of sources on curves: accuracy, calibration and cost.

Priors are learned from observations and mixing matrices alone, and one joint posterior draw is made
for every observation. For every problem the record has the time of the fit, and for every source:

* ``psnr_mean``, ``psnr_median``: of one draw against the truth, over all observations, none left
  out: of the view that brings the source (contrastive), or of all views (mixed); and
  ``psnr_limit``, the mean PSNR of draws from the exact posterior under the true prior, by brute
  force, with that of the same observations, ``psnr_mean_same``;
* ``sinkhorn_posterior``, ``sinkhorn_prior``, ``sinkhorn_truth``: Sinkhorn divergence of posterior
  draws, of prior draws and of one half of the true samples from true ones;
* ``pqmass_prior``, ``pqmass_posterior``, ``pqmass_truth``: p-values of PQMass of the same; and
  ``pqmass``, the first of them;
* ``evaluations_per_draw``: of the source's network for one posterior draw, and
  ``products_per_draw``, vector-Jacobian products of it;
* ``coverage_68``, ``coverage_95``: how many true values lie within the central intervals of the
  draws of their observation; ``chi2``: mean reduced chi-squared of draws against their observation,
  1 if the draws are from the posterior.

    python -m benchmarks.manifolds --out benchmarks/results/manifolds.json
    python -m benchmarks.manifolds --quick --out benchmarks/results/manifolds_quick.json
    python -m benchmarks.manifolds --generate mixed --f 0.5 --seed 3 -n 16384 --out out.json
"""

import argparse
import json
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch.nn.modules.module import register_module_forward_hook

from astro_ddprism import DiffusionSourceSeparator
from astro_ddprism.diffusion.posteriors.moment_matching import JointPosteriorDenoiser

from ..record import write_record
from .limit import posterior_limit
from .metrics import pqmass, sinkhorn_divergence, summarise_psnr
from .pictures import draw_calibration, draw_sources
from .problems import generate_contrastive, generate_mixed, load_contrastive, load_mixed, to_dataset

#: Options of the separator.
FULL = {
    "seed": 20,
    "network": "mlp",
    "posterior": {"name": "moment-matching", "solver": "dense"},
    "warm_start": {"name": "gaussian", "components": 128},
    "training": {"n_first_images": 1_000_000, "n_images": 500_000, "batch_size": 512},
    "chains": {"sampler": "adams-bashforth", "n_steps": 64, "start": 0.5},
    "n_em_iterations": 1,
    "execution": {"batch_size": 2048},
}
#: Sizes of the study itself.
SIZES = {"n": None, "n_limit": 512, "n_calibration": 1024, "n_sinkhorn": 16_384, "n_prior": 16_384}
QUICK = {"n": 16_384, "n_limit": 256, "n_calibration": 256, "n_sinkhorn": 4096, "n_prior": 4096}
#: Published mean PSNR of one draw of 32,768 evaluations (arXiv:2510.05205), by problem and source;
#: that of the mixed problem is the mean of both.
PUBLISHED = {
    ("contrastive-2", "source 2"): 38.27,
    ("contrastive-3", "source 2"): 38.27,
    ("contrastive-3", "source 3"): 19.78,
    ("mixed-0.1", "source 1"): 24.15,
    ("mixed-0.1", "source 2"): 24.15,
}
#: Samplers that are compared, by what they change: chains from far away, with one and with several
#: candidates, and chains that begin at the warm start's draws.
SAMPLERS = {
    "from the top, 64 steps": {"chains__start": 1.0},
    "from the top, 64 steps, 8 candidates": {"chains__start": 1.0, "chains__n_candidates": 8},
    "from the top, 512 steps": {"chains__start": 1.0, "chains__n_steps": 512},
    "ancestral, 64 steps": {"chains__sampler": "ancestral"},
    "predictor-corrector, 64 steps": {"chains__sampler": "predictor-corrector"},
    "heun, 64 steps": {"chains__sampler": "heun"},
    "adams-bashforth, 64 steps": {},
    "adams-bashforth, 256 steps": {"chains__n_steps": 256},
    "adams-bashforth, 64 steps, GMRES of 1 iteration": {
        "posterior__solver": {"name": "gmres", "iterations": 1}
    },
}


def load(name: str, n: int | None):
    """A published problem by its name."""
    kind, _, number = name.partition("-")
    return load_contrastive(n, n_sources=int(number)) if kind == "contrastive" else load_mixed(n)


@contextmanager
def counted():
    """Count the rows that the denoisers of all sources are evaluated on."""
    rows = [0]

    def count(module, inputs, _):
        if isinstance(module, JointPosteriorDenoiser):
            rows[0] += len(inputs[0])

    handle = register_module_forward_hook(count)
    try:
        yield rows
    finally:
        handle.remove()


def run(problem, separator, sizes: dict, pictures: Path | None) -> dict:
    """Learn the priors of a problem, draw, and measure."""
    views = to_dataset(problem)
    started = time.perf_counter()
    separator.fit(views)
    fit_time = time.perf_counter() - started
    # Sources that are learned together have a row each, and the times of both steps together.
    rows = {(row["stage"], row["iteration"]): row for row in separator.history_}
    e_step, m_step = (
        sum(float(row[f"{step}_step_time"].to_value("s")) for row in rows.values()) for step in "em"
    )
    started = time.perf_counter()
    draws = {name: separator.sample(view) for name, view in views.items()}
    sample_time = time.perf_counter() - started
    with counted() as rows:
        separator.sample(views["view 1"][:64])
    evaluations = rows[0] / 64
    n_rows = views["view 1"].data.shape[1]
    priors = separator.sample(n_samples=sizes["n_prior"])
    device = str(separator.device_)
    calibration = {
        name: calibrate(separator, problem, name, view[: sizes["n_calibration"]])
        for name, view in views.items()
    }
    limits = {
        name: posterior_limit(problem, name, n_observations=sizes["n_limit"], device=device)
        for name in views
        if sizes["n_limit"]
    }
    sources = []
    for source in problem.sources:
        chosen = views_of(problem, source)
        x = [np.asarray(draws[name].samples[source][0]) for name in chosen]
        truth = [problem.truth(name)[source] for name in chosen]
        figures = {"name": source, "views": chosen}
        figures |= summarise_psnr(np.concatenate(x), np.concatenate(truth))
        figures["psnr_published"] = PUBLISHED.get((problem.name, source))
        if limits:
            same = [summarise_psnr(a[: sizes["n_limit"]], b[: sizes["n_limit"]])["psnr_mean"]
                    for a, b in zip(x, truth, strict=True)]  # fmt: skip
            figures["psnr_limit"] = float(
                np.mean([limits[name][source]["psnr_mean"] for name in chosen])
            )
            figures["psnr_mean_same"] = float(np.mean(same))
        posterior = np.concatenate(x)
        figures |= compare(
            posterior, np.asarray(priors[source]), np.concatenate(truth), sizes, device
        )
        figures["evaluations_per_draw"] = evaluations
        figures["products_per_draw"] = evaluations * n_rows
        for key in ("coverage_68", "coverage_95", "chi2"):
            figures[key] = float(np.mean([calibration[name][source][key] for name in chosen]))
        sources.append(figures)
    if pictures is not None:
        name = problem.name.replace(".", "_")
        draw_sources(
            pictures / f"manifold_{name}.png",
            {s: problem.truth(views_of(problem, s)[0])[s] for s in problem.sources},
            {s: np.asarray(priors[s]) for s in problem.sources},
            {s: np.asarray(draws[views_of(problem, s)[0]].samples[s][0]) for s in problem.sources},
        )
        draw_calibration(
            pictures / f"manifold_{name}_ranks.png",
            {s: calibration[views_of(problem, s)[0]][s]["ranks"] for s in problem.sources},
        )
    return {
        "name": problem.name,
        "n_observations": {name: len(view) for name, view in views.items()},
        "fit_time_s": fit_time,
        "warm_start_time_s": fit_time - e_step - m_step,
        "e_step_time_s": e_step,
        "m_step_time_s": m_step,
        "time_per_draw_s": sample_time / sum(len(view) for view in views.values()),
        "n_failed": {name: int((d.chi2 > chi2_limit(n_rows)).sum()) for name, d in draws.items()},
        "sources": sources,
    }


def chi2_limit(n_rows: int) -> float:
    """Reduced chi-squared beyond which a draw contradicts its observation."""
    return 1 + 6 * (2 / n_rows) ** 0.5


def views_of(problem, source: str) -> list[str]:
    """The views that a source is judged by: the one that brings it, or all that hold all."""
    held = {name: tuple(view.mixing) for name, view in problem.views.items()}
    if all(len(sources) == len(problem.sources) for sources in held.values()):
        return list(held)
    return [next(name for name, sources in held.items() if source in sources)]


def calibrate(separator, problem, name: str, view, n_samples: int = 32) -> dict:
    """Ranks of the truth among draws, and what follows from them."""
    samples = separator.sample(view, n_samples=n_samples)
    rng = np.random.default_rng(0)
    result = {}
    for source, truth in problem.truth(name).items():
        below = (np.asarray(samples.samples[source]) < truth[: len(view)]).sum(axis=0)
        # Uniform in [0, 1] if the truth is one more draw from the posterior.
        ranks = (below + rng.random(below.shape)) / (n_samples + 1)
        result[source] = {
            "ranks": ranks,
            "coverage_68": float((abs(ranks - 0.5) < 0.34).mean()),
            "coverage_95": float((abs(ranks - 0.5) < 0.475).mean()),
            "chi2": float(np.mean(samples.chi2)),
        }
    return result


def compare(posterior, prior, truth, sizes, device) -> dict:
    """Distances between distributions; of disjoint observations where samples know their own."""
    half = len(truth) // 2
    sinkhorn = {"n_samples": sizes["n_sinkhorn"], "device": device}
    figures = {
        "sinkhorn_posterior": sinkhorn_divergence(posterior, truth, **sinkhorn),
        "sinkhorn_prior": sinkhorn_divergence(prior, truth, **sinkhorn),
        "sinkhorn_truth": sinkhorn_divergence(truth[:half], truth[half:], **sinkhorn),
        "pqmass_prior": pqmass(prior, truth),
        "pqmass_posterior": pqmass(posterior[:half], truth[half:]),
        "pqmass_truth": pqmass(truth[:half], truth[half:]),
    }
    return figures | {"pqmass": figures["pqmass_prior"]}


def compare_samplers(separator, problem, name: str, n: int) -> list[dict]:
    """What samplers make of the same priors."""
    view, truth = to_dataset(problem)[name][:n], problem.truth(name)
    source = list(truth)[-1]
    settings, table = separator.get_params(deep=False), []
    for label, changes in SAMPLERS.items():
        separator.set_params(**settings).set_params(**changes)
        started = time.perf_counter()
        with counted() as rows:
            samples = separator.sample(view)
        draws = np.asarray(samples.samples[source][0])
        table.append(
            {
                "sampler": label,
                "source": source,
                **summarise_psnr(draws, truth[source][:n]),
                "chi2_mean": float(samples.chi2.mean()),
                "chi2_median": float(np.median(samples.chi2)),
                "failed": float((samples.chi2 > chi2_limit(view.data.shape[1])).mean()),
                "evaluations_per_draw": rows[0] / n,
                "time_s": time.perf_counter() - started,
            }
        )
        print(table[-1], flush=True)
    separator.set_params(**settings)
    return table


def parsed(text: str):
    """A value of the command line: a number or another of JSON's values, or else a name."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def main(arguments=None):
    """Run the study and write its record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", required=True, help="the JSON file")
    parser.add_argument("--pictures", type=Path, help="a folder for pictures")
    parser.add_argument("--quick", action="store_true", help="16,384 observations a view")
    parser.add_argument(
        "--problems", nargs="+", default=["contrastive-2", "contrastive-3", "mixed-0.1"]
    )
    parser.add_argument("--generate", choices=["contrastive", "mixed"], help="a random problem")
    parser.add_argument("--seed", type=int, default=0, help="of the random problem")
    parser.add_argument("--f", type=float, default=0.1, help="of a random mixed problem")
    parser.add_argument("--n-sources", type=int, default=2, help="of a random problem")
    parser.add_argument("--dimension", type=int, default=5, help="of a random problem's sources")
    parser.add_argument("-n", type=int, help="observations of each view")
    parser.add_argument("--samplers", action="store_true", help="compare samplers as well")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="PART__OPTION=VALUE", help="of the fit"
    )
    options = parser.parse_args(arguments)
    sizes = QUICK if options.quick else SIZES
    if options.n is not None:
        sizes = sizes | {"n": options.n}
    separator = DiffusionSourceSeparator.from_config(FULL | {"device": options.device})
    for item in options.set:
        name, _, value = item.partition("=")
        separator.set_params(**{name: parsed(value)})
    started = time.perf_counter()
    if options.generate == "contrastive":
        problems = [
            lambda: generate_contrastive(sizes["n"] or 65_536, options.n_sources,
                seed=options.seed, dimension=options.dimension)
        ]  # fmt: skip
    elif options.generate == "mixed":
        problems = [
            lambda: generate_mixed(sizes["n"] or 65_536, options.n_sources, f=options.f,
                seed=options.seed, dimension=options.dimension)
        ]  # fmt: skip
    else:
        problems = [lambda name=name: load(name, sizes["n"]) for name in options.problems]
    figures = {"problems": [], "samplers": []}
    for make in problems:
        problem = make()
        result = run(problem, separator, sizes, options.pictures)
        figures["problems"].append(result)
        print(result, flush=True)
        if options.samplers and not figures["samplers"]:
            figures["samplers"] = compare_samplers(
                separator, problem, list(problem.views)[-1], sizes["n_calibration"]
            )
        write_record(
            options.out,
            study="manifolds",
            configuration={"separator": separator.config, **sizes, "arguments": str(options)},
            figures=figures,
            device=separator.device_,
            started=started,
        )
