"""The worst blends of the field itself, which nobody knows the truth of.

Of the galaxies that are detected in the rows where a scene's galaxies are, those are taken whose
neighbours bring the most light into their apertures, up to twice their own; where it is more, what
was detected is often a part of the neighbour.
"""

__all__ = ["deblended_segments", "worst_blends"]

import numpy as np

from astro_ddprism.posterior.apertures import aperture_weights
from astro_ddprism.survey import select_galaxies

from .peers import segment_of

FAINTEST = 10 ** (-0.4 * 24.0)
"""Least flux of a galaxy, in maggies."""

MOST = 2.0
"""Most light of the neighbours, over a galaxy's own."""


def worst_blends(scene, n=10):
    """Detected galaxies with most light of their neighbours.

    Parameters
    ----------
    scene : Scene
        Of whose image without galaxies drawn in.
    n : int
        How many, each in a cutout of its own.

    Returns
    -------
    xy : ndarray, shape (n, 2)
        Their positions.
    neighbours : ndarray, shape (n,)
        Flux of other segments in the aperture, over that of their own.
    """
    image, settings = scene.image, scene.settings
    galaxies = select_galaxies(scene.objects, min_flux=FAINTEST * image.unit)
    xy = np.column_stack([galaxies["x"], galaxies["y"]])
    last = np.array(image.shape[:0:-1]) - 1 - settings.edge
    xy = xy[((xy >= [settings.edge, settings.first_row]) & (xy <= last)).all(axis=1)]
    labels, own = segment_of(image, settings.first_row, *xy.T)
    degree = np.zeros(len(xy))
    half = settings.size // 2
    for i, (x, y) in enumerate(xy):
        y0, x0 = int(np.rint(y)) - half, int(np.rint(x)) - half
        cutout = np.s_[y0 : y0 + settings.size, x0 : x0 + settings.size]
        if own[i] == 0 or image.mask[0][cutout].any():
            continue
        here = labels[cutout]
        weights = aperture_weights([(x - x0, y - y0)], settings.aperture, here.shape)[0]
        light = weights * image.data[0][cutout]
        degree[i] = light[(here > 0) & (here != own[i])].sum() / light[here == own[i]].sum()
    chosen = []
    for i in np.argsort(-degree):
        apart = all(np.abs(xy[i] - xy[j]).max() >= settings.size for j in chosen)
        if 0 < degree[i] <= MOST and apart:
            chosen.append(i)
    chosen = chosen[:n]
    return xy[chosen], degree[chosen]


def deblended_segments(scene, xy):
    """What the deblended segments of photutils hold of galaxies.

    Parameters
    ----------
    scene : Scene
        Of whose image without galaxies drawn in.
    xy : ndarray, shape (n, 2)
        Positions of the galaxies.

    Returns
    -------
    images : ndarray, shape (n, size, size)
        The image where it is the galaxy's segment, 0 elsewhere.
    """
    labels, own = segment_of(scene.image, scene.settings.first_row, *xy.T)
    size = scene.settings.size
    images = []
    for (x, y), label in zip(xy, own, strict=True):
        y0, x0 = int(np.rint(y)) - size // 2, int(np.rint(x)) - size // 2
        cutout = np.s_[y0 : y0 + size, x0 : x0 + size]
        images.append(np.where(labels[cutout] == label, scene.image.data[0][cutout], 0))
    return np.array(images)
