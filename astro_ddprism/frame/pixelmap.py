r"""Where the pixels of images lie in the frame of a source.

Two WCS, that of an image and that of the source's frame, lead from pixel to sky to pixel. The map
between the pixels is smooth, so it is measured once, by astropy and with all distortions, at
:math:`10 \times 10` Chebyshev nodes :math:`t` of the image, and kept as the coefficients of

.. math:: p(t_x, t_y) = \sum_{a, b} c_{ab} \, T_a(t_y) \, T_b(t_x), \qquad
          t = \frac{2 i - (m - 1)}{m},

for pixels :math:`i = 0 \dots m - 1` along each axis (the image's edges are at :math:`t = \pm 1`).
Most maps are affine but for a thousandth of a pixel, and 3 or 4 terms along an axis say all. SIP
distortions are polynomials. A few numbers for each observation thus replace two for each of its
pixels, and the local area of the pixels comes from derivatives.
"""

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame
from numpy.polynomial.chebyshev import chebder, chebvander

from ..errors import InputError

__all__ = ["fit_pixel_maps", "pixel_axes", "pixel_extent"]

_NODES = 10  # along an axis; SIP polynomials have a degree of at most 9
_TOLERANCE = 1e-6  # pixels of the frame


def fit_pixel_maps(wcs, shape, frame, coordinates, *, names=None):
    """Positions of an image's pixels in the frame of a source, for every observation.

    Parameters
    ----------
    wcs : sequence of `~astropy.wcs.WCS`
        The WCS of each observation's image.
    shape : tuple of int
        ``(ny, nx)`` of the images.
    frame : `~astro_ddprism.frame.SourceFrame`
        The source's frame.
    coordinates : `~astropy.coordinates.SkyCoord`
        Where the frame lies in each observation, or one coordinate for all.
    names : sequence of str, optional
        What messages call the observations; their numbers by default.

    Returns
    -------
    (N, 2, n, n) `~numpy.ndarray`
        Chebyshev coefficients of x and of y in the frame, in its pixels; the first of the two
        last axes goes with the image's y.

    Raises
    ------
    InputError
        If a WCS is not celestial, does not cover its coordinate, or is too rough for polynomials.
    """
    wcs = [wcs] if isinstance(wcs, WCS) else list(wcs)
    names = _names(names, len(wcs))
    coordinates = _coordinates(coordinates, len(wcs))
    world = _world(wcs, shape, names)
    places = frame.world_to_pixel(world[:, 0], world[:, 1], coordinates)
    places = places.reshape(-1, 2, _NODES, _NODES)
    for name, bad in zip(names, ~np.isfinite(places).all(axis=(1, 2, 3)), strict=True):
        if bad:
            raise InputError(
                f"observation {name}: found pixels that its WCS puts on no place of the sky near "
                "its coordinate, expected a WCS that covers the object"
            )
    coefficients = _coefficients(places, names)
    _check_coverage(coefficients, shape, frame, coordinates, names)
    return coefficients


def pixel_axes(coefficients, shape):
    """Steps in the frame from one pixel to the next, in the middle of the image.

    Parameters
    ----------
    coefficients : (N, 2, n, n) `~numpy.ndarray`
        As from `fit_pixel_maps`.
    shape : tuple of int
        ``(ny, nx)`` of the images.

    Returns
    -------
    (N, 2, 2) `~numpy.ndarray`
        In pixels of the frame; the columns are the steps along the image's x and y.
    """
    return _slopes(coefficients, np.zeros((len(coefficients), 2)), shape)


def pixel_extent(coefficients, shape):
    """The least and largest positions of the pixels of any observation.

    Parameters
    ----------
    coefficients : (N, 2, n, n) `~numpy.ndarray`
        As from `fit_pixel_maps`.
    shape : tuple of int
        ``(ny, nx)`` of the images.

    Returns
    -------
    lowest, highest : (2,) `~numpy.ndarray`
        Positions x and y in the frame, in its pixels.
    """
    # A map without folds takes its extremes on the border.
    n = coefficients.shape[-1]
    ty, tx = (chebvander((2 * np.arange(m) - (m - 1)) / m, n - 1) for m in shape)
    borders = [
        np.einsum("ncab,ya,xb->cnyx", coefficients, rows, columns).reshape(2, -1)
        for rows, columns in ((ty[[0, -1]], tx), (ty, tx[[0, -1]]))
    ]
    border = np.concatenate(borders, axis=1)
    return border.min(axis=1), border.max(axis=1)


def _names(names, n):
    names = range(n) if names is None else names
    if len(names) != n:
        raise InputError(f"names: found {len(names)}, expected {n}, one for each WCS")
    return [str(name) for name in names]


