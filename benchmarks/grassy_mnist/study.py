"""Digits in front of grass: what each method makes of them.

Three problems: the published one at full resolution; a third of the observations each at full, half
and quarter resolution, as published too; and all ten digits. For each method, of one draw of every
observation that holds a digit, clipped to [0, 1], at amplitude 1 (``metrics``): the mean PSNR, that
of digits that the fit did not see, ``psnr_held_out``, and that of the mean of 16 draws of some;
the Fréchet distance, of the means alone (as published) and whole, and the p-value of PQMass; and
the processor time of the fit and of a draw. Of diffusion priors ``em`` has the mean PSNR of the
draws of every E-step and the processor time until then, and what it gained by.

    python -m benchmarks.grassy_mnist --out benchmarks/results/grassy_mnist.json [--quick]

A study of hours goes on where it was stopped: with ``--work DIR`` all that is done is kept in a
folder, fits after every EM iteration, and the same command finishes the rest. ``--only`` names
problems and methods, so that they can be done in turns.
"""

import argparse
import copy
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from astro_ddprism.separator import SEPARATORS

from ..record import write_record
from .metrics import Features, psnr, summary
from .pictures import draw_separations
from .problem import NOISE, load

#: With the published grass (arXiv:2510.05205, table 1): PSNR, distance of means, PQMass.
PUBLISHED = {
    "full": {
        "pcpca": (18.99, 22.3, 0.0),
        "clvm-linear": (13.30, 101.3, 0.0),
        "clvm-vae": (14.56, 18.87, 0.0),
        "moment matching": (25.60, 1.57, 1.00),
    },
    "thirds": {
        "pcpca": (14.08, 121.7, 0.0),
        "clvm-linear": (12.16, 199.5, 0.0),
        "clvm-vae": (8.48, 1008.0, 0.0),
        "moment matching": (19.73, 2.36, 0.94),
    },
}
PROBLEMS = {
    "full": {"resolutions": [1], "digits": "published"},
    "thirds": {"resolutions": [1, 2, 4], "digits": "published"},
    "ten digits": {"resolutions": [1], "digits": "ten"},
}
COMMON = {"seed": 1, "progress": False}
SYMMETRIES = {"grass": ["rotations", "flips"], "digit": []}
BASELINES = {
    "gaussian": {"method": "gaussian", "symmetries": SYMMETRIES, "warm_start": "moments"},
    "pcpca": {"method": "pcpca", "rank": 64, "gamma": 0.9},
    "clvm-linear": {
        "method": "clvm-linear",
        "rank": {"grass": 265, "digit": 6},
        "training": {"n_first_images": 1_000_000, "batch_size": 256, "learning_rate": 3e-2},
    },
    "clvm-vae": {
        "method": "clvm-vae",
        "rank": {"grass": 380, "digit": 15},
        "training": {"n_first_images": 2_000_000, "batch_size": 256, "learning_rate": 1e-3},
    },
}
# Priors are learned by moment matching, and at the end a network learns their posterior.
DIFFUSION = {
    "method": "diffusion",
    "symmetries": SYMMETRIES,
    "warm_start": "moments",
    "schedule": {"sigma_min": 0.5, "sigma_max": 100.0},
}
MATCHING = {"name": "moment-matching", "solver": {"name": "gmres", "iterations": 3}}
LARGE = {"name": "unet", "channels": [64, 128], "blocks": [1, 1]}
FULL = {
    "problems": list(PROBLEMS),
    "n_grass": 32_768,
    "n_digits": 12_800,
    "n_held_out": 1024,
    "n_mean": 128,
    "n_features": 1_000_000,
    "n_tessellations": 1000,
    "methods": BASELINES
    | {
        "diffusion": DIFFUSION
        | {
            "network": LARGE,
            "training": {
                "n_first_images": 4_000_000,
                "n_images": 300_000,
                "n_observations": 4096,
                "batch_size": 512,
            },
            "chains": {"n_steps": 20, "start": 0.7},
            "n_em_iterations": {"grass": 0, "digit": 24},
            "posterior": {
                "name": "amortized",
                "network": LARGE,
                "n_images": 4_000_000,
                "n_matched": 24,
                "otherwise": MATCHING,
            },
            "execution": {"precision": "bfloat16"},
        },
    },
}
QUICK = {
    "problems": ["full"],
    "n_grass": 8192,
    "n_digits": 4096,
    "n_held_out": 512,
    "n_mean": 32,
    "n_features": 60_000,
    "n_tessellations": 100,
    "methods": {
        "gaussian": BASELINES["gaussian"],
        "pcpca": BASELINES["pcpca"],
        "clvm-linear": BASELINES["clvm-linear"]
        | {"training": {"n_first_images": 200_000, "batch_size": 128, "learning_rate": 3e-2}},
        "clvm-vae": BASELINES["clvm-vae"]
        | {"training": {"n_first_images": 200_000, "batch_size": 256, "learning_rate": 1e-3}},
        "diffusion": DIFFUSION
        | {
            "training": {
                "n_first_images": 48_000,
                "n_images": 12_000,
                "n_observations": 1024,
            },
            "chains": {"n_steps": 10, "start": 0.7},
            "n_em_iterations": {"grass": 0, "digit": 20},
            "posterior": {
                "name": "amortized",
                "n_images": 96_000,
                "n_matched": 20,
                "otherwise": MATCHING,
            },
        },
    },
}
#: Observations in a picture.
N_SHOWN = 8
#: How draws are made under the priors of a fit, by what is reported.
SAMPLERS = {
    "moment matching": {"posterior": MATCHING, "chains__n_steps": 16},
    "amortized": {},
}


