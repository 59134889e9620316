r"""Fluxes of bright objects, whose own photons make most of their noise.

Objects of a known profile and of fluxes that are spread evenly in their logarithm are observed as
counts of photons, on a background with a noise of one electron a pixel. A prior of their flux is
learned, and the flux of objects that the fit has not seen is drawn from the posterior, in three
ways:

* ``effective gain``: the noise is that of the light that the chain expects
  (`~astro_ddprism.mixing.PhotonNoise`);
* ``noise of the data``: the variance is that of the background plus the counts observed, as many
  pipelines have it;
* ``background alone``: the photons of the objects make no noise.

A flux is biased by ``bias`` of its own errors, in the mean.

    python -m benchmarks.photon_noise --out benchmarks/results/photon_noise.json
"""

from itertools import pairwise

import numpy as np

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset
from astro_ddprism.evaluate.metrics import interval_coverage

FULL = {
    "size": 9,  # pixels
    "width": 1.13,  # of the profile, in pixels
    "flux": [85.0, 8000.0],  # electrons
    "signal_to_noise": [8.0, 20.0, 44.0, 88.0],
    "n_observations": 3000,
    "n_held_out": 600,
    "n_samples": 40,
    "config": {
        "n_em_iterations": 1,
        "training": {"n_first_images": 200_000, "n_images": 100_000},
    },
}
QUICK = FULL | {
    "signal_to_noise": [8.0, 88.0],
    "n_observations": 400,
    "n_held_out": 60,
    "config": {"n_em_iterations": 0, "training": {"n_first_images": 20_000}},
}


def profile_of(setting):
    """The part of the light in each pixel, (size²,)."""
    y, x = np.mgrid[: setting["size"], : setting["size"]] - setting["size"] // 2
    profile = np.exp(-0.5 * (x**2 + y**2) / setting["width"] ** 2)
    return (profile / profile.sum()).ravel()


def observe(number, setting, rng):
    """Counts of some objects on a background: fluxes (N,), data (N, size²)."""
    flux = np.exp(rng.uniform(*np.log(setting["flux"]), number))
    light = flux[:, np.newaxis] * profile_of(setting)
    return flux, rng.poisson(light) + rng.standard_normal(light.shape)


def views_of(data, setting):
    """The same data with each of the noise models."""
    mixing = np.broadcast_to(profile_of(setting)[:, np.newaxis], (*data.shape, 1))
    noises = {
        "effective gain": {"variance": 1.0, "effective_gain": 1.0},
        "noise of the data": {"variance": 1 + data.clip(min=0)},
        "background alone": {"variance": 1.0},
    }
    return {
        name: MultiViewDataset.from_arrays({"v": {"data": data, "mixing": {"object": mixing}, **n}})
        for name, n in noises.items()
    }


def run(setting, device):
    """Learn a prior with each of the noise models, and measure objects that it has not seen."""
    rng = np.random.default_rng(0)
    _, data = observe(setting["n_observations"], setting, rng)
    flux, held_out = observe(setting["n_held_out"], setting, rng)
    expected = flux / np.sqrt(flux + 1 / np.square(profile_of(setting)).sum())
    views, unseen = views_of(data, setting), views_of(held_out, setting)
    rows = []
    for name, dataset in views.items():
        separator = DiffusionSourceSeparator(device=str(device), seed=1, **setting["config"])
        separator.fit(dataset)
        samples = separator.sample(unseen[name]["v"], setting["n_samples"], seed=2)
        drawn = samples.samples["object"].value[:, :, 0]
        pull = (drawn.mean(axis=0) - flux) / drawn.std(axis=0, ddof=1)
        for low, high in pairwise(setting["signal_to_noise"]):
            chosen = (expected >= low) & (expected < high)
            rows.append(
                {
                    "noise": name,
                    "signal_to_noise": f"{low:g} to {high:g}",
                    "n": int(chosen.sum()),
                    "bias": float(pull[chosen].mean()),
                    "bias_error": float(pull[chosen].std(ddof=1) / np.sqrt(chosen.sum())),
                    **{
                        f"coverage_{round(100 * level)}": float(
                            interval_coverage(drawn[:, chosen], flux[chosen], level)
                        )
                        for level in (0.68, 0.95)
                    },
                }
            )
    return {"rows": rows}