def _coordinates(coordinates, n):
    if not isinstance(coordinates, SkyCoord):
        raise InputError(
            f"coordinates: found {type(coordinates).__name__}, expected a SkyCoord: where the "
            "source's frame lies in each observation"
        )
    coordinates = coordinates.icrs
    if coordinates.isscalar:
        coordinates = SkyCoord([coordinates.ra] * n, [coordinates.dec] * n)
    if coordinates.shape != (n,):
        raise InputError(
            f"coordinates: found shape {coordinates.shape}, expected ({n},), one for each WCS"
        )
    return coordinates


def _world(wcs, shape, names):
    """Right ascension and declination (ICRS, in degrees) of the nodes, shape (N, 2, n * n)."""
    ny, nx = shape
    t = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
    y, x = np.meshgrid((ny * t + ny - 1) / 2, (nx * t + nx - 1) / 2, indexing="ij")
    pixels = np.column_stack([x.ravel(), y.ravel()])
    world = np.empty((len(wcs), 2, _NODES**2))
    groups = {}
    for i, (one, name) in enumerate(zip(wcs, names, strict=True)):
        if not isinstance(one, WCS) or not one.has_celestial:
            raise InputError(
                f"observation {name}: {_kind(one)}, expected a celestial WCS (the keywords CTYPE, "
                "CRVAL, CRPIX and CD, or PC and CDELT)"
            )
        celestial = one if one.naxis == 2 else one.celestial
        frame = wcs_to_celestial_frame(celestial)
        groups.setdefault(repr(frame), (frame, []))[1].append(i)
        sky = celestial.all_pix2world(pixels, 0).T
        world[i] = sky if celestial.wcs.lng == 0 else sky[::-1]
    for frame, members in groups.values():
        if frame.name != "icrs":
            sky = SkyCoord(*np.moveaxis(world[members], 1, 0), unit="deg", frame=frame)
            sky = sky.transform_to("icrs")
            world[members] = np.stack([sky.ra.deg, sky.dec.deg], axis=1)
    return world


def _kind(wcs):
    if not isinstance(wcs, WCS):
        return f"found {type(wcs).__name__} for a WCS"
    types = ", ".join(axis or "''" for axis in wcs.wcs.ctype)
    return f"found a WCS of the axes CTYPE = {types}"


def _coefficients(places, names):
    """Chebyshev coefficients of values at the nodes, no more of them than matter."""
    order = np.arange(_NODES)
    transform = 2 / _NODES * np.cos(np.pi * np.outer(order, order + 0.5) / _NODES)
    transform[0] /= 2
    coefficients = np.einsum("ai,bj,ncij->ncab", transform, transform, places)
    size = np.abs(coefficients)
    # What is lost if only the lowest n orders are kept.
    lost = np.stack(
        [
            size[:, :, n:].sum(axis=(2, 3)) + size[:, :, :n, n:].sum(axis=(2, 3))
            for n in range(2, _NODES)
        ]
    ).max(axis=2)
    for name, rest in zip(names, lost[-1], strict=True):
        if not rest < 100 * _TOLERANCE:
            raise InputError(
                f"observation {name}: its WCS distorts by {rest:.2g} pixels of the frame beyond "
                f"polynomials of degree {_NODES - 2}, expected a smoother one"
            )
    enough = np.flatnonzero((lost < _TOLERANCE).all(axis=1))
    n = enough[0] + 2 if len(enough) else _NODES
    return coefficients[:, :, :n, :n]


def _values(coefficients, t):
    """Positions at one point of each image, given from -1 to 1 along x and y, shape (N, 2)."""
    n_rows, n_columns = coefficients.shape[2:]
    rows, columns = chebvander(t[:, 1], n_rows - 1), chebvander(t[:, 0], n_columns - 1)
    return np.einsum("ncab,na,nb->nc", coefficients, rows, columns)


def _slopes(coefficients, t, shape):
    """Steps from pixel to pixel along x and y, as columns, at one point of each image."""
    ny, nx = shape
    along_x = _values(chebder(coefficients, axis=3), t) * (2 / nx)
    along_y = _values(chebder(coefficients, axis=2), t) * (2 / ny)
    return np.stack([along_x, along_y], axis=-1)


def _check_coverage(coefficients, shape, frame, coordinates, names):
    """Refuse images that do not hold the middle of the source's frame."""
    centre, half = (np.array(frame.shape[:0:-1]) - 1) / 2, np.array(shape[::-1]) / 2
    t = np.zeros((len(coefficients), 2))
    for _ in range(6):  # Newton's method, from the image's middle
        missing = (centre - _values(coefficients, t))[..., None]
        step = np.linalg.solve(_slopes(coefficients, t, shape), missing)[..., 0] / half
        t = np.clip(t + step, -2, 2)
    outside = np.abs(t).max(axis=1) > 1
    if outside.any():
        i = np.argmax(outside)
        x, y = half * (t[i] + 1) - 0.5
        raise InputError(
            f"observation {names[i]}: its coordinate, {coordinates[i].to_string('decimal')}, lies "
            f"outside, towards pixel (x, y) = ({x:.0f}, {y:.0f}), expected inside its image of "
            f"{shape[1]} x {shape[0]} pixels: the WCS does not cover the object"
        )
