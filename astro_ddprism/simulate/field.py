"""Simulated survey fields whose light is known object by object.

A field is a sum of galaxies and stars seen through one point-spread function, plus noise. Its truth
is kept as a catalog from which any object can be drawn again, alone, on any pixels: what a galaxy's
cutout holds of the galaxy and what it holds of all else is known exactly.
"""

import dataclasses
import functools

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import QTable
from scipy.spatial import cKDTree

from ..errors import InputError
from ..io.fits import write_fits
from .profiles import MoffatRenderer
from .render import cut, render

__all__ = ["SimulatedField", "TruthCutouts"]


@dataclasses.dataclass(frozen=True)
class TruthCutouts:
    """Noise-free cutouts of what a simulated field holds at some positions.

    Parameters
    ----------
    galaxy : Quantity of shape (N, 1, ny, nx)
        The galaxy at each position, alone; NaN where no galaxy was matched.
    los : Quantity of shape (N, 1, ny, nx)
        All other objects; NaN where no galaxy was matched, and beyond the edges of the field.
    matched : ndarray of bool, shape (N,)
        Whether the position is a true galaxy's.
    row : ndarray of int, shape (N,)
        The galaxy's row in the field's catalog; -1 where none was matched.
    """

    galaxy: u.Quantity
    los: u.Quantity
    matched: np.ndarray
    row: np.ndarray


