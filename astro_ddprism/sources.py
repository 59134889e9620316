"""The pixels on which the sources of a view live, and images on them.

Sources live on the pixels of the images that show them, or on pixels of their own
(`~astro_ddprism.frame.SourceFrame`), as where several instruments show the same.
"""

import functools

import numpy as np
from astropy import units as u
from astropy.wcs.utils import wcs_to_celestial_frame

from .mixing import Interpolation, Resampling
from .mixing.composition import factors

__all__ = ["SourceGrid", "SourceImages"]


class SourceImages(u.Quantity):
    """Images of a source, with the WCS of each observation.

    A `~astropy.units.Quantity` in all else; what is computed from it is a plain image again, whose
    ``wcs`` is None.

    Attributes
    ----------
    wcs : list of `~astropy.wcs.WCS`, or None
        Celestial WCS of each observation's pixels.
    """

    def __new__(cls, value, unit=None, wcs=None):
        """Images in a unit, and their WCS."""
        new = super().__new__(cls, value, unit, copy=False, dtype=np.inexact, subok=False)
        new = new.view(cls)
        new.wcs = wcs
        return new

    def __array_finalize__(self, obj):
        super().__array_finalize__(obj)
        self.wcs = None


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
        operators = (image.mixing[source] for image in self.view.images.values())
        resampled = any(
            isinstance(part, Interpolation | Resampling)
            for operator in operators
            for part in factors(operator)
        )
        # Pixels of as many rows and columns as the image's need not be the image's.
        return not resampled or self.view.source_wcs is not None

    @functools.cached_property
    def positions(self) -> np.ndarray:
        """Where each observation's coordinates lie, in pixels (x, y): ndarray, shape (N, 2)."""
        view, all_wcs = self.view, self.wcs
        if all_wcs is None or view.coordinates is None:
            ny, nx = self.shape
            return np.tile([nx // 2, ny // 2], (len(view), 1)).astype(float)
        # Cutouts of one image share one frame, to which all positions are transformed at once.
        frames = {wcs.wcs.radesys + wcs.wcs.ctype[0] + str(wcs.wcs.equinox) for wcs in all_wcs}
        if len(frames) > 1:
            pairs = zip(all_wcs, view.coordinates, strict=True)
            return np.array([wcs.world_to_pixel(position) for wcs, position in pairs])
        world = view.coordinates.transform_to(wcs_to_celestial_frame(all_wcs[0]))
        world = np.column_stack([world.spherical.lon.deg, world.spherical.lat.deg])
        # A WCS counts its axes as the image does: declination may come first.
        swapped = all_wcs[0].wcs.lng > all_wcs[0].wcs.lat
        world = world[:, ::-1] if swapped else world
        pairs = zip(all_wcs, world, strict=True)
        return np.array([wcs.world_to_pixel_values(*position) for wcs, position in pairs])
