r"""How well fluxes and their error bars are measured where the truth is known.

Of each object a method says a flux :math:`\hat f`, and the truth is :math:`f`. A method may lose a
part of every object's light in the same way (an aperture does), so the ratio
:math:`r = \hat f / f` is first divided by its own median over isolated objects. What is left is

* the *bias*, the median of :math:`r - 1`,
* the *scatter*, 1.48 times the median absolute deviation of :math:`r`,
* the *outliers*, the fraction of objects with :math:`|r - 1| > 0.2`, among them all those that the
  method did not find.

Where there are posterior samples, the truth has to be like one of them. Among *S* samples its rank
is uniform on 0 to *S* (simulation-based calibration, Talts et al. 2018, arXiv:1804.06788), and so
is that of its distance from any reference point that does not know which of the S + 1 it is (TARP,
Lemos et al. 2023, arXiv:2302.03026), in any number of dimensions.
"""

__all__ = [
    "bootstrap_error",
    "correct_by",
    "flux_statistics",
    "rank_statistics",
    "ranks_of",
    "tarp_coverage",
    "tarp_ranks",
]

import numpy as np
from scipy.stats import chi2 as chi2_distribution
from scipy.stats import kstest

OUTLIER = 0.2
"""Relative error from which on a flux counts as off."""

N_BOOTSTRAP = 400


def correct_by(ratio, reference):
    """Divide flux ratios by their median over some of the objects.

    Parameters
    ----------
    ratio : ndarray, shape (N,)
        Measured over true flux; NaN where nothing was measured.
    reference : ndarray of bool, shape (N,)
        The objects that set the scale.

    Returns
    -------
    corrected : ndarray, shape (N,)
        NaN everywhere if none of these objects was measured.
    """
    known = ratio[reference & np.isfinite(ratio)]
    return ratio / (np.median(known) if len(known) else np.nan)


def flux_statistics(ratio):
    """Bias, scatter and outliers of corrected flux ratios.

    Two scatters: of the objects that were found, and of all, where one that was not found is as far
    off as can be (infinite, if these are more than half).

    Parameters
    ----------
    ratio : ndarray, shape (N,)
        Measured over true flux; NaN where nothing was measured.

    Returns
    -------
    statistics : dict of str to float
        ``bias``, ``scatter``, ``scatter_of_all`` and ``outlier_fraction``; NaN where there is
        nothing to tell from.

    Examples
    --------
    >>> import numpy as np
    >>> from benchmarks.injection.metrics import flux_statistics
    >>> flux_statistics(np.array([1.0, 1.1, 0.9, 1.5, np.nan]))["outlier_fraction"]
    0.4
    """
    found = ratio[np.isfinite(ratio)]
    if len(found) == 0:
        nothing = dict.fromkeys(("bias", "scatter", "scatter_of_all"), np.nan)
        return nothing | {"outlier_fraction": 1.0 if len(ratio) else np.nan}
    middle = np.median(found)
    deviation = np.abs(ratio - middle)
    with np.errstate(invalid="ignore"):
        inside = np.abs(ratio - 1) <= OUTLIER  # False for NaN
    return {
        "bias": float(middle - 1),
        "scatter": float(1.4826 * np.nanmedian(deviation)),
        "scatter_of_all": float(1.4826 * np.median(np.nan_to_num(deviation, nan=np.inf))),
        "outlier_fraction": float(1 - inside.mean()),
    }


def bootstrap_error(statistic, n, *, n_bootstrap=N_BOOTSTRAP, seed=0):
    """Standard errors of statistics of a sample, by drawing objects with replacement.

    Parameters
    ----------
    statistic : callable
        Called with rows (n,), returns a dict of floats.
    n : int
        Number of objects.
    n_bootstrap : int
        Number of resamplings.
    seed : int
        Of the random numbers.

    Returns
    -------
    errors : dict of str to float
        Of each of the statistics; resamplings without a finite value are left out.
    """
    rng = np.random.default_rng(seed)
    rows = [statistic(rng.integers(n, size=n)) for _ in range(n_bootstrap if n else 0)]
    errors = {}
    for name in rows[0] if rows else ():
        values = np.array([row[name] for row in rows], dtype=float)
        values = values[np.isfinite(values)]
        errors[name] = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return errors