class Work:
    """A folder that keeps what is done; without one nothing is kept.

    Parameters
    ----------
    folder : Path or None
        The folder.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def read(self, name: str):
        """What was kept under a name; None if nothing was."""
        path = None if self.folder is None else self.folder / f"{name}.json"
        return json.loads(path.read_text()) if path is not None and path.exists() else None

    def keep(self, name: str, value):
        """Keep a value under a name, whole or not at all."""
        if self.folder is not None:
            path = self.folder / f"{name}.json"
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(value))
            temporary.replace(path)


def fit(separator, views, truth, name: str, work: Work) -> list[dict]:
    """Fit, from where it was stopped; the PSNR of the draws of every E-step that saw digits."""
    path = None if work.folder is None else work.folder / f"{name}.asdf"
    trace, inner = work.read(f"{name} em") or [], separator._fit
    spent = trace[-1]["time_s"] if trace else 0.0
    started = time.process_time()

    def watched(task):
        def save(state, unfinished):
            values = [
                psnr(draws.x[:, -images[0].size :].reshape(images.shape).numpy() * NOISE, images)
                for view, draws in state.draws.items()
                for images in (truth.get(view),)
                if images is not None
            ]
            row = {"time_s": spent + time.process_time() - started}
            if values:
                row |= {
                    "iteration": state.iteration - 1,
                    "psnr": float(np.concatenate(values).mean()),
                    "chi2": state.history[-1]["chi2"],
                }
                if "psnr" in (trace[-1] if trace else {}):
                    gain = row["psnr"] - trace[-1]["psnr"]
                    row |= {
                        "gain": gain,
                        "gain_a_minute": 60 * gain / (row["time_s"] - trace[-1]["time_s"]),
                    }
            trace.append(row)
            task.save(state, unfinished)
            work.keep(f"{name} em", trace)
            print(name, row, flush=True)

        return inner(replace(task, save=save))

    separator._fit = watched
    try:
        separator.fit(views, checkpoint=path, resume=path is not None and path.exists())
    finally:
        del separator._fit
    trace.append({"time_s": spent + time.process_time() - started})
    return trace


def draw(separator, views, truth, n_samples=1) -> tuple[np.ndarray, np.ndarray, float]:
    """Draws of the digits of all views, (n_samples, N, 1, 28, 28), the digits, and median chi2."""
    drawn = [separator.sample(views[view], n_samples) for view in truth]
    x = np.concatenate([samples.samples["digit"] for samples in drawn], axis=1)
    chi2 = np.concatenate([np.ravel(samples.chi2) for samples in drawn])
    return x, np.concatenate(list(truth.values())), float(np.median(chi2))


def measure(separator, data, configuration, features) -> tuple[dict, np.ndarray]:
    """All figures of the draws of one method, and the draws."""
    (views, truth), (others, unseen) = data
    started = time.process_time()
    drawn, digits, chi2 = draw(separator, views, truth)
    spent = time.process_time() - started
    few = configuration["n_mean"]
    some = {view: views[view][:few] for view in truth}
    mean = draw(separator, some, {view: images[:few] for view, images in truth.items()}, 16)
    held_out = draw(separator, others, unseen)
    figures = summary(drawn[0], digits, features, configuration["n_tessellations"])
    figures |= {
        "psnr_held_out": float(psnr(held_out[0][0], held_out[1]).mean()),
        "psnr_of_mean": float(psnr(mean[0].mean(axis=0), mean[1]).mean()),
        "chi2_median": chi2,
        "draw_time_ms": 1e3 * spent / len(digits),
    }
    if len(truth) > 1:
        ends = np.cumsum([len(images) for images in truth.values()])[:-1]
        parts = np.split(psnr(drawn[0], digits), ends)
        figures["psnr_of_view"] = {
            view: float(part.mean()) for view, part in zip(truth, parts, strict=True)
        }
    return figures, drawn[0]


def chosen(names, only) -> list[str]:
    """Those of some names that are asked for; all if none of them is."""
    return [name for name in names if name in only] or list(names)


def run(configuration, device, work: Work, only=(), docs=None) -> dict:
    """All methods on the views of each problem."""
    rows, em, features, accuracy = [], [], None, None
    for problem in chosen(configuration["problems"], only):
        n_grass, n_digits = configuration["n_grass"], configuration["n_digits"]
        views = load(n_grass, n_digits, **PROBLEMS[problem])
        unseen = load(3, configuration["n_held_out"], 1, n_digits, **PROBLEMS[problem])
        data, truth = (
            np.concatenate(parts)
            for parts in ([views[0][view].data for view in views[1]], list(views[1].values()))
        )
        some, shown = np.linspace(0, len(truth) - 1, N_SHOWN).astype(int), {}
        for name in chosen(configuration["methods"], only):
            label, options = f"{problem}, {name}", configuration["methods"][name]
            done = work.read(label)
            if done is None:
                features = features or Features(configuration["n_features"], device)
                kind = SEPARATORS[options["method"]]
                separator = kind.from_config({**COMMON, **options, "device": str(device)})
                trace = fit(separator, *views, label, work)
                done = {"em": [row for row in trace if "psnr" in row], "rows": [], "shown": {}}
                done["accuracy"] = features.accuracy
                for sampler, changes in (SAMPLERS if name == "diffusion" else {name: {}}).items():
                    other = copy.copy(separator).set_params(**changes)
                    figures, drawn = measure(other, (views, unseen), configuration, features)
                    published = PUBLISHED.get(problem, {}).get(sampler, (None,) * 3)
                    named = ("psnr_published", "frechet_published", "pqmass_published")
                    done["rows"].append(
                        {"problem": problem, "method": sampler}
                        | dict(zip(named, published, strict=True))
                        | figures
                        | {"fit_time_s": trace[-1]["time_s"]}
                    )
                    print(done["rows"][-1], flush=True)
                    done["shown"][sampler] = np.asarray(drawn)[some].tolist()
                work.keep(label, done)
            rows, accuracy = rows + done["rows"], done["accuracy"]
            em += [{"problem": problem} | row for row in done["em"]]
            shown |= done["shown"]
        if docs is not None:
            path = docs / "_static" / f"grassy_mnist_{problem.replace(' ', '_')}.png"
            draw_separations(path, data[some], truth[some], shown)
    return {"methods": rows, "em": em, "accuracy_of_features": accuracy}


def main(arguments=None):
    """Run the study and write its record."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="a small version of the study")
    parser.add_argument("--work", type=Path, help="folder that keeps what is done")
    parser.add_argument("--only", nargs="+", default=(), help="problems and methods")
    parser.add_argument("--docs", type=Path, help="folder of the documentation, for pictures")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    configuration, device = QUICK if options.quick else FULL, torch.device(options.device)
    work = Work(options.work)
    figures = run(configuration, device, work, options.only, options.docs)
    write_record(
        options.out,
        study="grassy_mnist",
        configuration=configuration,
        figures=figures,
        device=device,
        started=started,
    )
