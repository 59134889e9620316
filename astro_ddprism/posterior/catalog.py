r"""The catalog of a separation: measurements of every source, and what the samples say of them.

Every measurement (`~astro_ddprism.posterior.photometry`) is made on each posterior sample; their
values :math:`f_1 \dots f_S` sample the posterior of the measurement itself. The catalog holds their
mean, their standard deviation and quantiles. The quantile of the :math:`k`-th smallest of :math:`S`
values is :math:`k / (S + 1)`, and what lies between two is interpolated (as in
`~astro_ddprism.evaluate.metrics.interval_coverage`): right for few samples too.

Samples without a value are left out of its statistics; how many have all of them is a column.

A magnitude :math:`m = z - 2.5 \log_{10} f` has no value where the flux is not positive. Its mean
and its standard deviation therefore exist only where all samples are positive. Its quantiles always
do: :math:`m` falls with :math:`f`, so they are the magnitudes of the flux's quantiles, and infinite
where those are not positive: fainter than any. So ``mag_p16`` of an object that may not be there is
its limit: with a probability of 84 % it is fainter.
"""

import numpy as np
from astropy import units as u

from .. import units
from ..errors import InputError
from .columns import describe
from .photometry import ellipse
from .quality import Quality, Surroundings, is_bad_fit

__all__ = ["QUANTILES", "make_catalog", "sources_of_interest", "statistics"]

QUANTILES = {"p16": 0.16, "p50": 0.5, "p84": 0.84}
"""Quantiles of every measurement, by the ending of their columns."""

# Fluxes are what limits are set on.
_FLUX_QUANTILES = {"p025": 0.025, **QUANTILES, "p975": 0.975}


def make_catalog(
    posterior,
    aperture=None,
    *,
    sources=None,
    zero_point=None,
    max_masked_fraction=0.0,
    progress=False,
):
    """Measure every source of every observation, see `PosteriorSamples.catalog`.

    Parameters
    ----------
    posterior : PosteriorSamples
        What was sampled.
    aperture : float or Quantity, optional
        Radius of the circular aperture.
    sources : sequence of str, optional
        Which sources to measure; by default `sources_of_interest`.
    zero_point : float or Quantity, optional
        Magnitude of a flux of 1 in the view's unit.
    max_masked_fraction : float
        Where more of the aperture is masked, it is flagged.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    catalog : QTable
    """
    magnitudes = _Magnitudes(posterior.view.unit, zero_point)
    # Names and positions are the view's own; the number of valid pixels goes to the end.
    table = posterior.view.table()
    n_valid = table["n_valid"]
    table.remove_column("n_valid")
    own = {}
    for source in sources_of_interest(posterior.view, sources):
        images = posterior.samples[source]
        if images.ndim != 5:
            continue
        measured = posterior.photometry(source, aperture, progress=progress)
        grid = None if images.wcs is None else posterior.grid
        n_bands = images.shape[2]
        for band in range(n_bands):
            suffix = f"_{band + 1}" if n_bands > 1 else ""
            for name, column in _columns(measured, band, magnitudes, grid):
                table[f"{source}_{name}{suffix}"] = column
        own[source] = np.where(measured.defined.all(axis=(0, 2)), 0, Quality.UNDEFINED)
    radius = None if aperture is None else posterior.aperture_radius(aperture)
    around = Surroundings(posterior.view, posterior.grid, radius)
    table["chi2"], table["n_valid"] = posterior.chi2.mean(axis=0), n_valid
    bad_fit = is_bad_fit(table["chi2"], n_valid)
    for name, part in posterior.images.items():
        if name:
            table[f"chi2_{name}"] = part.chi2.mean(axis=0)
            table[f"n_valid_{name}"] = part.view.n_valid()
            bad_fit |= is_bad_fit(table[f"chi2_{name}"], table[f"n_valid_{name}"])
    table["masked_fraction"] = around.masked_fraction
    common = (
        Quality.MASKED * (around.masked_fraction > max_masked_fraction)
        | Quality.EDGE * around.edge
        | Quality.SATURATED * around.saturated
        | Quality.BAD_FIT * bad_fit
    )
    table["flags"] = np.bitwise_or.reduce([common, *own.values()]).astype(np.int16)
    for source, flags in own.items():
        table[f"{source}_flags"] = (common | flags).astype(np.int16)
    describe(table, posterior.sources)
    table.meta["sources"] = list(own)
    if "sky_coord" in table.colnames:
        table.meta["frame"] = "ICRS"
    table.meta["aperture"] = "cutout" if aperture is None else str(aperture)
    if magnitudes.unit is not None:
        table.meta["zero_point"] = f"{magnitudes.zero_point:.6g} {magnitudes.unit}"
    table.meta.update(posterior.provenance)
    return table


