"""Where images lie on the sky, and in which of several that overlap a place lies deepest."""

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from scipy.spatial import KDTree

from .mosaic import open_image

__all__ = ["Footprint", "neighbours"]


@dataclass(frozen=True)
class Footprint:
    """The place of an image.

    Parameters
    ----------
    header : str
        Of its celestial WCS.
    shape : tuple of int
        ``(ny, nx)``.
    """

    header: str
    shape: tuple[int, int]

    @classmethod
    def of(cls, bands) -> "Footprint":
        """That of an image in files, of which no more than the middle is read where that can be.

        Parameters
        ----------
        bands : sequence of (path, dict)
            As of `~astro_ddprism.survey.mosaic.open_image`.
        """
        image = open_image(bands, large=0)
        header = image.wcs.to_header(relax=True).tostring()
        return cls(header, tuple(int(n) for n in image.shape[1:]))

    @cached_property
    def wcs(self) -> WCS:
        """The WCS, as far as a header tells it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            return WCS(fits.Header.fromstring(self.header))

    @cached_property
    def scale(self) -> u.Quantity:
        """Side of a pixel."""
        return np.sqrt(self.wcs.proj_plane_pixel_area()).to(u.arcsec)

    @cached_property
    def centre(self) -> SkyCoord:
        """The middle, in ICRS."""
        return self.wcs.pixel_to_world((self.shape[1] - 1) / 2, (self.shape[0] - 1) / 2).icrs

    @cached_property
    def radius(self) -> u.Quantity:
        """Of a circle about the middle that holds all of it, with a percent to spare."""
        y, x = (np.array([0, 0, n - 1, n - 1]) for n in self.shape)
        x = x[[0, 2, 0, 2]]
        corners = self.wcs.pixel_to_world(x, y).icrs
        return 1.01 * corners.separation(self.centre).max() + 2 * self.scale

    def depth(self, coordinates) -> np.ndarray:
        """How far from the nearest edge places are, in arcseconds; negative off the image.

        Parameters
        ----------
        coordinates : `~astropy.coordinates.SkyCoord`, shape (N,)

        Returns
        -------
        depth : ndarray, shape (N,)
            Minus infinity on the other side of the sky.
        """
        depth = np.full(len(coordinates), -np.inf)
        near = coordinates.separation(self.centre) < 2 * self.radius
        if near.any():
            x, y = self.wcs.world_to_pixel(coordinates[near])
            ny, nx = self.shape
            edges = [x + 0.5, nx - 0.5 - x, y + 0.5, ny - 0.5 - y]
            depth[near] = np.nan_to_num(np.min(edges, axis=0), nan=-np.inf) * self.scale.value
        return depth


def neighbours(footprints) -> dict[str, list[tuple[str, bool]]]:
    """Which of many images may overlap.

    Parameters
    ----------
    footprints : mapping of str to Footprint

    Returns
    -------
    neighbours : dict of str to list of (str, bool)
        For each image the names of the others, in their order, and whether they come before it.
    """
    names = list(footprints)
    if not names:
        return {}
    centres = SkyCoord([one.centre for one in footprints.values()]).cartesian.xyz.value.T
    radii = np.array([one.radius.to_value(u.rad) for one in footprints.values()])
    near = KDTree(centres).query_ball_tree(KDTree(centres), 2 * radii.max())
    found = {}
    for i, others in enumerate(near):
        apart = np.linalg.norm(centres[others] - centres[i], axis=1)  # less than the angle
        meets = np.array(others)[apart < radii[i] + radii[others]]
        found[names[i]] = [(names[k], k < i) for k in sorted(meets.tolist()) if k != i]
    return found
