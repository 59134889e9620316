"""Fluxes of galaxies that lost pixels, under a model.

Galaxies of known flux and size, on a sky without other light, with the model's noise: seen with
all of their pixels, and without those that cosmic rays, columns, trails, holes and chance take. For
each pattern: the bias of the flux in an aperture of 4 pixels, how often intervals of 95 % hold it,
the light of the masked pixels themselves against the truth, and how many are flagged as masked.

    python -m benchmarks.masks --model kids-r --out benchmarks/results/masks.json --docs docs
"""

import argparse
import time
from pathlib import Path

import numpy as np
from astropy import units as u
from photutils.aperture import CircularAperture, aperture_photometry

from astro_ddprism import DiffusionSourceSeparator, View
from astro_ddprism.mixing import Identity
from astro_ddprism.posterior.quality import Quality
from astro_ddprism.survey.conditions import SurveyConditions

from ..record import write_record
from .pictures import draw_masks

FULL = {
    "n": 60,
    "n_samples": 39,
    "noise": 0.0158,  # microjansky a pixel
    "pixel_scale": 0.339,  # arcseconds
    "psf_fwhm": 0.9,
    "flux": (1.0, 20.0),  # microjansky, evenly in the logarithm
    "fwhm": (2.7, 4.5),  # of the galaxies as they are seen, in pixels
    "aperture": 4.0,  # pixels
    "seed": 11,
}
QUICK = FULL | {"n": 12, "n_samples": 6}
SIZE, CENTRE = 32, 16


def patterns(n, rng) -> dict:
    """Which pixels of each image are masked, by the name of the pattern, (n, SIZE, SIZE)."""
    dy, dx = np.mgrid[:SIZE, :SIZE] - CENTRE
    one = {
        "all pixels seen": np.zeros_like(dy, dtype=bool),
        "central pixel": (dy == 0) & (dx == 0),
        "cosmic ray of 5 pixels": (dy == dx) & (np.abs(dy) <= 2),
        "column": dx == 1,
        "trail": np.abs(dy - dx / 2) <= 1,
        "hole of 5 x 5": (np.abs(dy) <= 2) & (np.abs(dx) <= 2),
    }
    masks = {name: np.broadcast_to(mask, (n, SIZE, SIZE)) for name, mask in one.items()}
    return masks | {"20 % at random": rng.random((n, SIZE, SIZE)) < 0.2}


def galaxies(setting, rng) -> np.ndarray:
    """Moffat profiles of random fluxes, sizes and places in the central pixel, (n, SIZE, SIZE)."""
    n = setting["n"]
    flux = np.exp(rng.uniform(*np.log(setting["flux"]), n))
    scale = rng.uniform(*setting["fwhm"], n) / 2 / np.sqrt(2 ** (1 / 3.5) - 1)
    y, x = (np.arange(SIZE) - CENTRE - rng.uniform(-0.5, 0.5, (n, 1)) for _ in range(2))
    radius2 = y[:, :, np.newaxis] ** 2 + x[:, np.newaxis] ** 2
    profile = (1 + radius2 / scale[:, np.newaxis, np.newaxis] ** 2) ** -3.5
    return (flux / profile.sum(axis=(1, 2)))[:, np.newaxis, np.newaxis] * profile


def view_of(data, mask, setting) -> View:
    """Cutouts of an image like the model's."""
    identity = Identity((1, SIZE, SIZE))
    view = View(
        data[:, np.newaxis].astype(np.float32),
        variance=setting["noise"] ** 2,
        mask=mask[:, np.newaxis],
        unit="uJy",
        name="galaxy",
        mixing={"los": identity, "galaxy": identity},
    )
    view.conditions = SurveyConditions(
        setting["pixel_scale"] * u.arcsec,
        [setting["noise"]] * u.uJy,
        [setting["psf_fwhm"]] * u.arcsec,
    )
    return view


def run(model, setting):
    """Figures of every pattern, and the images of some galaxies."""
    rng = np.random.default_rng(setting["seed"])
    light = galaxies(setting, rng)
    data = light + rng.normal(0, setting["noise"], light.shape)
    aperture = CircularAperture((CENTRE, CENTRE), setting["aperture"])
    truth = np.array([aperture_photometry(each, aperture)["aperture_sum"][0] for each in light])
    figures, shown = [], {}
    k = int(np.argmin(np.abs(truth - np.median(truth))))  # that is shown
    for name, mask in patterns(setting["n"], rng).items():
        started = time.process_time()
        samples = model.sample(view_of(data, mask, setting), setting["n_samples"], seed=1)
        seconds = time.process_time() - started
        flux = samples.flux("galaxy", setting["aperture"]).value[..., 0]
        error = np.median(flux, axis=0) / truth - 1
        low, high = np.quantile(flux, [0.025, 0.975], axis=0)
        mean = samples.mean["galaxy"].value[:, 0]
        flags = samples.catalog(setting["aperture"])["flags"]
        near = mask & (np.hypot(*(np.mgrid[:SIZE, :SIZE] - CENTRE)) <= setting["aperture"])
        hidden = [np.where(near, each, 0).sum() for each in (mean, light)]
        figures.append(
            {
                "pattern": name,
                "n": setting["n"],
                "bias": float(np.mean(error)),
                "bias_error": float(np.std(error) / np.sqrt(len(error))),
                "coverage_95": float(np.mean((low <= truth) & (truth <= high))),
                "hidden_light": float(hidden[0] / hidden[1]) if near.any() else None,
                "flagged": float(np.mean((flags & Quality.MASKED) > 0)),
                "time_per_draw_s": seconds / setting["n"] / setting["n_samples"],
            }
        )
        shown[name] = np.where(mask[k], np.nan, data[k]), mean[k], light[k]
    return figures, shown


def main(arguments=None):
    """Run the study from the command line."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="kids-r")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=Path, help="folder of the documentation, for the picture")
    parser.add_argument("--n", type=int, help="galaxies")
    parser.add_argument("--samples", type=int, help="draws of each")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    setting = dict(QUICK if options.quick else FULL)
    setting |= {
        "n": options.n or setting["n"],
        "n_samples": options.samples or setting["n_samples"],
    }
    model = DiffusionSourceSeparator.read(options.model, options.device)
    figures, shown = run(model, setting)
    for row in figures:
        print(
            "{pattern:24} bias {bias:+.3f} +- {bias_error:.3f}, coverage {coverage_95:.2f}, hidden "
            "{hidden_light}, flagged {flagged:.2f}, {time_per_draw_s:.3f} s".format(**row)
        )
    write_record(
        options.out,
        study="masks",
        configuration={**setting, "model": Path(options.model).name},
        figures={"patterns": figures},
        device=model.device_,
        started=started,
    )
    if options.docs is not None:
        draw_masks(shown, options.docs / "_static" / "masks.png")
