r"""Galaxies of known flux in a real survey field: how right are separated fluxes and their errors?

Galaxies are drawn into the last rows of a survey image (`benchmarks.injection_scene`), half of them
next to detected objects, and measured at their known positions by several methods: a fixed
aperture, photutils, SEP, scarlet2 (`benchmarks.injection_peers`), and by this package with a given
model, which should not have seen these rows. The same images for all of them. What is told of each
is in `benchmarks.injection_metrics`.

A galaxy is *blended* where detected objects bring more than 10 % of its own flux into its aperture,
and *isolated* where they bring less than 1 %. Headline figures are of magnitudes 19 to 24.

    python -m benchmarks.injection --model MODEL.asdf --out benchmarks/results/injection.json \
        --peers-out peers.npz --scarlet2-python PYTHON --docs docs

The peers do not depend on the model: ``--peers-in peers.npz`` takes what ``--peers-out`` wrote for
the same galaxies, and ``--no-peers`` leaves them out.
"""

import argparse
import os
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from astro_ddprism import DiffusionSourceSeparator
from astro_ddprism.metrics import interval_coverage

from .injection_metrics import (
    bootstrap_error,
    correct_by,
    flux_statistics,
    rank_statistics,
    ranks_of,
    tarp_coverage,
    tarp_ranks,
)
from .injection_scene import SceneSettings, make_scene
from .manifold_problems import data_folder
from .record import write_record

__all__ = ["Measurement", "main", "measure_by_separation", "summarise"]

N_QUICK = 60
MAGNITUDES = (19.0, 24.0)
"""Range of the headline figures."""

BLENDED, ISOLATED = 0.1, 0.01
"""Neighbours' flux in a galaxy's aperture, over its own: more than the one, less than the other."""

BLENDING_EDGES = (0.0, ISOLATED, BLENDED, 0.3, 1.0, np.inf)
MAGNITUDE_EDGES = (19.0, 20.0, 21.0, 22.0, 23.0, 24.0, 25.0)
LEVELS = (0.68, 0.95)
WINDOW = 3.0  # pixels: width of the Gaussian under which centroids are taken
OURS = "astro-ddprism"


class Measurement:
    """What one method says of all galaxies.

    Parameters
    ----------
    name : str
        Of the method.
    flux : ndarray, shape (N,)
        NaN where the method found nothing, or was not asked.
    time_per_object : float
        In seconds.
    asked : ndarray of bool, shape (N,), optional
        Of which galaxies the method was asked; by default of all.
    """

    def __init__(self, name, flux, time_per_object, asked=None):
        self.name, self.flux = name, np.asarray(flux, dtype=float)
        self.time_per_object = float(time_per_object)
        self.asked = np.ones(len(self.flux), dtype=bool) if asked is None else np.asarray(asked)


class Separation(Measurement):
    """What this package says of all galaxies.

    Parameters
    ----------
    flux_samples : ndarray, shape (S, N)
        Posterior samples of the flux in the cutout.
    centroids : ndarray, shape (S, N, 2)
        Posterior samples of the centroid.
    model, observed : ndarray, shape (N,)
        Flux of all sources and of what was observed, in the valid pixels.
    variance : ndarray, shape (N,)
        Of the latter.
    chi2 : ndarray, shape (N,)
        Reduced, mean over the samples.
    images : dict of str to ndarray, shape (N, size, size)
        Observed and posterior means of the sources, and the residual of the first sample.
    time_per_object : float
    """

    def __init__(self, flux_samples, centroids, model, observed, variance, chi2, images, seconds):
        super().__init__(OURS, flux_samples.mean(axis=0), seconds)
        self.flux_samples, self.centroids = flux_samples, centroids
        self.model, self.observed, self.variance = model, observed, variance
        self.chi2, self.images = chi2, images


