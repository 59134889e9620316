r"""Fluxes under another prior of flux, by weights of the posterior samples.

A posterior is the likelihood times the prior of the model that drew it. If only the prior of the
flux :math:`F` is another, :math:`p_1` for :math:`p_0`, and objects of one flux look as they did,

.. math:: p_1(x \mid y) \propto p(y \mid x)\, p_0(x) \frac{p_1(F(x))}{p_0(F(x))}
          \propto p_0(x \mid y)\, w, \qquad w = \frac{p_1(F(x))}{p_0(F(x))} ,

so the samples drawn under :math:`p_0`, each with its weight, are samples under :math:`p_1`
(importance sampling). Neither density need be normalized.

Models whose posterior is trained with ``flux_factors`` have made all fluxes of a source equally
frequent, uniform in the logarithm (`log_uniform`, :math:`p_0 \propto 1 / F`), from that of the
faintest of their training set to that of the brightest, times the factors: a measured flux is then
pulled to neither side. A catalog's ``meta["flux_prior"]`` says so. What is better known, such as
the counts of galaxies (`power_law`), comes in here.

Weights that differ much leave few samples with a say. Their effective number is
:math:`(\sum w)^2 / \sum w^2`; where it is below ten or so, draw more samples.
"""

import numpy as np
from astropy import units as u
from astropy.table import QTable

from ..errors import InputError
from .catalog import QUANTILES

__all__ = ["flux_under_prior", "flux_weights", "log_uniform", "power_law", "weighted_statistics"]


def log_uniform(flux):
    """Logarithm of the density that is uniform in the logarithm of the flux, but for a constant.

    Parameters
    ----------
    flux : ndarray
        Positive fluxes.

    Returns
    -------
    log_density : ndarray
    """
    return -np.log(flux)


def power_law(slope):
    r"""Counts of objects by magnitude that rise as a power law.

    Parameters
    ----------
    slope : float
        :math:`\gamma` of :math:`dN/dm \propto 10^{\gamma m}`: 0.6 for sources of one luminosity in
        Euclidean space, 0.3 to 0.4 for faint galaxies, 0 for `log_uniform`.

    Returns
    -------
    log_prior : callable
        Logarithm of the density of flux, :math:`\propto F^{-2.5 \gamma - 1}`, of positive fluxes.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_ddprism.posterior.reweighting import power_law
    >>> faint, bright = np.exp(power_law(0.4)(np.array([1.0, 10.0])))
    >>> float(faint / bright)
    100.0
    """
    return lambda flux: -(2.5 * slope + 1) * np.log(flux)


def flux_weights(flux, log_prior, *, sampled_under=log_uniform):
    """Weights of samples of a flux, by which they are samples under another prior of it.

    Parameters
    ----------
    flux : ndarray, shape (n_samples, ...)
        Samples.
    log_prior : callable
        Logarithm of the density of flux, up to a constant, of an array of positive fluxes; minus
        infinity where a flux cannot be.
    sampled_under : callable
        Likewise, of the prior of the model that drew them.

    Returns
    -------
    weights : ndarray, shape (n_samples, ...)
        Of sum 1 over the samples; 0 where the flux is not positive, and NaN where no sample can be.

    Raises
    ------
    InputError
        If a density is none: NaN, or infinite, for a positive flux.
    """
    flux = np.asarray(flux, dtype=float)
    positive = np.where(flux > 0, flux, 1.0)
    logs = []
    for name, density in (("log_prior", log_prior), ("sampled_under", sampled_under)):
        log = np.asarray(density(positive), dtype=float)
        if log.shape != flux.shape or np.isnan(log).any() or (log == np.inf).any():
            raise InputError(
                f"{name}: found values of shape {log.shape}, NaN or infinite, expected numbers or "
                f"minus infinity of shape {flux.shape}"
            )
        logs.append(log)
    prior, before = logs
    if not np.isfinite(before).all():
        raise InputError("sampled_under: found fluxes that cannot have been drawn, expected none")
    log_weights = np.where(flux > 0, prior - before, -np.inf)
    top = log_weights.max(axis=0)
    with np.errstate(invalid="ignore"):  # where there is no sample that can be
        weights = np.exp(log_weights - top)
        return weights / weights.sum(axis=0)


