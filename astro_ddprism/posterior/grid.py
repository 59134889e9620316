"""The pixels on which the sources of a view live, and images on them.

Sources live on the pixels of the images that show them, or on pixels of their own
(`~astro_ddprism.frame.SourceFrame`), as where several instruments show the same.
"""

import copy
import functools

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs.utils import proj_plane_pixel_scales, wcs_to_celestial_frame

from ..io.wcs import pack_wcs, unpack_wcs
from ..units import AB_FLUX
from .apertures import radius_in_pixels

__all__ = ["SourceGrid", "SourceImages", "pixel_positions", "pixel_scales"]


class SourceImages(u.Quantity):
    """Images of a source, with the WCS of each observation.

    A `~astropy.units.Quantity` in all else; what is computed from it is a plain image again, whose
    ``wcs`` is None. Parts, copies and conversions keep it: of some observations theirs, of one
    observation its own (no list), and of a part of the pixels one that is moved with them.

    Attributes
    ----------
    wcs : list of `~astropy.wcs.WCS`, `~astropy.wcs.WCS` or None
        Celestial WCS of the last two axes, of each observation or of the only one.
    """

    def __new__(cls, value, unit=None, wcs=None, axis=None):
        """Images in a unit, and the WCS of each observation, which are along an axis."""
        new = super().__new__(cls, value, unit, copy=False, dtype=np.inexact, subok=False)
        return new.view(cls)._with(wcs, axis)

    def __array_finalize__(self, obj):
        super().__array_finalize__(obj)
        self.wcs = self._axis = None

    def _with(self, wcs, axis):
        self.wcs, self._axis = wcs, axis
        return self

    def __getitem__(self, key):
        part = super().__getitem__(key)
        if self.wcs is not None and isinstance(part, SourceImages):
            part._with(*_part_of_wcs(self.wcs, self._axis, key, self.shape))
        return part

    def copy(self, order="C"):
        """Copy the images; their WCS are the same objects."""
        return super().copy(order)._with(self.wcs, self._axis)

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()._with(copy.deepcopy(self.wcs, memo), self._axis)

    def to(self, unit, equivalencies=AB_FLUX, copy=True):
        """Convert the images to another unit; maggies are those of the AB system.

        Parameters
        ----------
        unit : Unit or str
        equivalencies : list of tuple
        copy : bool
            Whether to copy where nothing changes.

        Returns
        -------
        images : SourceImages
        """
        return super().to(unit, equivalencies, copy)._with(self.wcs, self._axis)

    def __reduce__(self):
        packed = self.wcs
        if packed is not None:
            packed = pack_wcs(packed if self._axis is not None else [packed])
        return _unpickled, (np.asarray(self.value), self.unit, packed, self._axis)


def _unpickled(value, unit, packed, axis):
    wcs = None if packed is None else unpack_wcs(packed)
    images = SourceImages(value, unit)
    return images._with(wcs[0] if wcs and axis is None else wcs, axis)


def _part_of_wcs(wcs, axis, key, shape):
    """WCS and axis of the observations of a part of images; neither where no WCS tells."""
    keys = _expanded(key, len(shape))
    own = [i for i, k in enumerate(keys) if k is not None]  # those of axes that exist
    lists = [k for k in keys if not (k is None or isinstance(k, slice) or _is_number(k))]
    numbered = any(_is_number(k) for k in keys)
    # Of what is picked pixel by pixel, or by several lists at once, no WCS is left.
    if any(np.ndim(k) != 1 for k in lists) or len(lists) > 1 or (lists and numbered):
        return None, None
    pixels = [keys[i] for i in own[-2:]]
    # Of every second pixel there is none that `WCS.slice`, which bins them, would tell.
    if own[-1] != len(keys) - 1 or own[-2] != len(keys) - 2 or not all(map(_is_range, pixels)):
        return None, None
    if axis is not None:
        rows, before = keys[own[axis]], keys[: own[axis]]
        by_list = not (isinstance(rows, slice) or _is_number(rows))
        wcs = [wcs[i] for i in np.arange(shape[axis])[rows]] if by_list else wcs[rows]
        axis = None if _is_number(rows) else sum(not _is_number(k) for k in before)
    cut = tuple(slice(*k.indices(n)) for k, n in zip(pixels, shape[-2:], strict=True))
    if any(k.start or k.stop != n for k, n in zip(cut, shape[-2:], strict=True)):
        wcs = wcs.slice(cut) if axis is None else [one.slice(cut) for one in wcs]
    return wcs, axis


def _expanded(key, ndim):
    """An index with something for each axis."""
    keys = list(key) if isinstance(key, tuple) else [key]
    at = next((i for i, k in enumerate(keys) if k is Ellipsis), None)
    if at is None:
        at, keys = len(keys), [*keys, Ellipsis]
    n_missing = ndim - sum(k is not None for k in keys) + 1
    return [*keys[:at], *[slice(None)] * n_missing, *keys[at + 1 :]]


def _is_number(key):
    return isinstance(key, int | np.integer) and not isinstance(key, bool)


def _is_range(key):
    return isinstance(key, slice) and key.step in {None, 1}