def centroids_of(images, offset):
    """Centroids of galaxies under a Gaussian window at their positions.

    Parameters
    ----------
    images : ndarray, shape (..., N, ny, nx)
        Images of galaxies.
    offset : ndarray, shape (N, 2)
        Position (x, y) of each from pixel ``n // 2``.

    Returns
    -------
    centroids : ndarray, shape (..., N, 2)
        (x, y) from the position, in pixels; within the window's width of it, also where there is
        no light.
    """
    ny, nx = images.shape[-2:]
    x = np.arange(nx) - nx // 2 - offset[:, :1]
    y = np.arange(ny) - ny // 2 - offset[:, 1:]
    wx, wy = (np.exp(-(v**2) / 2 / WINDOW**2) for v in (x, y))
    total = np.einsum("...yx,...y,...x->...", images, wy, wx)
    first = [
        np.einsum("...yx,...y,...x->...", images, wy, wx * x),
        np.einsum("...yx,...y,...x->...", images, wy * y, wx),
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        place = np.nan_to_num(np.stack(first, axis=-1) / total[..., np.newaxis], nan=0.0)
    return np.clip(place, -WINDOW, WINDOW)


def separate(separator, view, offset, n_samples, seed):
    """Separate cutouts: a `Separation` of those of one image."""
    started = time.perf_counter()
    samples = separator.sample(view, n_samples=n_samples, seed=seed)
    seconds = (time.perf_counter() - started) / len(view)
    valid = ~view.mask
    galaxy = samples.samples["galaxy"].value[:, :, 0]
    model = samples.model().value.mean(axis=0)
    residual = (view.data[:, 0] - samples.model().value[0, :, 0]) / np.sqrt(view.variance[:, 0])
    return Separation(
        flux_samples=samples.flux("galaxy").value[..., 0].astype(float),
        centroids=centroids_of(galaxy.astype(float), offset),
        model=np.sum(model, axis=(1, 2, 3), where=valid, dtype=float),
        observed=np.sum(view.data, axis=(1, 2, 3), where=valid, dtype=float),
        variance=np.sum(view.variance, axis=(1, 2, 3), where=valid, dtype=float),
        chi2=samples.chi2.mean(axis=0),
        images={
            "observed": view.data[:, 0],
            "galaxy": samples.mean["galaxy"].value[:, 0],
            "los": samples.mean["los"].value[:, 0],
            "residual": residual,
        },
        seconds=seconds,
    )


def measure_by_separation(scene, separator, n_samples, seed=0):
    """Measure all galaxies of a scene by this package.

    Parameters
    ----------
    scene : Scene
        The galaxies in their images.
    separator : DiffusionSourceSeparator
        With its priors learned.
    n_samples : int
        Posterior samples of each galaxy.
    seed : int
        Of the samples.

    Returns
    -------
    Separation
    """
    parts, order = [], []
    for k in range(scene.n_passes):
        rows = scene.rows(k)
        offset = offsets(scene.catalog["x"][rows], scene.catalog["y"][rows])
        parts.append(separate(separator, scene.view_of(k), offset, n_samples, seed + k))
        order.append(rows)
    order = np.argsort(np.concatenate(order))

    def together(name, axis=0):
        return np.concatenate([getattr(p, name) for p in parts], axis=axis).take(order, axis=axis)

    lengths = [len(part.flux) for part in parts]
    seconds = np.average([part.time_per_object for part in parts], weights=lengths)
    images = {
        name: np.concatenate([part.images[name] for part in parts])[order]
        for name in parts[0].images
    }
    single = {name: together(name) for name in ("model", "observed", "variance", "chi2")}
    return Separation(
        together("flux_samples", 1), together("centroids", 1), **single, images=images,
        seconds=seconds,
    )  # fmt: skip


def offsets(x, y):
    """Positions (x, y) from the middle of their pixels, ndarray (N, 2)."""
    return np.stack([x - np.rint(x), y - np.rint(y)], axis=-1)


# -- figures -------------------------------------------------------------------------------------


def classes_of(catalog):
    """The galaxies of each class: dict of str to ndarray of bool (N,)."""
    low, high = MAGNITUDES
    headline = (catalog["magnitude"] >= low) & (catalog["magnitude"] <= high)
    return {
        "isolated": headline & (catalog["neighbours"] < ISOLATED),
        "blended": headline & (catalog["neighbours"] > BLENDED),
    }


def summarise(measurement, scene):
    """All figures of one method.

    Parameters
    ----------
    measurement : Measurement
        What it says.
    scene : Scene
        The truth.

    Returns
    -------
    figures : dict
        ``name``, ``time_per_object_s``, ``correction`` (the median flux ratio of isolated
        galaxies, by which all ratios are divided); for each of the classes ``isolated`` and
        ``blended`` a dict of ``n``, ``n_missed``, the `flux_statistics` with their errors, and of
        this package the coverage; ``bins``, a list of the same by magnitude and blending.
    """
    catalog = scene.catalog
    classes = classes_of(catalog)
    asked, magnitude, blending = measurement.asked, catalog["magnitude"], catalog["neighbours"]
    ratio = measurement.flux / catalog["flux"]
    isolated = classes["isolated"] & asked
    known = ratio[isolated & np.isfinite(ratio)]

    def figures(chosen):
        chosen = chosen & asked
        return _class_figures(measurement, scene, ratio, isolated, np.flatnonzero(chosen))

    bins = []
    for name, values, edges in (
        ("magnitude", magnitude, MAGNITUDE_EDGES),
        ("blending", blending, BLENDING_EDGES),
    ):
        headline = np.ones(len(ratio), dtype=bool)
        if name == "blending":
            headline = (magnitude >= MAGNITUDES[0]) & (magnitude <= MAGNITUDES[1])
        groups = {"all": headline}
        if name == "magnitude":
            groups = {"isolated": blending < ISOLATED, "blended": blending > BLENDED}
        for group, members in groups.items():
            for low, high in zip(edges[:-1], edges[1:], strict=True):
                chosen = members & (values >= low) & (values < high)
                label = f"{low:g} to {high:g}" if np.isfinite(high) else f"over {low:g}"
                if (chosen & asked).any():
                    bins.append({"by": name, "class": group, "range": label, **figures(chosen)})
    return {
        "name": measurement.name,
        "time_per_object_s": measurement.time_per_object,
        "correction": float(np.median(known)) if len(known) else float("nan"),
        **{name: figures(chosen) for name, chosen in classes.items()},
        "bins": bins,
    }


def _class_figures(measurement, scene, ratio, isolated, rows):
    """Figures of some galaxies; errors by bootstrap, that of the correction included."""
    if not len(rows):
        return {"n": 0, "n_missed": 0}
    reference = np.flatnonzero(isolated)

    def statistics(chosen, scale_rows):
        scale = np.nanmedian(ratio[scale_rows]) if len(scale_rows) else np.nan
        return flux_statistics(ratio[chosen] / scale)

    same = np.isin(rows, reference).all()
    rng = np.random.default_rng(1)

    def resampled(index):
        # The correction has its own error; where these galaxies are those that it is from, the
        # same one.
        chosen = rows[index]
        return statistics(chosen, chosen if same else rng.choice(reference, len(reference)))

    corrected = correct_by(ratio, isolated)[rows]
    figures = flux_statistics(corrected)
    errors = bootstrap_error(resampled, len(rows)) if len(reference) else {}
    figures |= {f"{name}_error": value for name, value in errors.items()}
    figures |= {
        "n": len(rows),
        "n_missed": int(np.sum(~np.isfinite(ratio[rows]))),
        "median_ratio": float(np.nanmedian(ratio[rows]))
        if np.isfinite(ratio[rows]).any()
        else None,
        "time_per_object_s": measurement.time_per_object,
    }
    if isinstance(measurement, Separation):
        truth, samples = scene.catalog["flux_cutout"][rows], measurement.flux_samples[:, rows]
        for level in LEVELS:
            name = f"coverage_{round(100 * level)}"
            if level > 1 - 2 / (len(samples) + 1):  # too few samples for this interval
                figures[name] = None
                continue
            figures[name] = interval_coverage(samples, truth, level)
            figures[f"{name}_error"] = float(np.sqrt(level * (1 - level) / len(rows)))
    return figures


def calibration(measurement, scene):
    """Ranks, TARP and the conservation of flux of this package, for the figures."""
    catalog = scene.catalog
    offset = offsets(catalog["x"], catalog["y"])
    n_samples = len(measurement.flux_samples)
    truth = np.concatenate(
        [catalog["flux_cutout"][:, np.newaxis], centroids_of(scene.truth, offset)], axis=1
    )
    samples = np.concatenate(
        [measurement.flux_samples[..., np.newaxis], measurement.centroids], axis=2
    )
    result = {}
    for name, chosen in {"all": np.ones(len(catalog), dtype=bool), **classes_of(catalog)}.items():
        if not chosen.any():
            continue
        ranks = tarp_ranks(samples[:, chosen], truth[chosen], n_references=20)
        result[name] = {
            "n": int(chosen.sum()),
            "ranks": {
                what: rank_statistics(ranks_of(samples[:, chosen, j], truth[chosen, j]), n_samples)
                for j, what in enumerate(("flux", "x", "y"))
            },
            "tarp": tarp_coverage(ranks, n_samples),
        }
    observed = measurement.observed.sum()
    result["conservation"] = {
        "total_over_observed_minus_one": float(measurement.model.sum() / observed - 1),
        "noise_of_total": float(np.sqrt(measurement.variance.sum()) / observed),
        "median_chi2": float(np.median(measurement.chi2)),
    }
    return result


def table(methods):
    """The headline figures as lines of text."""
    names = ("n", "n_missed", "bias", "scatter", "outlier_fraction", "coverage_68", "coverage_95")
    head = f"{'method':<22}{'class':<10}" + "".join(f"{name:>18}" for name in names)
    yield f"{head}{'s/object':>12}{'correction':>12}"
    for method in methods:
        for group in ("isolated", "blended"):
            cells = ""
            for name in names:
                value, error = (method[group].get(key) for key in (name, f"{name}_error"))
                text = (
                    "" if value is None else f"{value:.3f}" if isinstance(value, float) else value
                )
                cells += f"{text} ± {error:.3f}".rjust(18) if error is not None else f"{text:>18}"
            yield (
                f"{method['name']:<22}{group:<10}{cells}{method['time_per_object_s']:>12.2g}"
                f"{method['correction']:>12.3f}"
            )


# -- the study -----------------------------------------------------------------------------------


def parse(argv):
    """Read the command line."""
    data = data_folder().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="of this package; without it, peers alone")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--tile", type=Path, default=data / "kids_viking" / "r.fits.fz")
    parser.add_argument("--cosmos", type=Path, default=data / "cosmos")
    parser.add_argument("--n", type=int, default=SceneSettings.n, help="number of galaxies")
    parser.add_argument("--quick", action="store_true", help=f"{N_QUICK} galaxies, in one image")
    parser.add_argument("--samples", type=int, default=16, help="posterior samples of each")
    parser.add_argument("--effective-gain", type=float, help="electrons per unit of flux")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-peers", action="store_true")
    return parser.parse_args(argv)


