r"""Figures of merit: how far from the truth, and whether the errors say so.

For posterior samples :math:`f_s` of a flux with truth :math:`f`, an error bar is honest when *f*
lies in the central 68 % of the samples 68 % of the time, and a model fits its data when the
standardized residuals :math:`(y - A x)/\sigma` have a standard deviation of one.
"""

import numpy as np
from astropy import units as u
from scipy.optimize import linear_sum_assignment

from ..errors import InputError

__all__ = ["best_permutation", "interval_coverage", "median_absolute_error", "psnr", "residual_std"]


def median_absolute_error(estimate, truth):
    """Median of the absolute errors.

    Parameters
    ----------
    estimate, truth : Quantity or ndarray
        Of one shape.

    Returns
    -------
    error : Quantity or float
        In the unit of the estimate.

    Examples
    --------
    >>> from astro_ddprism.evaluate.metrics import median_absolute_error
    >>> float(median_absolute_error([1.0, 2.0, 9.0], [1.5, 2.0, 3.0]))
    0.5
    """
    return np.median(np.abs(np.subtract(estimate, truth)))


def interval_coverage(samples, truth, level=0.68):
    r"""How often the truth lies in the central interval of its posterior samples.

    The interval runs between the order statistics that leave :math:`(1 - p)/2` on either side:
    among *S* samples and a truth of one distribution, the truth's rank is uniform, and so
    :math:`P(f_{(j)} < f < f_{(S + 1 - j)}) = (S + 1 - 2j)/(S + 1)`. Between whole *j* the interval
    is interpolated; so its level is right, to about a hundredth, for a dozen samples too.

    Parameters
    ----------
    samples : Quantity or ndarray, shape (n_samples, ...)
        Posterior samples.
    truth : Quantity or ndarray, shape (...)
        The truth.
    level : float
        Probability *p* within the interval, between 0 and 1.

    Returns
    -------
    coverage : float
        Fraction of truths inside.

    Raises
    ------
    InputError
        If there are too few samples for an interval of this level.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_ddprism.evaluate.metrics import interval_coverage
    >>> values = np.random.default_rng(0).normal(size=(17, 20_000))
    >>> bool(abs(interval_coverage(values[1:], values[0]) - 0.68) < 0.02)
    True
    """
    n_samples = len(samples)
    tail = (1 - level) / 2
    if not 1 <= tail * (n_samples + 1) <= n_samples / 2:
        raise InputError(
            f"samples: found {n_samples}, expected more for a central interval of {level:g}"
            if 0 < level < 1
            else f"level: found {level}, expected a probability"
        )
    low, high = np.quantile(samples, [tail, 1 - tail], axis=0, method="weibull")
    return float(np.mean((low <= truth) & (truth <= high)))


def best_permutation(estimate, truth):
    """Order the sources of each observation as the truth is, where they are exchangeable.

    Sources that share a prior and an operator have no order of their own. Figures of merit up to
    permutation are those of what this returns.

    Parameters
    ----------
    estimate, truth : Quantity or ndarray, shape (n_sources, N, ...)
        The sources of ``N`` observations.

    Returns
    -------
    estimate : Quantity or ndarray, shape (n_sources, N, ...)
        In each observation in the order of the least square error.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> from astro_ddprism.evaluate.metrics import best_permutation
    >>> best_permutation([[[1.0], [2.0]], [[5.0], [9.0]]], [[[4.0], [3.0]], [[2.0], [8.0]]])[0]
    array([[5.],
           [2.]])
    """
    estimate, truth = np.asanyarray(estimate), np.asanyarray(truth)
    if estimate.shape != truth.shape:
        raise InputError(f"estimate: found shape {estimate.shape}, expected {truth.shape}")
    error = np.subtract(estimate[:, None], truth[None])
    cost = np.asarray(np.square(error)).reshape(*error.shape[:3], -1).sum(axis=-1)
    order = np.array([linear_sum_assignment(each.T)[1] for each in np.moveaxis(cost, 2, 0)])
    return estimate[order.T, np.arange(estimate.shape[1])]


def residual_std(residual):
    """Standard deviation of standardized residuals.

    Parameters
    ----------
    residual : ndarray
        In units of the noise; NaN where a pixel is masked.

    Returns
    -------
    std : float
        About their expected mean, zero.
    """
    residual = np.asarray(residual)
    valid = np.isfinite(residual)
    total = np.sum(np.square(residual), where=valid, dtype=np.float64)
    return float(np.sqrt(total / np.count_nonzero(valid)))


def psnr(estimate, truth, peak=None, axis=None):
    r"""Peak signal-to-noise ratio in decibels, :math:`20 \log_{10}(\mathrm{peak}/\mathrm{rmse})`.

    Parameters
    ----------
    estimate, truth : Quantity or ndarray
        Of shapes that broadcast.
    peak : Quantity or float, optional
        The range of the values; by default the largest true value over ``axis``.
    axis : int or tuple of int, optional
        Over which the errors are averaged; by default over all.

    Returns
    -------
    psnr : float or ndarray
        Infinite where there is no error.

    Examples
    --------
    >>> from astro_ddprism.evaluate.metrics import psnr
    >>> psnr([1.0, 0.0], [1.1, 0.1], peak=1.0)
    20.0
    """
    truth = u.Quantity(truth)
    error = (u.Quantity(estimate) - truth).to(truth.unit)
    rmse = np.sqrt(np.mean(error**2, axis=axis))
    peak = np.max(truth, axis=axis) if peak is None else u.Quantity(peak)
    with np.errstate(divide="ignore"):
        result = 20 * np.log10((peak / rmse).to_value(u.one))
    return float(result) if np.ndim(result) == 0 else result