def sources_of_interest(view, sources=None) -> tuple[str, ...]:
    """The sources that a catalog measures.

    Parameters
    ----------
    view : View or MultiInstrumentView
        What was sampled.
    sources : sequence of str, optional
        Those that are asked for, in their order.

    Returns
    -------
    sources : tuple of str
        By default those of the view, the last one (for which the observations were made) first, and
        no line-of-sight light, ``"los"``, beside others: its flux is that of the cutout's sky.

    Raises
    ------
    InputError
        If the view does not hold one that is asked for.
    """
    if sources is None:
        found = tuple(s for s in view.sources[::-1] if s != "los")
        return found or view.sources
    unknown = [source for source in sources if source not in view.sources]
    if isinstance(sources, str) or unknown:
        found = repr(sources) if isinstance(sources, str) else ", ".join(unknown)
        raise InputError(f"sources: found {found}, expected some of {', '.join(view.sources)}")
    return tuple(sources)


def statistics(values, quantiles):
    """Mean, standard deviation and quantiles of samples, NaN left out.

    Parameters
    ----------
    values : ndarray, shape (n_samples, N)
        Samples.
    quantiles : mapping of str to float
        Probabilities, by the names of their quantiles.

    Returns
    -------
    statistics : dict of str to ndarray, shape (N,)
        The mean under the name ``""``, the standard deviation under ``"error"``, and the quantiles:
        NaN of fewer than two values, as the mean is where there is none.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_ddprism.posterior.catalog import statistics
    >>> found = statistics(np.array([[1.0], [2.0], [np.nan], [3.0]]), {"p25": 0.25})
    >>> {name: float(value[0]) for name, value in found.items()}
    {'': 2.0, 'error': 1.0, 'p25': 1.0}
    """
    valid = np.isfinite(values)
    n = valid.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.sum(values, axis=0, where=valid) / n
        squares = np.sum(np.square(values - mean), axis=0, where=valid)
        result = {"": mean, "error": np.sqrt(squares / np.maximum(n - 1, 0))}
    found = np.full((len(quantiles), values.shape[1]), np.nan)
    levels = list(quantiles.values())
    # Observations with as many values are done at once: mostly, these are all.
    for count in np.unique(n[n > 1]):
        here = n == count
        ordered = np.sort(np.where(valid, values, np.inf)[:, here], axis=0)[:count]
        found[:, here] = np.quantile(ordered, levels, axis=0, method="weibull")
    return result | dict(zip(quantiles, found, strict=True))