def main(argv=None):
    """Run the study."""
    started, args = time.perf_counter(), parse(argv)
    n = min(args.n, N_QUICK) if args.quick else args.n
    settings = SceneSettings(n=n, gain=args.effective_gain, seed=args.seed)
    scene = make_scene(args.tile, args.cosmos, settings)
    methods, figures, device = [], {}, "cpu"
    if args.model is not None:
        separator = DiffusionSourceSeparator.read(args.model, device=args.device)
        device = separator._torch_device()
        ours = measure_by_separation(scene, separator, args.samples, seed=args.seed)
        methods.append(ours)
        figures["calibration"] = calibration(ours, scene)
    figures["methods"] = [summarise(method, scene) for method in methods]
    for line in table(figures["methods"]):
        print(line)
    for name, part in figures.get("calibration", {}).items():
        if name == "conservation":
            print(name, part)
            continue
        for what, row in part["ranks"].items():
            print(
                f"{name}, rank of {what}: slope {row['slope']:.2f} ± {row['slope_error']:.2f}, "
                f"curvature {row['curvature']:.2f} ± {row['curvature_error']:.2f}, "
                f"chi2 {row['chi2']:.1f} of {row['dof']}, p = {row['p_value']:.2g}"
            )
        tarp = part["tarp"]
        print(f"{name}, TARP: off by {tarp['largest_deviation']:.3f}, p = {tarp['p_value']:.2g}")
    if args.out is not None:
        write_record(
            args.out,
            study="injection",
            configuration={**asdict(settings), "gain": scene.gain, "samples": args.samples},
            figures=figures,
            device=device,
            started=started,
        )


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    main()
