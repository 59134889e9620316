r"""Pairs of digits, given what digits are like: Langevin dynamics beside moment matching.

The problem of Jayaram & Thickstun (2020, arXiv:2002.07942): the mean of two MNIST digits,
:math:`y = (x_1 + x_2) / 2`, without noise, is separated under a prior of digits that was learned
from clean ones. Here the prior is a diffusion model, learned from a view of single digits, and both
sources share it; mixtures are of digits that it has not seen, with noise of 1e-4.

Every method draws under the same prior, at equal numbers of evaluations of it. An evaluation of
moment matching also takes products with the Jacobian, which Langevin dynamics does not: the cost of
a draw is measured as well. For each the mean PSNR of one draw, clipped to [0, 1], in the order of
the two that is nearer to the truth; that of the mean of both sources as the estimate of each; and
the root mean square of what a draw leaves of the mixture.

    python -m benchmarks.basis --out benchmarks/results/basis.json [--quick]
"""

import time

import numpy as np

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset
from astro_ddprism.evaluate.metrics import best_permutation
from astro_ddprism.mixing import Amplitude, Identity

from ..grassy_mnist.metrics import psnr
from ..grassy_mnist.problem import labelled_digits
from ..record import run_study

SHAPE, NOISE, MIXTURE_NOISE = (1, 28, 28), 0.01, 1e-4
FIT = {
    "seed": 0,
    "progress": False,
    "warm_start": "moments",
    "symmetries": {"digit": []},
    "schedule": {"sigma_min": 0.5, "sigma_max": 100.0},
    "n_em_iterations": 0,
}
#: Evaluations of the prior for one draw, and how many of them Langevin dynamics has at each scale.
EVALUATIONS = {16: 2, 64: 4, 256: 8, 1024: 16}
FULL = {
    "n_clean": 24_000,
    "n_pairs": 1024,
    "methods": {
        "langevin": [16, 64, 256, 1024],
        "moment-matching": [16, 64, 256],
    },
    "fit": FIT
    | {
        "network": {"name": "unet", "channels": [64, 128], "blocks": [2, 2]},
        "training": {"n_first_images": 4_000_000, "batch_size": 256},
    },
}
QUICK = {
    "n_clean": 12_000,
    "n_pairs": 48,
    "methods": {"langevin": [16, 64, 256], "moment-matching": [16, 64]},
    "fit": FIT | {"training": {"n_first_images": 90_000, "batch_size": 32}},
}


def pairs(digits, n: int, rng):
    """Mixtures of pairs of digits, as a view; and the pairs, of shape ``(2, n, 1, 28, 28)``."""
    truth = digits[: 2 * n].reshape(2, n, *SHAPE)
    mixture = truth.mean(axis=0) + MIXTURE_NOISE * rng.standard_normal((n, *SHAPE))
    half = Amplitude(0.5, SHAPE)
    views = MultiViewDataset.from_arrays(
        {
            "pair": {
                "data": mixture,
                "variance": MIXTURE_NOISE**2,
                "mixing": {"first": half, "second": half},
            }
        }
    )
    return views["pair"], truth


def posterior_of(method: str, n: int) -> dict:
    """Options of a separator whose draws take ``n`` evaluations of each prior, and a last one."""
    if method == "langevin":
        repeats = EVALUATIONS[n]
        posterior = {"name": "langevin", "n_repeats": repeats}
        return {"posterior": posterior, "chains": {"n_steps": n // repeats}}
    return {"posterior": method, "chains": {"n_steps": n, "start": 1.0, "n_redraws": 0}}


def run(configuration, device) -> dict:
    """Learn the prior, and separate the same pairs by every method."""
    digits, rng = labelled_digits()[0][:, None], np.random.default_rng(1)
    n_clean = configuration["n_clean"]
    clean = digits[:n_clean]
    views = MultiViewDataset.from_arrays(
        {
            "clean": {
                "data": clean + NOISE * rng.standard_normal(clean.shape),
                "variance": NOISE**2,
                "mixing": {"digit": Identity(SHAPE)},
            }
        }
    )
    model = DiffusionSourceSeparator.from_config({**configuration["fit"], "device": str(device)})
    started = time.process_time()
    model.fit(views)
    fit_time = time.process_time() - started
    view, truth = pairs(digits[n_clean:], configuration["n_pairs"], rng)
    rows = []
    for method, numbers in configuration["methods"].items():
        for n in numbers:
            separator = DiffusionSourceSeparator.from_priors(
                dict.fromkeys(("first", "second"), model), seed=1, progress=False
            ).set_params(**posterior_of(method, n))
            started = time.process_time()
            samples = separator.sample(view)
            spent = time.process_time() - started
            drawn = np.stack([samples.samples[s][0] for s in ("first", "second")])
            lost = ~np.isfinite(drawn).all(axis=(0, 2, 3, 4))
            drawn[:, lost] = 0  # chains that went astray count as nothing
            left = view.data - drawn.mean(axis=0)
            values = psnr(best_permutation(drawn, truth), truth)
            rows.append(
                {
                    "method": method,
                    "evaluations": n + 1,
                    "psnr_mean": float(values.mean()),
                    "psnr_median": float(np.median(values)),
                    "residual": float(np.sqrt(np.mean(left**2))),
                    "n_lost": int(lost.sum()),
                    "draw_time_ms": 1e3 * spent / len(view),
                }
            )
            print(rows[-1], flush=True)
    mean = np.broadcast_to(truth.mean(axis=0), truth.shape)
    return {
        "methods": rows,
        "psnr_of_half": float(psnr(mean, truth).mean()),
        "fit_time_s": fit_time,
    }


def main(arguments=None):
    """Run the study and write its record."""
    description = __doc__.partition("\n")[0]
    run_study("basis", description, run, FULL, QUICK, arguments)
