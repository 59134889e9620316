"""Photometry of deblended segments by photutils: what a separation is measured against.

A segmentation image gives each pixel to one object. Within the aperture of a galaxy, the pixels
that belong to its neighbours are then known, and there are three fair ways to go on: leave them out
(``"mask"``), replace them by the pixels opposite to them (``"correct"``), or sum the galaxy's own
pixels alone and scale the sum by what isolated galaxies of the same brightness have beyond theirs
(``"segment"``). None of them can split the light of a pixel that two objects share.
"""

import warnings

import numpy as np
from astropy import units as u
from astropy.utils.exceptions import AstropyUserWarning
from photutils.segmentation import SourceCatalog, deblend_sources, detect_sources
from photutils.utils.exceptions import NoDetectionsWarning
from scipy.signal import fftconvolve
from scipy.spatial import cKDTree

from ..errors import InputError
from ..posterior.apertures import aperture_weights
from ..progress import photutils_bar

__all__ = ["deblended_aperture_flux"]


def deblended_aperture_flux(
    data, error, positions, radius, *, mask=None, kernel=None, threshold=1.5, n_pixels=5,
    contrast=0.005, match_radius=2.0,
):  # fmt: skip
    """Aperture fluxes of objects with their neighbours' deblended segments taken out.

    Parameters
    ----------
    data : Quantity or ndarray, shape (ny, nx)
        An image, with its background subtracted.
    error : Quantity or ndarray, shape (ny, nx)
        Standard deviation of its noise.
    positions : array_like, shape (N, 2)
        ``(x, y)`` in pixels.
    radius : float
        Of the aperture, in pixels.
    mask : ndarray of bool, optional
        True at bad pixels.
    kernel : ndarray, optional
        With which the image is convolved for detection, such as the PSF.
    threshold : float
        Of the convolved image, in units of the noise of single pixels.
    n_pixels : int
        Smallest number of connected pixels.
    contrast : float
        Smallest fraction of an object's flux in a part that is split off.
    match_radius : float
        Largest separation of a position from its segment's centroid, in pixels.

    Returns
    -------
    flux : dict of str to Quantity or ndarray, shape (N,)
        By each of the methods ``"mask"``, ``"correct"`` and ``"segment"``; NaN where no segment was
        matched.

    Raises
    ------
    InputError
        If nothing is detected.
    """
    unit = getattr(data, "unit", u.one)
    # Photutils squares fluxes; in units of the noise nothing leaves the range of numbers.
    scale = float(np.median(u.Quantity(error, unit).value))
    data, error = (u.Quantity(v, unit).value.astype(float) / scale for v in (data, error))
    mask = np.zeros(data.shape, dtype=bool) if mask is None else mask
    data = np.where(mask, 0.0, data)
    segments = _segments(data, error, mask, kernel, threshold, n_pixels, contrast)
    # Warnings here are of objects at the edges, whose values are NaN and match no position.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)
        catalogs = {
            method: SourceCatalog(
                data, segments, error=error, mask=mask, aperture_mask_method=method
            )
            for method in ("mask", "correct")
        }
        apertures = {
            method: np.atleast_1d(catalog.circular_photometry(radius)[0])
            for method, catalog in catalogs.items()
        }
        centroids = np.atleast_2d(catalogs["mask"].centroid)
    apertures["segment"] = _segment_fluxes(data, segments, centroids, radius, apertures["mask"])
    matched = _nearest(centroids, np.asarray(positions, dtype=float).reshape(-1, 2), match_radius)
    result = {}
    for method, flux in apertures.items():
        values = np.where(matched >= 0, np.asarray(flux, dtype=float)[matched], np.nan) * scale
        result[method] = values if unit == u.one else values << unit
    return result


def _segments(data, error, mask, kernel, threshold, n_pixels, contrast):
    smooth = data if kernel is None else fftconvolve(data, kernel / kernel.sum(), mode="same")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)
        warnings.simplefilter("ignore", NoDetectionsWarning)
        segments = detect_sources(smooth, threshold * error, n_pixels, mask=mask)
        if segments is None:
            raise InputError(f"data: found nothing {threshold:g} times above the noise")
        return deblend_sources(
            smooth, segments, n_pixels, contrast=contrast, **photutils_bar(False)
        )


def _segment_fluxes(data, segments, centroids, radius, masked):
    """Flux of each object's own pixels in its aperture, scaled to the aperture's by brightness."""
    half = int(np.ceil(radius)) + 1
    own, crowded = np.full(len(centroids), np.nan), np.ones(len(centroids), dtype=bool)
    for i, label in enumerate(segments.labels):
        if not np.all(np.isfinite(centroids[i])):
            continue
        x0, y0 = np.floor(centroids[i] + 0.5).astype(int) - half
        rows = slice(max(y0, 0), max(y0 + 2 * half + 1, 0))
        columns = slice(max(x0, 0), max(x0 + 2 * half + 1, 0))
        labels = segments.data[rows, columns]
        if labels.size == 0:
            continue
        centre = centroids[i] - [columns.start, rows.start]
        weights = aperture_weights([centre], radius, labels.shape)[0]
        own[i] = np.sum((weights * data[rows, columns])[labels == label])
        crowded[i] = np.any((weights > 0) & (labels != label) & (labels != 0))
    use = ~crowded & (own > 0) & (masked > 0)
    if not use.any():
        return own
    order = np.argsort(own[use])
    bins = np.array_split(order, max(1, min(8, len(order) // 20)))
    brightness = [np.median(own[use][rows]) for rows in bins]
    ratio = [np.median(masked[use][rows] / own[use][rows]) for rows in bins]
    with np.errstate(invalid="ignore"):
        return own * np.interp(own, brightness, ratio)


def _nearest(centroids, positions, radius):
    """Row of the centroid nearest to each position; -1 where none is within the radius."""
    finite = np.flatnonzero(np.isfinite(centroids).all(axis=1))
    distance, index = cKDTree(centroids[finite]).query(positions, distance_upper_bound=radius)
    return np.where(np.isfinite(distance), finite[np.minimum(index, len(finite) - 1)], -1)