@dataclasses.dataclass(frozen=True)
class SimulatedField:
    """A simulated image, the objects in it and the means to draw them again.

    Parameters
    ----------
    image : CCDData
        Data, standard deviation, mask (True is bad) and TAN WCS, in microjansky per pixel.
    catalog : QTable
        The truth, one row per object: ``id``, ``kind`` (``"galaxy"`` or ``"star"``), ``x``, ``y``
        (pixels, the first pixel's centre is 0; objects beyond the edges whose light reaches in are
        there too), ``sky_coord``, ``flux``, ``magnitude``, ``half_light_radius`` (along the major
        axis), ``sersic_index``, ``axis_ratio`` and ``position_angle`` (from north through east).
    psf : ndarray
        The PSF with the pixel's smoothing in it, sampled at the pixels, odd-sized, of sum one.
    model : ndarray
        The noise-free image.
    renderer : MoffatRenderer
        Draws the objects.
    pixel_scale : Quantity
        Angle per pixel.
    effective_gain : Quantity, optional
        Electrons for each unit of flux, where the objects have photon noise of their own. The
        image's standard deviation is that of the background alone.
    """

    image: CCDData
    catalog: QTable
    psf: np.ndarray
    model: np.ndarray
    renderer: MoffatRenderer
    pixel_scale: u.Quantity
    effective_gain: u.Quantity | None = None

    def render(self, rows, x0=0, y0=0, shape=None):
        """Noise-free image of some objects.

        Parameters
        ----------
        rows : array_like of int
            Rows of the catalog.
        x0, y0 : int
            The field's pixel at the image's first pixel.
        shape : tuple of int, optional
            ``(ny, nx)``; by default the field's.

        Returns
        -------
        Quantity of shape (ny, nx)
            Flux per pixel.
        """
        shape = self.model.shape if shape is None else tuple(shape)
        image = render(
            self.renderer,
            self.catalog,
            np.atleast_1d(rows),
            self.pixel_scale,
            self._sigma,
            (x0, y0),
            shape,
        )
        return image << self.image.unit

    def match(self, positions, *, radius=2.0):
        """The true object behind each detected position.

        Of all objects within ``radius`` the brightest is taken, since that is the one that a
        detection saw; in a field this deep the nearest is often one far below the noise.

        Parameters
        ----------
        positions : SkyCoord or array_like of shape (N, 2)
            Sky coordinates, or ``(x, y)`` in pixels.
        radius : float
            Largest separation, in pixels.

        Returns
        -------
        ndarray of int, shape (N,)
            Rows of the catalog; -1 where nothing lies within the radius.
        """
        xy = self._pixels(positions)
        tree = cKDTree(np.column_stack([self.catalog["x"], self.catalog["y"]]))
        flux = self.catalog["flux"].value
        found = tree.query_ball_point(xy, radius)
        return np.array([max(near, key=flux.__getitem__, default=-1) for near in found], dtype=int)

    def truth(self, positions, size, *, radius=2.0):
        """What lies at detected galaxies: each galaxy alone, and everything else.

        Parameters
        ----------
        positions : SkyCoord or array_like of shape (N, 2)
            Sky coordinates, or ``(x, y)`` in pixels. A cutout's pixel ``size // 2`` is the pixel
            that holds the position, as in a dataset made of the field.
        size : int
            Pixels on a side.
        radius : float
            Largest separation of a true galaxy from its position, in pixels.

        Returns
        -------
        TruthCutouts
        """
        xy = self._pixels(positions)
        corners = np.rint(xy).astype(int) - size // 2
        return self._truth(xy, corners, (size, size), radius)

    def truth_of(self, view, *, radius=2.0):
        """The truth on the very pixels of a view's cutouts, placed by each cutout's own WCS.

        Parameters
        ----------
        view : View
            Observations cut from this field, with their WCS and coordinates.
        radius : float
            Largest separation of a true galaxy from its position, in pixels.

        Returns
        -------
        TruthCutouts

        Raises
        ------
        InputError
            If the view has no WCS or coordinates.
        """
        if view.wcs is None or view.coordinates is None:
            raise InputError(
                f"view {view.name!r}: no WCS or coordinates, expected a view of this field"
            )
        # Plain angles, since a cutout of this field shares its frame.
        first = np.array([wcs.pixel_to_world_values(0, 0) for wcs in view.wcs])
        corners = np.column_stack(self.image.wcs.world_to_pixel_values(*first.T))
        corners = np.rint(corners).astype(int)
        shape = view.data.shape[-2:]
        return self._truth(self._pixels(view.coordinates), corners, shape, radius)

    def write(self, path, overwrite=False):
        """Write the field: SCI, ERR, MASK (1 is bad), PSF, and the table TRUTH.

        The keyword EFFGAIN of SCI holds the effective gain, where there is one.

        Parameters
        ----------
        path : path-like
            A FITS file.
        overwrite : bool
            Whether an existing file is replaced.

        Raises
        ------
        InputError
            If the file exists and may not be replaced, or its folder does not exist.
        """
        header = self.image.wcs.to_header()
        header["BUNIT"] = self.image.unit.to_string("fits")
        if self.effective_gain is not None:
            header["EFFGAIN"] = self.effective_gain.value, "electrons per unit of flux"
        flags = self.image.wcs.to_header()
        table = self.catalog.copy()
        table["ra"], table["dec"] = table["sky_coord"].ra, table["sky_coord"].dec
        table.remove_column("sky_coord")
        table = fits.table_to_hdu(table)
        table.name = "TRUTH"
        planes = [
            fits.ImageHDU(self.image.data.astype(np.float32), header, name="SCI"),
            fits.ImageHDU(self.image.uncertainty.array.astype(np.float32), header, name="ERR"),
            fits.ImageHDU(self.image.mask.astype(np.uint8), flags, name="MASK"),
            fits.ImageHDU(self.psf.astype(np.float64), name="PSF"),
        ]
        write_fits(fits.HDUList([fits.PrimaryHDU(), *planes, table]), path, overwrite=overwrite)

    @functools.cached_property
    def _sigma(self):
        return float(np.median(self.image.uncertainty.array))

    def _pixels(self, positions):
        if isinstance(positions, SkyCoord):
            return np.column_stack(self.image.wcs.world_to_pixel(positions)).reshape(-1, 2)
        return np.asarray(positions, dtype=float).reshape(-1, 2)

    def _truth(self, xy, corners, shape, radius):
        rows = self.match(xy, radius=radius)
        is_galaxy = np.asarray(self.catalog["kind"] == "galaxy")
        rows[~is_galaxy[rows]] = -1
        everything = cut(self.model, corners, shape)
        galaxy = np.full_like(everything, np.nan)
        for i in np.flatnonzero(rows >= 0):
            galaxy[i] = self.render(rows[i], *corners[i], shape).value
        unit = self.image.unit
        los = everything - galaxy
        return TruthCutouts(galaxy[:, None] << unit, los[:, None] << unit, rows >= 0, rows)