def weighted_statistics(values, weights, quantiles=QUANTILES):
    """Mean, standard deviation, quantiles and effective number of weighted samples.

    Parameters
    ----------
    values, weights : ndarray, shape (n_samples, ...)
        Samples, and their weights, of sum 1.
    quantiles : mapping of str to float
        Probabilities, by the names of their quantiles.

    Returns
    -------
    statistics : dict of str to ndarray
        The mean under the name ``""``, the standard deviation under ``"error"``, the quantiles, and
        the effective number of samples, ``n``, under ``"n_effective"``. The k-th smallest value is
        the quantile of the weight up to and with it, times ``n / (n + 1)``: of equal weights what
        `~astro_ddprism.posterior.catalog.statistics` says.
    """
    n = 1 / np.square(weights).sum(axis=0)
    mean = (weights * values).sum(axis=0)
    square = (weights * np.square(values - mean)).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        result = {"": mean, "error": np.sqrt(square * n / (n - 1))}
    order = np.argsort(values, axis=0)
    values, weights = (np.take_along_axis(a, order, axis=0) for a in (values, weights))
    level = np.cumsum(weights, axis=0) * n / (n + 1)
    shape = mean.shape
    columns = zip(*(a.reshape(len(a), -1).T for a in (level, values)), strict=True)
    found = np.array([np.interp(list(quantiles.values()), p, v) for p, v in columns])
    found = found.T.reshape(len(quantiles), *shape)
    found = np.where(np.isfinite(mean), found, np.nan)
    return result | dict(zip(quantiles, found, strict=True)) | {"n_effective": n}


def flux_under_prior(samples, source, log_prior, *, aperture=None, sampled_under=log_uniform):
    """Fluxes of a source under another prior of flux than that of the model.

    Parameters
    ----------
    samples : `~astro_ddprism.PosteriorSamples`
        What was drawn.
    source : str
        Which source.
    log_prior : callable
        Logarithm of the density of flux, up to a constant, such as ``power_law(0.4)``: called with
        an array of positive fluxes in the samples' unit.
    aperture : float or Quantity, optional
        Radius of the aperture (`PosteriorSamples.flux`). The prior is that of the total flux.
    sampled_under : callable
        Likewise, of the prior under which the samples were drawn.

    Returns
    -------
    fluxes : QTable
        One row per observation: ``id``, ``flux`` (mean), ``flux_error``, ``flux_p16``,
        ``flux_p50``, ``flux_p84`` and ``n_effective``; with ``_1``, ``_2``, ... of several bands.

    Raises
    ------
    InputError
        If there is no such source, or a density is none.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_ddprism import PosteriorSamples, View
    >>> from astro_ddprism.mixing import Identity
    >>> from astro_ddprism.posterior.reweighting import flux_under_prior, power_law
    >>> view = View(np.ones((1, 1, 8, 8)), variance=1.0, unit="uJy",
    ...             mixing={"galaxy": Identity((1, 8, 8))})
    >>> light = np.linspace(0.5, 1.5, 99).reshape(-1, 1, 1, 1, 1) * np.ones((1, 1, 8, 8))
    >>> samples = PosteriorSamples({"galaxy": light}, view)
    >>> float(samples.flux("galaxy").mean().value)
    64.0
    >>> flux_under_prior(samples, "galaxy", power_law(0.4))["flux"].round(1)
    <Quantity [58.1] uJy>
    """
    total = samples.flux(source).value
    weights = flux_weights(total, log_prior, sampled_under=sampled_under)
    flux = total if aperture is None else samples.flux(source, aperture).value
    table = QTable({"id": samples.view.ids})
    for band in range(flux.shape[2]):
        suffix = f"_{band + 1}" if flux.shape[2] > 1 else ""
        found = weighted_statistics(flux[..., band], weights[..., band])
        n_effective = found.pop("n_effective")
        for ending, column in found.items():
            name = f"flux_{ending}" if ending else "flux"
            table[f"{name}{suffix}"] = u.Quantity(column, samples.view.unit)
        table[f"n_effective{suffix}"] = n_effective
    return table