class _Magnitudes:
    """Magnitudes of fluxes in a unit, if they have any."""

    def __init__(self, unit, zero_point):
        self.unit, self.zero_point = None, None
        if zero_point is not None:
            zero_point = u.Quantity(zero_point, subok=True)
            if zero_point.unit == u.one:
                zero_point = zero_point.value * u.mag
            is_magnitude = isinstance(zero_point.unit, u.MagUnit) or zero_point.unit == u.mag
            if not (is_magnitude and zero_point.isscalar and np.isfinite(zero_point.value)):
                raise InputError(f"zero_point: found {zero_point}, expected one magnitude")
            self.unit, self.zero_point = zero_point.unit, float(zero_point.value)
        elif (known := units.zero_point(unit)) is not None:
            self.unit, self.zero_point = u.ABmag, known + 0.0  # no negative zero

    def __call__(self, flux):
        """Plain magnitudes of plain fluxes: infinite where there is none."""
        flux = np.asarray(flux, dtype=float)
        with np.errstate(divide="ignore"):
            faintness = -2.5 * np.log10(np.maximum(flux, 0))
        return self.zero_point + faintness

    def columns(self, name, flux, summary):
        """Names and columns of the magnitudes of samples of a flux, given its statistics."""
        if self.unit is None:
            return
        magnitudes = self(flux)  # infinite ones have no mean
        with np.errstate(invalid="ignore"):
            all_there = np.isfinite(magnitudes).all(axis=0)
        moments = statistics(np.where(all_there, magnitudes, np.nan), {})
        yield name, moments[""] << self.unit
        yield f"{name}_error", moments["error"] << u.mag
        # The brightest magnitudes are those of the largest fluxes.
        for ending, opposite in zip(QUANTILES, reversed(QUANTILES), strict=True):
            yield f"{name}_{ending}", self(summary[opposite]) << self.unit


def _columns(measured, band, magnitudes, grid):
    """Names and columns of a source's measurements in one band."""
    fluxes = {"flux": measured.flux, "aperture_flux": measured.aperture_flux}
    fluxes = {name: flux[..., band] for name, flux in fluxes.items() if flux is not None}
    found = {name: statistics(flux.value, _FLUX_QUANTILES) for name, flux in fluxes.items()}
    for name, flux in fluxes.items():
        yield from _named(name, found[name], flux.unit)
    for name, flux in fluxes.items():
        yield from magnitudes.columns(name.replace("flux", "mag"), flux.value, found[name])
    centroid, radius = measured.centroid[:, :, band], measured.half_light_radius[..., band]
    covariance = measured.covariance[:, :, band]
    for name, axis in (("x_centroid", 0), ("y_centroid", 1)):
        yield from _summary(name, centroid[..., axis], u.pix)
    if grid is not None:
        mean = statistics(centroid.reshape(len(centroid), -1), {})[""].reshape(-1, 1, 2)
        yield "sky_centroid", grid.to_sky(mean)[:, 0]
        offsets = np.einsum("nij,snj->isn", grid.sky_axes, centroid)
        for name, offset in zip(("ra_error", "dec_error"), offsets, strict=True):
            yield name, statistics(offset, {})["error"] << u.arcsec
    yield from _summary("half_light_radius", radius, u.pix)
    if grid is not None:
        scale = np.sqrt(np.abs(np.linalg.det(grid.sky_axes)))
        yield from _summary("half_light_radius_sky", radius * scale, u.arcsec)
        # North first: position angles run from north through east.
        axes = grid.sky_axes[:, ::-1]
        covariance = np.einsum("nij,snjk,nlk->snil", axes, covariance, axes)
    ellipticity, angle = ellipse(covariance)
    yield from _summary("ellipticity", ellipticity, None)
    name, first = ("orientation", -90) if grid is None else ("position_angle", 0)
    yield from _summary(name, _unwrapped(angle, first), u.deg)
    yield "defined_fraction", measured.defined[..., band].mean(axis=0)


def _summary(name, values, unit):
    return _named(name, statistics(values, QUANTILES), unit)


def _named(name, summary, unit):
    for ending, column in summary.items():
        full_name = f"{name}_{ending}" if ending else name
        yield full_name, column if unit is None else column << unit


def _unwrapped(angles, first):
    """Directions of axes in degrees, each of its two that is nearer to their mean axis.

    The mean axis is given from ``first`` to ``first`` + 180.
    """
    doubled = np.deg2rad(2 * angles)
    valid = np.isfinite(doubled)
    sine, cosine = (np.sum(f(doubled), axis=0, where=valid) for f in (np.sin, np.cos))
    axis = (np.rad2deg(np.arctan2(sine, cosine)) / 2 - first) % 180 + first
    return axis + (angles - axis + 90) % 180 - 90
