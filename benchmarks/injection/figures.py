"""The figures of each method: by class, by magnitude and by blending; and those of error bars.

A galaxy is *blended* where detected objects bring more than 10 % of its own flux into its aperture,
and *isolated* where they bring less than 1 %. Both classes are of magnitudes 19 to 24.
"""

__all__ = [
    "calibration",
    "classes_of",
    "conservation",
    "corrected_ratios",
    "coverage_rows",
    "report",
    "summarise",
]

from itertools import pairwise

import numpy as np

from astro_ddprism.evaluate.metrics import interval_coverage

from .metrics import (
    bootstrap_error,
    correct_by,
    flux_statistics,
    rank_statistics,
    ranks_of,
    tarp_coverage,
    tarp_ranks,
)
from .separation import Separation, centroids_of, offsets

MAGNITUDES = (19.0, 24.0)
"""Range of the two classes."""

BLENDED, ISOLATED = 0.1, 0.01
"""Neighbours' flux in a galaxy's aperture, over its own: more than the one, less than the other."""

BLENDING_EDGES = (0.0, ISOLATED, BLENDED, 0.3, 1.0, np.inf)
MAGNITUDE_EDGES = (19.0, 20.0, 21.0, 22.0, 23.0, 24.0, 25.0)
LEVELS = (0.68, 0.95)


def classes_of(catalog):
    """The galaxies of each class: dict of str to ndarray of bool (N,)."""
    low, high = MAGNITUDES
    headline = (catalog["magnitude"] >= low) & (catalog["magnitude"] <= high)
    return {
        "isolated": headline & (catalog["neighbours"] < ISOLATED),
        "blended": headline & (catalog["neighbours"] > BLENDED),
    }


def corrected_ratios(measurement, scene):
    """Measured over true flux, divided by the median of isolated galaxies, ndarray (N,)."""
    ratio = np.asarray(measurement.flux / scene.catalog["flux"])
    return correct_by(ratio, classes_of(scene.catalog)["isolated"] & measurement.asked)


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
    ratio = np.asarray(measurement.flux / catalog["flux"])
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
            for low, high in pairwise(edges):
                chosen = members & (values >= low) & (values < high)
                label = f"{low:g} to {high:g}" if np.isfinite(high) else f"over {low:g}"
                if (chosen & asked).any():
                    bins.append({"by": name, "class": group, "range": label, **figures(chosen)})
    return {
        "name": measurement.name,
        "time_per_object_s": measurement.time_per_object,
        "correction": float(np.median(known)) if len(known) else None,
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

    same = np.array_equal(rows, reference)
    rng = np.random.default_rng(1)

    def resampled(index):
        # The correction has an error too; of the galaxies that it is from, the same one.
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
        figures |= _coverage(
            measurement.flux_samples[:, rows], scene.catalog["flux_aperture"][rows]
        )
    # JSON knows no NaN.
    return {name: v if v is None or np.isfinite(v) else None for name, v in figures.items()}


def _coverage(samples, truth):
    """How often central intervals of samples (S, N) hold the truth (N,), with errors."""
    figures = {}
    for level in LEVELS:
        name = f"coverage_{round(100 * level)}"
        if level > 1 - 2 / (len(samples) + 1):  # too few samples for this interval
            figures[name] = None
            continue
        figures[name] = interval_coverage(samples, truth, level)
        figures[f"{name}_error"] = float(np.sqrt(level * (1 - level) / len(truth)))
    return figures


def calibration(measurement, scene):
    """Ranks and TARP of this package's posterior samples: flux and centroid.

    Parameters
    ----------
    measurement : Separation
        By this package.
    scene : Scene
        The truth: of the light in the cutouts.

    Returns
    -------
    figures : dict
        For ``all`` galaxies and each of the classes: ``n``, the coverage of intervals of flux, the
        `rank_statistics` of ``flux``, ``x`` and ``y``, and the `tarp_coverage` of the three
        together.
    """
    catalog = scene.catalog
    offset = offsets(catalog["x"], catalog["y"])
    n_samples = len(measurement.flux_samples)
    truth = np.concatenate(
        [catalog["flux_aperture"][:, np.newaxis], centroids_of(scene.truth, offset)], axis=1
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
            **_coverage(samples[:, chosen, 0], truth[chosen, 0]),
            "ranks": {
                what: rank_statistics(ranks_of(samples[:, chosen, j], truth[chosen, j]), n_samples)
                for j, what in enumerate(("flux", "x", "y"))
            },
            "tarp": tarp_coverage(ranks, n_samples),
        }
    return result


def coverage_rows(calibrated):
    """What tells whether the errors of fluxes are honest, as rows of a table.

    Parameters
    ----------
    calibrated : dict
        Of `calibration`.

    Returns
    -------
    rows : list of dict
        One for all galaxies, and one for each class.
    """
    rows = []
    for name, part in calibrated.items():
        ranks = part["ranks"]["flux"]
        rows.append(
            {
                "class": name,
                "n": part["n"],
                **{key: value for key, value in part.items() if key.startswith("coverage_")},
                "slope": ranks["slope"],
                "slope_error": ranks["slope_error"],
                "tarp": part["tarp"]["largest_deviation"],
            }
        )
    return rows


def conservation(measurement):
    """Whether the separated sources add up to what was observed, in all cutouts together.

    Parameters
    ----------
    measurement : Separation
        By this package.

    Returns
    -------
    figures : dict
        ``total_over_observed_minus_one``; the noise of the observed total, as a part of it,
        ``noise_of_total``; and ``median_chi2``, reduced, of the galaxies' cutouts.
    """
    observed = measurement.observed.sum()
    return {
        "total_over_observed_minus_one": float(measurement.model.sum() / observed - 1),
        "noise_of_total": float(np.sqrt(measurement.variance.sum()) / observed),
        "median_chi2": float(np.median(measurement.chi2)),
    }


def report(figures):
    """The headline figures as lines of text."""
    names = ("n", "n_missed", "bias", "scatter", "outlier_fraction", "coverage_68", "coverage_95")
    head = f"{'method':<20}{'class':<10}" + "".join(f"{name:>17}" for name in names)
    yield f"{head}{'s/object':>10}{'correction':>11}"
    for method in figures["methods"]:
        for group in ("isolated", "blended"):
            cells = "".join(
                f"{_text(method[group].get(name), method[group].get(f'{name}_error')):>17}"
                for name in names
            )
            time, correction = method["time_per_object_s"], _text(method["correction"], None)
            yield f"{method['name']:<20}{group:<10}{cells}{time:>10.2g}{correction:>11}"
    for group, part in figures.get("calibration", {}).items():
        for what, row in part.get("ranks", {}).items():
            yield (
                f"{group}, rank of {what}: slope {_text(row['slope'], row['slope_error'])}, "
                f"curvature {_text(row['curvature'], row['curvature_error'])}, "
                f"chi2 {row['chi2']:.1f} of {row['dof']}, p = {row['p_value']:.2g}"
            )
        if "tarp" in part:
            off, p_value = (part["tarp"][name] for name in ("largest_deviation", "p_value"))
            yield f"{group}, TARP: off by {off:.3f}, p = {p_value:.2g}"
    for row in figures.get("conservation", []):
        yield ", ".join(f"{name} {value:.2g}" for name, value in row.items())


def _text(value, error):
    if value is None:
        return ""
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if error is None else f"{text} ± {error:.3f}"
