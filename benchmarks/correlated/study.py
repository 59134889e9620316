r"""What becomes of a fit that takes the noise of neighbouring pixels to be independent.

Galaxies on images whose noise was drizzled: white noise of several dithered exposures, with pixels
larger than those of the image, spread over the image's pixels by the area of their overlap. Each
pixel's variance is known exactly, from the weights. Two priors are learned from the same images:

* with `~astro_ddprism.mixing.CorrelatedNoise`, the correlation of neighbours as measured in blank
  sky by `~astro_ddprism.survey.estimate_autocorrelation`;
* with the same variance of each pixel, and no correlation.

Both draw from the posterior of galaxies that they have not seen. An aperture's flux is
*calibrated* if its truth lies as often within an interval as that says. Noise without correlation
does not only promise errors that are too small: what of the noise it does not know is light, and
the prior learns that galaxies have it.

    python -m benchmarks.correlated --out benchmarks/results/correlated.json --docs docs
"""

import numpy as np

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset
from astro_ddprism.evaluate.metrics import interval_coverage
from astro_ddprism.mixing import CorrelatedNoise, Identity
from astro_ddprism.posterior.apertures import aperture_flux
from astro_ddprism.simulate.profiles import MoffatRenderer
from astro_ddprism.survey import estimate_autocorrelation

from ..record import run_pictured_study

FULL = {
    "size": 16,  # pixels
    "fwhm": 2.4,
    "half_light_radius": [1.0, 3.0],
    "flux": [30.0, 600.0],  # in units of the noise of a pixel
    # Of the exposures: in pixels of the image, and the part of them that is dropped on it.
    "drizzle": {"pixel": 1.7, "pixfrac": 0.9, "n_exposures": 6},
    "max_lag": 3,
    "n_observations": 512,
    "n_held_out": 256,
    "n_samples": 40,  # 39 at least, for an interval of 95 %
    "radius": [2.0, 4.0, 6.0],  # of the apertures
    "config": {
        "n_em_iterations": 3,
        "training": {"n_first_images": 40_000, "n_images": 20_000},
    },
}
QUICK = FULL | {
    "n_observations": 256,
    "n_held_out": 64,
    "radius": [4.0],
    "config": {
        "n_em_iterations": 1,
        "training": {"n_first_images": 8_000, "n_images": 4_000},
        "chains": {"n_steps": 8},
    },
}


# -- simulation ----------------------------------------------------------------------------------


def drizzled_noise(number, setting, rng):
    """Noise of drizzled images whose pixels have a mean variance of one.

    Returns
    -------
    noise, variance : ndarray, shape (number, 1, size, size)
    """
    size, drizzle = setting["size"], setting["drizzle"]
    pixel, n_exposures = drizzle["pixel"], drizzle["n_exposures"]
    drop = pixel * drizzle["pixfrac"]
    n_drops = int(np.ceil(size / pixel)) + 2
    shape = (number, n_exposures)
    # The part of each drop that falls on each pixel, along one axis: (..., size, n_drops).
    start = rng.uniform(-pixel, 0, (2, *shape, 1, 1)) + pixel * np.arange(n_drops)
    edges = np.arange(size)[:, None]
    y, x = np.clip(np.minimum(start + drop, edges + 1) - np.maximum(start, edges), 0, None)
    total = (y.sum(axis=-1)[..., :, None] * x.sum(axis=-1)[..., None, :]).sum(axis=1)
    squares = ((y**2).sum(axis=-1)[..., :, None] * (x**2).sum(axis=-1)[..., None, :]).sum(axis=1)
    white = rng.standard_normal((*shape, n_drops, n_drops))
    noise = (y @ white @ x.swapaxes(-1, -2)).sum(axis=1) / total
    variance = squares / total**2
    level = variance.mean()
    return (noise / np.sqrt(level))[:, None], (variance / level)[:, None]


