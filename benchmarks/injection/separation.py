"""Galaxies at known positions, measured by this package."""

__all__ = ["Separation", "centroids_of", "measure_by_separation", "offsets", "separate"]

import time

import numpy as np

from .scene import Measurement

WINDOW = 3.0  # pixels: width of the Gaussian under which centroids are taken
NAME = "astro-ddprism"


class Separation(Measurement):
    """What this package says of all galaxies.

    Parameters
    ----------
    flux_samples : ndarray, shape (S, N)
        Posterior samples of the galaxy's flux in the aperture. Their median is its ``flux``: light
        beyond is lost among the noise and the neighbours, as every photometry of apertures knows.
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
        super().__init__(NAME, np.median(flux_samples, axis=0), seconds)
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


def separate(separator, view, offset, n_samples, seed, aperture):
    """Separate cutouts: a `Separation` of those of one image; the aperture's radius in pixels."""
    # On a processor the time of its cores, as for the peers, whatever else runs there.
    on_gpu = separator.device_.type != "cpu"
    clock = time.perf_counter if on_gpu else time.process_time
    started = clock()
    samples = separator.sample(view, n_samples=n_samples, seed=seed)
    seconds = (clock() - started) / len(view)
    valid = ~view.mask
    galaxy = samples.samples["galaxy"].value[:, :, 0]
    model = samples.model().value.mean(axis=0)
    residual = (view.data[:, 0] - samples.model().value[0, :, 0]) / np.sqrt(view.variance[:, 0])
    return Separation(
        flux_samples=samples.flux("galaxy", aperture).value[..., 0].astype(float),
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
    parts, order, aperture = [], [], scene.settings.aperture
    for k in range(scene.n_passes):
        rows = scene.rows(k)
        offset = offsets(scene.catalog["x"][rows], scene.catalog["y"][rows])
        parts.append(separate(separator, scene.view_of(k), offset, n_samples, seed + k, aperture))
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
    samples = [together(name, 1) for name in ("flux_samples", "centroids")]
    return Separation(*samples, **single, images=images, seconds=seconds)


def offsets(x, y):
    """Positions (x, y) from the middle of their pixels, ndarray (N, 2)."""
    return np.stack([x - np.rint(x), y - np.rint(y)], axis=-1)
