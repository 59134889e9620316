r"""Colorization of the sky: r - i and i - Z of galaxies, from the mean of the three bands alone.

A prior of colour images is learned from cutouts of the KiDS r and i and VIKING Z images of one
field, each with its noise, at detected galaxies; of other galaxies only the *grey* image is given,
:math:`y = (x_r + x_i + x_Z) / 3`, with the noise that it has. Draws of the posterior have three
bands again (Jayaram & Thickstun 2020, arXiv:2002.07942, colour pictures so).

Measured are colours in an aperture about each galaxy, of those whose three fluxes are ten times
their noise or more: what the images themselves say is the truth, and draws are given the noise that
it has. Errors are the root mean square of the posterior median minus the truth, in magnitudes,
clipped at three times its robust spread, beside two estimates that know no image: the median colour
of all (the spread of the prior), and that of galaxies of the same grey flux (a running median over
those of the training part). Coverage is that of central intervals; ``flux`` is how far the mean of
the three bands of a draw is from the grey image, in units of its noise.

    python -m benchmarks.colorization --out FILE.json --docs docs [--quick]
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from astropy.io import fits
from astropy.stats import mad_std
from scipy.ndimage import gaussian_filter, maximum_filter

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset
from astro_ddprism.evaluate.metrics import interval_coverage
from astro_ddprism.mixing import Bands, Identity

from ..manifolds.problems import data_folder
from ..record import run_pictured_study

#: Zero points of the images: pixel values are maggies, and 10^-12 of VIKING's.
BANDS, UNITS = ("r", "i", "Z"), (1.0, 1.0, 1e-12)
FULL = {
    "size": 24,
    "n_train": 2000,
    "n_test": 256,
    "n_samples": 64,
    "radius": 4.0,
    "signal": 10.0,
    "fit": {
        "seed": 0,
        "progress": False,
        "warm_start": {"name": "gaussian", "rank": 64},
        "training": {"n_first_images": 200_000, "n_images": 100_000},
        "n_em_iterations": 2,
        "chains": {"n_steps": 32},
    },
}
QUICK = FULL | {
    "n_train": 640,
    "n_test": 48,
    "n_samples": 16,
    "fit": FULL["fit"]
    | {
        "training": {"n_first_images": 24_000, "n_images": 12_000},
        "n_em_iterations": 1,
        "chains": {"n_steps": 12},
    },
}


def read_bands(folder) -> tuple[np.ndarray, np.ndarray]:
    """Images of the field, (3, ny, nx) in 1e-12 maggies, and the noise of each."""
    images = []
    for band, unit in zip(BANDS, UNITS, strict=True):
        with fits.open(folder / f"{band}.fits.fz") as hdus:
            images.append(np.asarray(hdus["SCI"].data, np.float32) * (1e12 * unit))
    images = np.stack(images)
    return images, np.array([mad_std(image[::7, ::7]) for image in images])


def find_galaxies(image, noise: float, margin: int) -> np.ndarray:
    """Positions ``(N, 2)``, y and x, of what is bright in an image and wider than a star.

    Peaks of the smoothed image, six times its noise and more; the brightest, which saturate, are
    left out. Wider than a star is what has 1.9 times as much light within 4 pixels as within 1.5:
    stars of this field have 1.6.
    """
    smooth = gaussian_filter(image, 1.2)
    peak = (smooth == maximum_filter(smooth, 9)) & (smooth > 6 * mad_std(smooth[::7, ::7]))
    y, x = np.nonzero(peak[margin:-margin, margin:-margin])
    positions = np.stack([y, x], axis=1) + margin
    stamps = cut(image[None], positions, 11)
    inner, outer = (aperture_flux(stamps, radius)[:, 0] for radius in (1.5, 4.0))
    kept = (outer > 1.9 * inner) & (stamps.max(axis=(1, 2, 3)) < 400 * noise) & (inner > 0)
    return positions[kept]


def cut(images, positions, size: int) -> np.ndarray:
    """Cutouts ``(N, bands, size, size)`` about positions."""
    first = np.asarray(positions) - size // 2
    return np.stack([images[:, y : y + size, x : x + size] for y, x in first])


def aperture_flux(stamps, radius: float) -> np.ndarray:
    """Sums over the pixels within a radius of the centre: ``(..., bands)``."""
    return (stamps * aperture(stamps.shape[-1], radius)).sum(axis=(-2, -1))


def aperture(size: int, radius: float) -> np.ndarray:
    """Which pixels of a cutout are within a radius of its centre."""
    y, x = np.mgrid[:size, :size] - size // 2
    return np.hypot(y, x) <= radius


def colours(flux) -> np.ndarray:
    """Colours r - i and i - Z [mag] of fluxes ``(..., 3)``."""
    magnitudes = -2.5 * np.log10(flux)
    return magnitudes[..., :-1] - magnitudes[..., 1:]


def clipped_rms(error) -> float:
    """Root mean square of what is within three times the robust spread about zero."""
    spread = 1.4826 * np.median(abs(error))
    return float(np.sqrt(np.mean(error[abs(error) <= 3 * spread] ** 2)))


def of_same_flux(grey, known_grey, known, n: int = 25) -> np.ndarray:
    """Median colours of the ``n`` known galaxies next in flux to each."""
    nearest = np.argsort(abs(np.log(grey)[:, None] - np.log(known_grey)), axis=1)[:, :n]
    return np.median(known[nearest], axis=1)


def run(configuration):
    """Learn the prior from a part of the field, and colour galaxies of the rest."""
    size, radius = configuration["size"], configuration["radius"]
    images, noise = read_bands(data_folder().parent / "kids_viking")
    positions = find_galaxies(images[0], noise[0], size)
    positions = np.random.default_rng(0).permutation(positions)
    upper = positions[:, 0] > images.shape[1] * 0.6
    train = cut(images, positions[~upper][: configuration["n_train"]], size)
    stamps = cut(images, positions[upper], size)
    spread = noise * np.sqrt(aperture(size, radius).sum())

    def bright(stamps):
        return (aperture_flux(stamps, radius) > configuration["signal"] * spread).all(axis=1)

    test = stamps[bright(stamps)][: configuration["n_test"]]
    shape, variance = (3, size, size), (noise**2)[:, None, None]
    views = MultiViewDataset.from_arrays(
        {
            "colour": {
                "data": train,
                "variance": np.broadcast_to(variance, train.shape),
                "mixing": {"galaxy": Identity(shape)},
            }
        }
    )
    separator = DiffusionSourceSeparator.from_config(configuration["fit"])
    started = time.process_time()
    separator.fit(views)
    fit_time = time.process_time() - started
    grey = test.mean(axis=1, keepdims=True)
    seen = MultiViewDataset.from_arrays(
        {
            "grey": {
                "data": grey,
                "variance": np.full(grey.shape, variance.sum() / 9),
                "mixing": {"galaxy": Bands([[1 / 3, 1 / 3, 1 / 3]], shape)},
            }
        }
    )
    started = time.process_time()
    samples = separator.sample(seen["grey"], configuration["n_samples"])
    spent = time.process_time() - started
    draws = np.asarray(samples.samples["galaxy"])
    flux = aperture_flux(draws, radius)
    rng = np.random.default_rng(1)
    flux = np.maximum(flux + spread * rng.standard_normal(flux.shape), 0.1 * spread)
    drawn, truth = colours(flux), colours(aperture_flux(test, radius))
    known = aperture_flux(train[bright(train)], radius)
    same = of_same_flux(
        aperture_flux(test, radius).mean(axis=1), known.mean(axis=1), colours(known)
    )
    rows = [
        {
            "colour": name,
            "n": len(truth),
            "error": clipped_rms(np.median(drawn[..., k], axis=0) - truth[:, k]),
            "spread": clipped_rms(truth[:, k] - np.median(colours(known)[:, k])),
            "spread_same_flux": clipped_rms(truth[:, k] - same[:, k]),
            "bias": float(np.median(np.median(drawn[..., k], axis=0) - truth[:, k])),
            "width": float(np.median(drawn[..., k].std(axis=0))),
            "coverage_68": interval_coverage(drawn[..., k], truth[:, k], 0.68),
            "coverage_80": interval_coverage(drawn[..., k], truth[:, k], 0.8),
        }
        for k, name in enumerate(("r - i", "i - Z"))
    ]
    left = (draws.mean(axis=2, keepdims=True) - grey) / np.sqrt(variance.sum() / 9)
    figures = {
        "colours": rows,
        "n_galaxies": {"train": len(train), "test": len(test)},
        "noise": dict(zip(BANDS, noise.tolist(), strict=True)),
        "flux": float(np.sqrt(np.mean(left**2))),
        "chi2_median": float(np.median(samples.chi2)),
        "fit_time_s": fit_time,
        "draw_time_ms": 1e3 * spent / draws.shape[0] / draws.shape[1],
    }
    return figures, {"truth": truth, "drawn": drawn, "test": test, "draws": draws}


def draw(shown, path):
    """Colours drawn against true ones, and a few galaxies: in colour, grey, and drawn."""
    figure = plt.figure(figsize=(9, 6), layout="constrained")
    grid = figure.add_gridspec(2, 8, height_ratios=(2, 1))
    for k, name in enumerate(("r - i", "i - Z")):
        axis = figure.add_subplot(grid[0, 4 * k : 4 * k + 4])
        median, width = (f(shown["drawn"][..., k], axis=0) for f in (np.median, np.std))
        axis.errorbar(shown["truth"][:, k], median, width, fmt=".", alpha=0.5)
        ends = np.percentile(shown["truth"][:, k], [1, 99])
        axis.plot(ends, ends, color="black")
        axis.set(xlabel=f"{name} of the images [mag]", ylabel=f"{name} drawn [mag]")
    scale = 12 * np.sqrt(np.mean(shown["test"][:4].var(axis=(0, 2, 3))))
    for n in range(4):
        true, drawn = shown["test"][n], shown["draws"][0, n]
        for column, (title, image) in enumerate((("images", true), ("drawn", drawn))):
            axis = figure.add_subplot(grid[1, 2 * n + column])
            axis.imshow(np.clip(np.arcsinh(20 * image[::-1] / scale) / 4, 0, 1).transpose(1, 2, 0))
            axis.set(xticks=[], yticks=[], title=title)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(arguments=None):
    """Run the study, and write its record and its picture."""
    description = __doc__.partition("\n")[0]
    run_pictured_study("colorization", description, run, draw, FULL, QUICK, arguments)
