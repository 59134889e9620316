"""Pictures of separated sources, of priors and of a fit's history.

Galaxies span decades of brightness, so fluxes are shown through an asinh stretch that is linear
below a few times the noise. All panels of one row share one stretch: what looks brighter is
brighter.
Figures are made without pyplot, so no window opens and none stays behind in memory. Given an
``ax``, the panels are drawn in its place.
"""

import numpy as np
from astropy import units as u
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure

from ..errors import InputError
from ..views.view import View
from .grid import pixel_scales

__all__ = ["plot_history", "plot_instruments", "plot_prior", "plot_separation"]

PANEL = 1.35  # inches


def plot_separation(samples, rows=None, truth=None, band=0, *, labels=None, words=None, ax=None):
    """Show observations next to their separated sources.

    Columns: the observation; what each source contributes to it (through its mixing operator, mean
    over the samples), the last source first; the truth of each, if given; the standardized residual
    of their sum, from -4 to 4. Masked pixels are blank. Bars tell the flux of a pixel in each row's
    stretch and, where there is a WCS, the scale on the sky.

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
    labels : sequence of str, optional
        What the rows are called; by default the ids of the observations.
    words : mapping of str to str, optional
        What the sources are called in titles.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    InputError
        If the observations are no images or there is no such observation.
    """
    view, sources = samples.view, samples.sources[::-1]
    if not isinstance(view, View):
        raise InputError(
            "samples: found images of several instruments, expected one (see plot_instruments)"
        )
    rows = _chosen(view, rows)
    if view.data.ndim != 4:
        raise InputError(
            f"samples: found observations of shape {view.data.shape[1:]}, expected (bands, ny, nx)"
        )
    part = _rows_of(samples, rows)
    residual, mean = part.mean_residual()[:, band], part.mean_sample()
    parts = [mean.component(source).value[0, :, band] for source in sources]
    words = {source: source for source in sources} | dict(words or {})
    labels = [str(view.ids[row]) for row in rows] if labels is None else labels
    titles = ["observed", *(words[source] for source in sources)]
    truth = {source: truth[source] for source in sources if source in truth} if truth else {}
    titles += [f"true {words[source]}" for source in truth] + ["residual, ±4σ"]

    figure, axes = _grid(len(rows), len(titles), ax)
    for i, row in enumerate(rows):
        observed, sigma = _observed(view, row, band)
        panels = [observed, *(component[i] for component in parts)]
        panels += [u.Quantity(t[row, band], view.unit).value for t in truth.values()]
        for axis, image in zip(axes[i], panels, strict=False):
            _show(axis, image, _stretch(observed, sigma))
        _show_residual(axes[i, -1], residual[i])
        axes[i, 0].set_ylabel(labels[i], fontsize=8)
        _tell_flux(axes[i, -2], view.unit)
    if view.wcs is not None:
        _tell_scale(axes[0, 0], view.wcs[rows[0]])
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    return figure


def plot_instruments(samples, rows=None, bands=None, *, ax=None):
    """Show separated sources on their own pixels next to the images of every instrument.

    Columns: each source (mean over the samples), the last one first; then for each instrument the
    observation, what the sources make of it and the standardized residual, from -4 to 4. Masked
    pixels are blank, and so are images that an instrument did not take.

    Parameters
    ----------
    samples : PosteriorSamples
        Of sources and observations that are images (bands, ny, nx).
    rows : sequence of int, optional
        Which observations, one row each; by default the first eight.
    bands : mapping of str to int, optional
        Which band of each source and each instrument; the first if not told.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    InputError
        If a source or an observation is no image or there is no such observation.
    """
    view, bands = samples.view, dict(bands or {})
    rows = _chosen(view, rows)
    shapes = [*view.source_shapes.values(), *(i.observation_shape for i in view.images.values())]
    wrong = [shape for shape in shapes if len(shape) != 3]
    if wrong:
        raise InputError(f"samples: found images of shape {wrong[0]}, expected (bands, ny, nx)")
    part = _rows_of(samples, rows)
    mean, std = part.mean, part.std
    models = {name: i.model().value[0] for name, i in part.mean_sample().images.items()}
    images = {name: (i.view, models[name], i.mean_residual()) for name, i in part.images.items()}
    sources, names = samples.sources[::-1], [name or "observed" for name in images]
    titles = [*sources, *(title for n in names for title in (n, "model", "residual, ±4σ"))]
    figure, axes = _grid(len(rows), len(titles), ax)
    for i, line in enumerate(axes):
        for axis, source in zip(line, sources, strict=False):
            source_mean = mean[source].value[i, bands.get(source, 0)]
            spread = std[source].value[i, bands.get(source, 0)]
            noise = np.median(spread) if part.n_samples > 1 else np.std(source_mean) / 10
            _show(axis, source_mean, _stretch(source_mean, float(noise)))
        for k, (name, (image, model, residual)) in enumerate(images.items()):
            band = bands.get(name, 0)
            three = line[len(sources) + 3 * k :][:3]
            if image.n_valid(i)[0]:
                observed, sigma = _observed(image, i, band)
                _show(three[0], observed, _stretch(observed, sigma))
                _show(three[1], model[i, band], _stretch(observed, sigma))
                _show_residual(three[2], residual[i, band])
        line[0].set_ylabel(str(part.view.ids[i]), fontsize=8)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    return figure


