"""Pictures of separated sources, of priors and of a fit's history.

Galaxies span decades of brightness, so fluxes are shown through an asinh stretch that is linear
below a few times the noise. All panels of one row share one stretch: what looks brighter is
brighter.
Figures are made without pyplot, so no window opens and none stays behind in memory.
"""

import numpy as np
from astropy import units as u
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure

from .errors import InputError

__all__ = ["plot_history", "plot_prior", "plot_separation"]

PANEL = 1.35  # inches


def plot_separation(samples, rows=None, truth=None, band=0):
    """Show observations next to their separated sources.

    Columns: the observation; what each source contributes to it (through its mixing operator, mean
    over the samples), the last source first; the truth of each, if given; the standardized residual
    of their sum, from -4 to 4. Masked pixels are blank.

    Parameters
    ----------
    samples : PosteriorSamples
        Of observations that are images (bands, ny, nx).
    rows : sequence of int, optional
        Which observations, one row each; by default the first eight.
    truth : mapping of str to Quantity, shape (N, bands, ny, nx), optional
        True noise-free images of each source of all observations, as the view sees them.
    band : int
        Which band.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    InputError
        If the observations are no images or there is no such observation.
    """
    view, sources = samples.view, samples.sources[::-1]
    rows = np.arange(min(8, len(view)) if rows is None else len(view))[
        slice(None) if rows is None else np.asarray(rows, dtype=int)
    ]
    if view.data.ndim != 4:
        raise InputError(
            f"samples: found observations of shape {view.data.shape[1:]}, expected (bands, ny, nx)"
        )
    if len(rows) == 0:
        raise InputError("rows: found none, expected at least one observation")
    part = type(samples)({s: x.value[:, rows] for s, x in samples.samples.items()}, view[rows])
    residual = part.residual().mean(axis=0)[:, band]
    parts = [part.component(source).value.mean(axis=0)[:, band] for source in sources]
    titles = ["observed", *sources]
    truth = {source: truth[source] for source in sources if source in truth} if truth else {}
    titles += [f"true {source}" for source in truth] + ["residual, ±4σ"]

    figure, axes = _grid(len(rows), len(titles))
    for i, row in enumerate(rows):
        observed = np.where(view.mask[row, band], np.nan, view.data[row, band])
        sigma = float(np.sqrt(np.median(view.variance[row, band][~view.mask[row, band]])))
        panels = [observed, *(component[i] for component in parts)]
        panels += [u.Quantity(t[row, band], view.unit).value for t in truth.values()]
        for axis, image in zip(axes[i], panels, strict=False):
            axis.imshow(
                image,
                norm=_stretch(observed, sigma),
                origin="lower",
                cmap="gray",
                interpolation="nearest",
            )
        axes[i, -1].imshow(
            residual[i], origin="lower", cmap="RdBu_r", vmin=-4, vmax=4, interpolation="nearest"
        )
        axes[i, 0].set_ylabel(str(view.ids[row]), fontsize=8)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    return figure


def plot_prior(prior, n=8, band=0, noise=None):
    """Show draws from the priors, one row of images for each source.

    Parameters
    ----------
    prior : mapping of str to Quantity, shape (n_samples, bands, ny, nx)
        Draws from the prior of each source.
    n : int
        Largest number of draws shown.
    band : int
        Which band.
    noise : Quantity, optional
        Flux per pixel below which the stretch is linear; by default a tenth of the standard
        deviation of the pixels.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    InputError
        If a source is no image.
    """
    for source, images in prior.items():
        if np.ndim(images) != 4:
            raise InputError(
                f"source {source!r}: found shape {np.shape(images)[1:]}, expected (bands, ny, nx)"
            )
    n = min(n, *(len(images) for images in prior.values()))
    figure, axes = _grid(len(prior), n)
    for line, (source, images) in zip(axes, prior.items(), strict=True):
        values = u.Quantity(images[:n, band])
        soft = np.std(values) / 10 if noise is None else u.Quantity(noise)
        norm = _stretch(values.value, soft.to_value(values.unit))
        for axis, image in zip(line, values.value, strict=True):
            axis.imshow(image, norm=norm, origin="lower", cmap="gray", interpolation="nearest")
        line[0].set_ylabel(source, fontsize=9)
    return figure


def plot_history(history):
    """Show how a fit went, one panel for each quantity that it recorded.

    Parameters
    ----------
    history : QTable
        The ``history_`` of a fitted separator: a row for each EM iteration of each source, with the
        columns ``iteration`` and ``source`` and any number of numeric ones.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there is nothing to show.
    """
    sources = np.asarray(history["source"]) if "source" in history.colnames else None
    names = [
        name
        for name in history.colnames
        if name not in ("iteration", "source")
        and np.asarray(history[name]).ndim == 1
        and np.asarray(history[name]).dtype.kind in "iuf"
    ]
    if not names or len(history) == 0:
        raise InputError("history: found no numeric column with rows, expected that of a fit")
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.4 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        values = u.Quantity(history[name])
        groups = [None] if sources is None else list(dict.fromkeys(sources))
        for group in groups:
            rows = slice(None) if group is None else sources == group
            y = values[rows].value
            x = history["iteration"][rows] if "iteration" in history.colnames else range(len(y))
            axis.plot(x, y, marker="o", markersize=3, label=group)
        unit = "" if values.unit == u.one else f" [{values.unit:unicode}]"
        axis.set_ylabel(name.replace("_", " ") + unit, fontsize=8)
        axis.set_xlabel("EM iteration", fontsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.tick_params(labelsize=7)
    for axis in axes[len(names) :]:
        axis.remove()
    if sources is not None:
        axes[0].legend(fontsize=7)
    return figure


def _grid(n_rows, n_columns):
    """A figure of image panels without ticks."""
    figure = Figure(
        figsize=(PANEL * n_columns + 0.6, PANEL * n_rows + 0.3), layout="constrained", dpi=150
    )
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
    return figure, axes


def _stretch(image, sigma):
    """Asinh stretch from two sigma below zero to the brightest pixel, linear below two sigma."""
    sigma = sigma if sigma > 0 else 1.0
    return AsinhNorm(linear_width=2 * sigma, vmin=-2 * sigma, vmax=max(np.nanmax(image), 5 * sigma))