class SourceGrid:
    """The pixels on which the sources of each observation live.

    Parameters
    ----------
    view : View or MultiInstrumentView
        The observations.

    Attributes
    ----------
    wcs : list of `~astropy.wcs.WCS`, or None
        World coordinates of each observation's sources, where they are known.
    shape : tuple of int
        Their ``(ny, nx)``.
    """

    def __init__(self, view):
        self.view = view
        first, *others = view.images.values()
        if view.source_wcs is not None:
            self.wcs, self.shape = view.source_wcs, next(iter(view.source_shapes.values()))[-2:]
        else:
            self.wcs, self.shape = None if others else first.wcs, first.data.shape[-2:]

    def holds(self, source) -> bool:
        """Whether a source has these pixels.

        Parameters
        ----------
        source : str
            Name of a source of the view.

        Returns
        -------
        bool
        """
        if self.view.source_shapes[source][-2:] != self.shape:
            return False
        resampled = any(image.mixing[source].own_pixels for image in self.view.images.values())
        # Pixels of as many rows and columns as the image's need not be the image's.
        return not resampled or self.view.source_wcs is not None

    @functools.cached_property
    def positions(self) -> np.ndarray:
        """Where each observation's coordinates lie, in pixels (x, y): ndarray, shape (N, 2)."""
        return pixel_positions(self.wcs, self.view.coordinates, len(self.view), self.shape)

    @functools.cached_property
    def pixel_scales(self) -> np.ndarray | None:
        """Sides of each observation's pixels in degrees: ndarray, shape (N,); None without WCS."""
        return None if self.wcs is None else pixel_scales(self.wcs)

    def aperture_radius(self, aperture):
        """Radius of an aperture in pixels: float or ndarray, shape (N,); ``radius_in_pixels``."""
        return radius_in_pixels(aperture, self.pixel_scales, self.shape)

    def to_sky(self, pixels) -> SkyCoord:
        """Where pixels of each observation's sources are on the sky.

        Parameters
        ----------
        pixels : ndarray, shape (N, n, 2)
            Pixels (x, y) of each observation; the first pixel's centre is 0.

        Returns
        -------
        `~astropy.coordinates.SkyCoord`, shape (N, n)
            ICRS; NaN where a pixel is. Sources without a WCS have no place on the sky.
        """
        lon, lat = np.full((2, *pixels.shape[:2]), np.nan) * u.deg
        known = np.isfinite(pixels).all(axis=-1)
        ra, dec = lon.copy(), lat.copy()
        for i, wcs in enumerate(self.wcs):
            world = wcs.pixel_to_world_values(*pixels[i, known[i]].T)
            # A WCS counts its axes as the image does: declination may come first.
            swapped = wcs.wcs.lng > wcs.wcs.lat
            lon[i, known[i]], lat[i, known[i]] = (world[::-1] if swapped else world) * u.deg
        for rows in _frames(self.wcs).values():
            here = SkyCoord(lon[rows], lat[rows], frame=wcs_to_celestial_frame(self.wcs[rows[0]]))
            ra[rows], dec[rows] = here.icrs.ra, here.icrs.dec
        return SkyCoord(ra, dec)

    @functools.cached_property
    def sky_axes(self) -> np.ndarray:
        """Steps on the sky from pixel to pixel, at each observation's position.

        Arcseconds to the east and to the north (rows), along x and along y (columns): ndarray,
        shape (N, 2, 2).
        """
        steps = np.array([[-0.5, 0], [0.5, 0], [0, -0.5], [0, 0.5], [0, 0]])
        sky = self.to_sky(self.positions[:, np.newaxis] + steps)
        offsets = sky[:, 4:].spherical_offsets_to(sky[:, :4])
        offsets = np.stack([angle.to_value(u.arcsec) for angle in offsets], axis=1)
        return offsets[..., 1::2] - offsets[..., ::2]


def pixel_positions(all_wcs, coordinates, number, shape) -> np.ndarray:
    """Where sky coordinates lie in images.

    Parameters
    ----------
    all_wcs : sequence of `~astropy.wcs.WCS`, or None
        World coordinates of each image.
    coordinates : `~astropy.coordinates.SkyCoord`, shape (N,), or None
        A coordinate for each image.
    number : int
        Of images, ``N``.
    shape : tuple of int
        ``(ny, nx)`` of the images.

    Returns
    -------
    positions : ndarray, shape (N, 2)
        In pixels (x, y); the pixel ``(nx // 2, ny // 2)`` if WCS or coordinates are not known.
    """
    if all_wcs is None or coordinates is None:
        ny, nx = shape
        return np.tile([nx // 2, ny // 2], (number, 1)).astype(float)
    positions = np.empty((number, 2))
    # Cutouts of one image share one frame, to which all positions are transformed at once.
    for rows in _frames(all_wcs).values():
        world = coordinates[rows].transform_to(wcs_to_celestial_frame(all_wcs[rows[0]]))
        for i, *place in zip(rows, world.spherical.lon.deg, world.spherical.lat.deg, strict=True):
            # A WCS counts its axes as the image does: declination may come first.
            swapped = all_wcs[i].wcs.lng > all_wcs[i].wcs.lat
            positions[i] = all_wcs[i].world_to_pixel_values(*(place[::-1] if swapped else place))
    return positions


def pixel_scales(all_wcs) -> np.ndarray:
    """Sides of pixels, of as many square degrees.

    Parameters
    ----------
    all_wcs : sequence of `~astropy.wcs.WCS`
        World coordinates of each image.

    Returns
    -------
    scales : ndarray, shape (N,)
        In degrees.
    """
    return np.array([np.sqrt(np.prod(proj_plane_pixel_scales(wcs))) for wcs in all_wcs])


def _frames(all_wcs):
    """The numbers of the WCS that share a celestial frame, by that frame."""
    frames = {}
    for i, wcs in enumerate(all_wcs):
        name = wcs.wcs.radesys, wcs.wcs.ctype[wcs.wcs.lng][:4], wcs.wcs.equinox
        frames.setdefault(str(name), []).append(i)
    return frames
