"""Images of a catalog of galaxies and stars, drawn one stamp at a time."""

import numpy as np
from astropy import units as u

__all__ = ["cut", "render"]


def render(renderer, catalog, rows, pixel_scale, sigma, corner, shape):
    """Draw objects of a catalog, in its flux unit.

    Parameters
    ----------
    renderer : `~astro_ddprism.simulate.profiles.MoffatRenderer`
        What draws the stamp of an object.
    catalog : `~astropy.table.QTable`
        The objects.
    rows : ndarray of int
        Which of them.
    pixel_scale : `~astropy.units.Quantity`
        Angle of a pixel.
    sigma : float
        Noise of a pixel: stamps end where an object is fainter than a fiftieth of it.
    corner : (int, int)
        The first pixel, x and y.
    shape : (int, int)
        Rows and columns.

    Returns
    -------
    image : ndarray, of the given shape
        The sum of the objects.
    """
    image = np.zeros(shape)
    x, y = np.asarray(catalog["x"])[rows], np.asarray(catalog["y"])[rows]
    flux = catalog["flux"].value[rows]
    radius = (catalog["half_light_radius"][rows] / pixel_scale).to_value(u.one)
    n = np.asarray(catalog["sersic_index"])[rows]
    axis_ratio = np.asarray(catalog["axis_ratio"])[rows]
    # North is up and east to the left: a position angle of 0 is +y, one of 90 degrees is -x.
    theta = np.pi / 2 + catalog["position_angle"].to_value(u.rad)[rows]
    # A fiftieth of the noise: no pixel of an object's faint end is worth a larger stamp.
    size = renderer.stamp_size(0.02 * sigma / flux, radius, np.where(radius > 0, n, 1.0))
    for i in range(len(rows)):
        stamp, (x0, y0) = renderer.stamp(
            x[i], y[i], size=int(size[i]), radius=radius[i], n=n[i], axis_ratio=axis_ratio[i],
            theta=theta[i],
        )  # fmt: skip
        here, there = _overlap((y0 - corner[1], x0 - corner[0]), stamp.shape, shape)
        image[here] += flux[i] * stamp[there]
    return image


def _overlap(corner, size, shape):
    """Slices of an image of ``shape`` and of a patch at ``corner`` in it where the two overlap."""
    here, there = [], []
    for start, length, limit in zip(corner, size, shape, strict=True):
        low, high = min(max(start, 0), limit), max(min(start + length, limit), 0)
        here.append(slice(low, max(low, high)))
        there.append(slice(low - start, max(low, high) - start))
    return tuple(here), tuple(there)


def cut(image, corners, shape):
    """Cutouts of an image.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
    corners : sequence of (int, int)
        The first pixel of each cutout, x and y.
    shape : (int, int)
        Rows and columns of a cutout.

    Returns
    -------
    cutouts : ndarray, shape (N, *shape)
        NaN outside the image.
    """
    cutouts = np.full((len(corners), *shape), np.nan)
    for cutout, (x0, y0) in zip(cutouts, corners, strict=True):
        here, there = _overlap((y0, x0), shape, image.shape)
        cutout[there] = image[here]
    return cutouts