def galaxies(number, setting, rng):
    """Exponential discs at the middle pixels, in units of the noise: (number, 1, size, size)."""
    renderer, size = MoffatRenderer(setting["fwhm"]), setting["size"]
    stamp = 4 * size  # what is beyond a stamp's edges folds back into it
    middle = slice(stamp // 2 - size // 2, stamp // 2 - size // 2 + size)
    images = [
        renderer.stamp(
            *rng.uniform(-0.5, 0.5, 2),
            size=stamp,
            radius=rng.uniform(*setting["half_light_radius"]),
            axis_ratio=rng.uniform(0.3, 1),
            theta=rng.uniform(0, np.pi),
        )[0][middle, middle]
        for _ in range(number)
    ]
    flux = np.exp(rng.uniform(*np.log(setting["flux"]), number))
    return flux[:, None, None, None] * np.stack(images)[:, None]


def observe(truth, setting, rng):
    """The views "correlated" and "independent" of the same noisy images."""
    noise, variance = drizzled_noise(len(truth), setting, rng)
    blank, _ = drizzled_noise(len(truth), setting, rng)
    measured = estimate_autocorrelation(
        blank[:, 0], max_lag=setting["max_lag"], box_size=setting["size"]
    )
    common = {"data": truth + noise, "mixing": {"galaxy": Identity(truth.shape[1:])}}
    noises = {
        "correlated": {"noise": CorrelatedNoise(variance, measured)},
        "independent": {"variance": variance},
    }
    views = {
        name: MultiViewDataset.from_arrays({"sky": {**common, **noise}})
        for name, noise in noises.items()
    }
    return views, measured


# -- the study -----------------------------------------------------------------------------------


def calibration(samples, truth, setting):
    """For each aperture: how often intervals hold the truth, and errors in units of their own."""
    rows = []
    for radius in setting["radius"]:
        drawn = aperture_flux(samples, radius)[..., 0]
        true = aperture_flux(truth, radius)[:, 0]
        error, spread = drawn.mean(axis=0) - true, drawn.std(axis=0, ddof=1)
        rows.append(
            {
                "radius": radius,
                "coverage_68": interval_coverage(drawn, true, 0.68),
                "coverage_95": interval_coverage(drawn, true, 0.95),
                "error_over_spread": float(np.sqrt(np.mean((error / spread) ** 2))),
                "rms_error": float(np.sqrt(np.mean(error**2))),
                "median_spread": float(np.median(spread)),
                "median_bias_over_spread": float(np.median(error / spread)),
            }
        )
    return rows


def study(setting):
    """Learn both priors from the same images and see which posterior is calibrated.

    Returns
    -------
    figures : dict
    pictures : dict of str to ndarray
        Truth, images and posterior means of the galaxies that are held out.
    """
    rng = np.random.default_rng(0)
    views, measured = observe(galaxies(setting["n_observations"], setting, rng), setting, rng)
    truth = galaxies(setting["n_held_out"], setting, rng)
    new, _ = observe(truth, setting, rng)
    rows, fits = [], []
    pictures = {"truth": truth, "image": new["independent"]["sky"].data}
    for name, dataset in views.items():
        separator = DiffusionSourceSeparator.from_config(
            {"device": "cpu", "progress": False, **setting["config"]}
        ).fit(dataset)
        samples = separator.sample(new[name]["sky"], n_samples=setting["n_samples"], seed=0)
        drawn = samples.samples["galaxy"].value
        pictures[name] = drawn.mean(axis=0)
        rows += [{"noise": name, **row} for row in calibration(drawn, truth, setting)]
        history = separator.history_
        fits.append(
            {
                "noise": name,
                "chi2_held_out": float(np.median(samples.chi2)),
                "power": history["power"].value.tolist(),
                "left_out": history["n_left_out"].tolist(),
                "e_step_s": round(float(history["e_step_time"].sum().value), 1),
                "m_step_s": round(float(history["m_step_time"].sum().value), 1),
            }
        )
    figures = {"rows": rows, "fits": fits, "autocorrelation": measured.tolist()}
    return figures, pictures


def main(argv=None):
    """Run the study."""
    run_pictured_study("correlated", __doc__.splitlines()[0], study, draw, FULL, QUICK, argv)


def draw(pictures, path, n=3):
    """Some galaxies, their images, and what both priors make of them."""
    from matplotlib.figure import Figure

    titles = {
        "truth": "truth",
        "image": "image",
        "correlated": "mean, noise correlated",
        "independent": "mean, noise independent",
    }
    figure = Figure(figsize=(6.4, 1.65 * n), layout="constrained")
    faint = np.argsort(pictures["truth"].sum(axis=(1, 2, 3)))
    chosen = faint[len(faint) // 8 :: len(faint) // 6]
    for line, i in zip(figure.subplots(n, 4), chosen, strict=False):
        for axis, (name, title) in zip(line, titles.items(), strict=True):
            top = max(4.0, pictures["truth"][i].max())
            axis.imshow(pictures[name][i, 0], vmin=-2.5, vmax=top, origin="lower", cmap="gray")
            axis.set(xticks=[], yticks=[])
            axis.set_title(title, fontsize=8)
    figure.savefig(path, dpi=80)