def plot_prior(prior, n=8, band=0, noise=None, *, ax=None):
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
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

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
    figure, axes = _grid(len(prior), n, ax)
    for line, (source, images) in zip(axes, prior.items(), strict=True):
        values = u.Quantity(images[:n, band])
        soft = np.std(values) / 10 if noise is None else u.Quantity(noise)
        norm = _stretch(values.value, soft.to_value(values.unit))
        for axis, image in zip(line, values.value, strict=True):
            _show(axis, image, norm)
        line[0].set_ylabel(source, fontsize=9)
    return figure


def plot_history(history, *, ax=None):
    """Show how a fit went, one panel for each quantity that it recorded.

    Parameters
    ----------
    history : QTable
        The ``history_`` of a fitted separator: a row for each EM iteration of each source, with the
        columns ``iteration`` and ``source`` and any number of numeric ones.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

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
    figure, axes = _panels(lines, columns, (3.2 * columns, 2.4 * lines), ax, gap=0.3)
    axes = axes.ravel()
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


def _chosen(view, rows):
    """Numbers of the observations to show."""
    if rows is None:
        return np.arange(min(8, len(view)))
    rows = np.arange(len(view))[np.asarray(rows, dtype=int)]
    if len(rows) == 0:
        raise InputError("rows: found none, expected at least one observation")
    return rows


def _rows_of(samples, rows):
    """The samples of some observations."""
    chosen = {s: x.value[:, rows] for s, x in samples.samples.items()}
    return type(samples)(chosen, samples.view[rows], device=samples.device)


def _observed(view, row, band):
    """An observation, NaN at masked pixels, and its typical noise."""
    valid = ~view.mask[row, band]
    sigma = np.sqrt(np.median(view.variance[row, band][valid])) if valid.any() else 1.0
    return np.where(valid, view.data[row, band], np.nan), float(sigma)


def _show(axis, image, norm):
    axis.imshow(image, norm=norm, origin="lower", cmap="gray", interpolation="nearest")


def _tell_flux(axis, unit):
    """A bar of the fluxes that a panel's greys mean, on its right."""
    image = axis.images[0]
    bar = axis.figure.colorbar(image, cax=axis.inset_axes([1.02, 0, 0.05, 1]))
    top = image.norm.vmax
    bar.set_ticks([0, top / 10, top], labels=["0", f"{top / 10:.2g}", f"{top:.2g}"])
    bar.ax.tick_params(labelsize=5, pad=1, length=2)
    if str(unit):
        bar.ax.set_title(f"{unit:unicode}/pix", fontsize=5, pad=2)


def _tell_scale(axis, wcs):
    """A bar of a round number of arcseconds, about a quarter of a panel long."""
    pixel = 3600 * float(pixel_scales([wcs])[0])
    width = axis.images[0].get_array().shape[1]
    choices = np.outer(10.0 ** np.arange(-3, 4), [1, 2, 5]).ravel()
    length = choices[np.argmin(np.abs(choices - pixel * width / 4))]
    x, y = 0.06 * width, 0.08 * width
    axis.plot([x, x + length / pixel], [y, y], color="white", linewidth=1.5)
    axis.text(x, 1.5 * y, f'{length:g}"', color="white", fontsize=6)


def _show_residual(axis, residual):
    axis.imshow(residual, origin="lower", cmap="RdBu_r", vmin=-4, vmax=4, interpolation="nearest")


def _grid(n_rows, n_columns, ax):
    """A figure of image panels without ticks."""
    size = PANEL * n_columns + 0.6, PANEL * n_rows + 0.3
    figure, axes = _panels(n_rows, n_columns, size, ax)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
    return figure, axes


def _panels(n_rows, n_columns, size, ax, gap=0.05):
    """Panels on a new figure, or in the place of an axis; the gap is in units of their sides."""
    if ax is None:
        figure = Figure(figsize=size, layout="constrained", dpi=150)
        return figure, figure.subplots(n_rows, n_columns, squeeze=False)
    ax.set_axis_off()
    width, height = 1 / (n_columns + gap * (n_columns - 1)), 1 / (n_rows + gap * (n_rows - 1))
    axes = [
        [
            ax.inset_axes([j * width * (1 + gap), 1 - height * (1 + i * (1 + gap)), width, height])
            for j in range(n_columns)
        ]
        for i in range(n_rows)
    ]
    return ax.figure, np.array(axes)


def _stretch(image, sigma):
    """Asinh stretch from two sigma below zero to the brightest pixel, linear below two sigma."""
    sigma = sigma if sigma > 0 else 1.0
    return AsinhNorm(linear_width=2 * sigma, vmin=-2 * sigma, vmax=max(np.nanmax(image), 5 * sigma))