def ranks_of(samples, truth, *, seed=0):
    """Rank of each truth among its samples, equal values in random order.

    Parameters
    ----------
    samples : ndarray, shape (S, N)
        Posterior samples of a number.
    truth : ndarray, shape (N,)
        The truth.
    seed : int
        Of the order of equal values.

    Returns
    -------
    ranks : ndarray of int, shape (N,)
        From 0 to S.
    """
    rng = np.random.default_rng(seed)
    below, equal = (samples < truth).sum(axis=0), (samples == truth).sum(axis=0)
    return below + rng.integers(equal + 1)


def rank_statistics(ranks, n_samples):
    r"""Whether ranks are uniform.

    Parameters
    ----------
    ranks : ndarray of int, shape (N,)
        From 0 to S.
    n_samples : int
        The number S of samples.

    Returns
    -------
    statistics : dict
        ``histogram`` (list of int, S + 1 counts); ``slope`` and ``slope_error``: of the density
        :math:`1 + b\,(u - 1/2)` of :math:`u = (\mathrm{rank} + 1/2) / (S + 1)`, by least squares,
        with its error if ranks are uniform. Positive where the truth tends to be more than the
        samples. ``curvature`` and ``curvature_error``: likewise the part :math:`c\,P_2(2u - 1)`,
        positive where the samples are too narrow. ``chi2``, ``dof`` and ``p_value`` of the counts.
    """
    bins = n_samples + 1
    counts = np.bincount(np.asarray(ranks, dtype=int), minlength=bins)
    total = counts.sum()
    place = 2 * (np.arange(bins) + 0.5) / bins - 1  # from -1 to 1
    statistics = {"histogram": counts.tolist()}
    parts = {"slope": place, "curvature": place**2 - np.mean(place**2)}
    scales = {"slope": 2.0, "curvature": 1.5}  # u is half as wide; P_2 = (3 x² - 1) / 2
    for name, shape in parts.items():
        power = np.mean(shape**2)
        scale = scales[name] if name == "slope" else 1 / scales[name]
        statistics[name] = float(scale * (counts @ shape) / total / power)
        statistics[f"{name}_error"] = float(scale / np.sqrt(total * power))
    chi2 = float(np.sum((counts - total / bins) ** 2) / (total / bins))
    p_value = float(chi2_distribution.sf(chi2, bins - 1))
    return statistics | {"chi2": chi2, "dof": bins - 1, "p_value": p_value}


def tarp_ranks(samples, truth, *, n_references=1, seed=0):
    """Ranks of the truth's distance from random points, among the distances of its samples.

    Every object's values are measured in units of the spread of the S + 1 (samples and truth, so
    that they tell nothing about which is the truth) about their mean, and reference points are
    uniform in the cube of three such units to either side.

    Parameters
    ----------
    samples : ndarray, shape (S, N, D)
        Posterior samples of D numbers.
    truth : ndarray, shape (N, D)
        The truth.
    n_references : int
        Reference points for each object.
    seed : int
        Of the reference points.

    Returns
    -------
    ranks : ndarray of int, shape (n_references, N)
        From 0 to S: how many of the samples lie nearer to the reference point.
    """
    rng = np.random.default_rng(seed)
    everything = np.concatenate([truth[np.newaxis], samples])
    spread = everything.std(axis=0)
    everything = (everything - everything.mean(axis=0)) / np.where(spread > 0, spread, 1)
    references = rng.uniform(-3, 3, (n_references, *truth.shape))
    distances = np.linalg.norm(everything - references[:, np.newaxis], axis=-1)
    return (distances[:, 1:] < distances[:, :1]).sum(axis=1)


def tarp_coverage(ranks, n_samples, *, seed=0):
    """Expected coverage of the regions that the ranks of `tarp_ranks` stand for.

    Parameters
    ----------
    ranks : ndarray of int, shape (n_references, N) or (N,)
        From 0 to S.
    n_samples : int
        The number S of samples.
    seed : int
        Of the places of ranks within their bins.

    Returns
    -------
    coverage : dict
        ``level`` and ``expected_coverage`` (lists): the fraction of truths in regions of that
        credibility; ``largest_deviation`` between the two; ``p_value``, of a uniform distribution
        (Kolmogorov and Smirnov), from the first reference point of each object.
    """
    rng = np.random.default_rng(seed)
    ranks = np.atleast_2d(ranks)
    place = (ranks + rng.random(ranks.shape)) / (n_samples + 1)
    level = np.linspace(0, 1, 21)
    expected = np.searchsorted(np.sort(place, axis=None), level) / place.size
    return {
        "level": level.round(3).tolist(),
        "expected_coverage": expected.tolist(),
        "largest_deviation": float(np.abs(expected - level).max()),
        "p_value": float(kstest(place[0], "uniform").pvalue),
    }
