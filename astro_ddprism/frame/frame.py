r"""The pixel grid on which a source lives.

Images of one sky position by several instruments differ in pixels, rotation and PSF; what they show
of the source is one. A source therefore has pixels of its own: a tangential projection around the
coordinate of each observation, north up and east to the left unless turned, whose value in a pixel
is the light, seen through the frame's own PSF :math:`f`, at the middle of that pixel, times the
pixel's area:

.. math:: x_q = |\Delta|^2 \, (f * I)(\Delta q)

for pixels of side :math:`\Delta` and the sky's surface brightness :math:`I`. Such samples say all
about :math:`f * I` if :math:`f` lets nothing pass beyond their Nyquist frequency; a Gaussian with
a FWHM of 2.5 pixels lets 0.4 % pass there. Without a PSF of its own (None) the source is
*deconvolved* light.

An instrument then sees the source through the kernel that leads from :math:`f` to its own PSF,
which should not be sharper. So the frame chosen from images takes the finest of their pixels and,
so that its PSF is no wider than the sharpest of theirs, finer ones where needed.
"""

import math
import numbers
from dataclasses import dataclass

import numpy as np
from astropy import units as u
from astropy.wcs import WCS

from ..errors import InputError
from ..psf import PSF, GaussianPSF
from .pixelmap import fit_pixel_maps, pixel_axes, pixel_extent

__all__ = ["SourceFrame"]

_SAMPLING = 2.5  # pixels on the FWHM of the frame's PSF


@dataclass(frozen=True)
class SourceFrame:
    """The pixels of a source, around whatever coordinate an observation has.

    Parameters
    ----------
    scale : `~astropy.units.Quantity`
        Angle of a pixel's side.
    shape : tuple of int
        ``(bands, ny, nx)``. The coordinate lies in the middle of the array, at the zero-based
        pixel ``((nx - 1) / 2, (ny - 1) / 2)``.
    psf : `~astro_ddprism.psf.PSF`, optional
        What the source is seen through in its own pixels; None: it is deconvolved.
    position_angle : `~astropy.units.Quantity`, optional
        Direction of the y axis, from north through east.

    Raises
    ------
    InputError
        If the scale is no positive angle, the shape not of three positive sizes, or the PSF no PSF.

    Examples
    --------
    >>> from astropy import units as u
    >>> from astropy.coordinates import SkyCoord
    >>> from astro_ddprism.frame import SourceFrame
    >>> from astro_ddprism.psf import GaussianPSF
    >>> frame = SourceFrame(0.03 * u.arcsec, (1, 64, 64), psf=GaussianPSF(2.5 * u.pixel))
    >>> frame.wcs(SkyCoord(150.1, 2.2, unit="deg")).pixel_to_world(31.5, 31.5)
    <SkyCoord (ICRS): (ra, dec) in deg
        (150.1, 2.2)>
    """

    scale: u.Quantity
    shape: tuple[int, int, int]
    psf: PSF | None = None
    position_angle: u.Quantity = 0 * u.deg

    def __post_init__(self):
        _check_angle("position_angle", self.position_angle)
        _check_angle("scale", self.scale, positive=True)
        shape = tuple(self.shape)
        if len(shape) != 3 or any(int(size) != size or size < 1 for size in shape):
            raise InputError(f"shape: found {self.shape}, expected (bands, ny, nx), all positive")
        object.__setattr__(self, "shape", tuple(int(size) for size in shape))
        if self.psf is not None and not isinstance(self.psf, PSF):
            raise InputError(
                f"psf: found {type(self.psf).__name__}, expected one of astro_ddprism.psf or None"
            )
        if self.psf is not None and self.psf.n_bands not in (None, self.shape[0]):
            raise InputError(
                f"psf: found {self.psf.n_bands} bands, expected {self.shape[0]}, those of the frame"
            )

    @classmethod
    def from_images(
        cls,
        images,
        coordinates,
        *,
        n_bands=None,
        scale=None,
        size=None,
        position_angle=0 * u.deg,
        names=None,
    ):
        """The frame that does justice to several images of each source.

        Parameters
        ----------
        images : sequence of (wcs, shape, psf)
            For each instrument: the WCS of its image of each observation (or one for all), the
            images' shape ``(bands, ny, nx)``, and their `~astro_ddprism.psf.PSF`, or None if the
            source is to be deconvolved from nothing but pixels.
        coordinates : `~astropy.coordinates.SkyCoord`
            Where the source is in each observation.
        n_bands : int, optional
            Number of the source's bands; that of the images, if they agree.
        scale : `~astropy.units.Quantity`, optional
            Angle of a pixel's side. By default that of the smallest pixels of all, or 1 / 2.5 of
            the width of the sharpest PSF where that is less.
        size : int or `~astropy.units.Quantity`, optional
            Side of the frame, in its pixels or as an angle; by default it covers all images.
        position_angle : `~astropy.units.Quantity`, optional
            Direction of the y axis, from north through east.
        names : sequence of sequence of str, optional
            For each instrument, what messages call its images; their numbers by default.

        Returns
        -------
        SourceFrame
            With a Gaussian PSF of 2.5 of its pixels; without one if no image has a PSF.

        Raises
        ------
        InputError
            If there is no image, some have a PSF and some not, a WCS is not celestial or does not
            cover its source, or the images' bands differ and ``n_bands`` does not tell.
        """
        images = list(images)
        if not images:
            raise InputError("images: found none, expected at least one")
        if n_bands is None:
            found = {shape[0] for _, shape, _ in images}
            if len(found) > 1:
                raise InputError(
                    f"images: found some of {' and '.join(map(str, sorted(found)))} bands, "
                    "expected n_bands, the number of the source's"
                )
            n_bands = found.pop()
        if scale is not None:
            _check_angle("scale", scale, positive=True)
        if size is not None:
            _check_size(size)
        psfs = [psf for _, _, psf in images]
        if None in psfs and any(psfs):
            raise InputError(
                f"images: found no PSF for image {psfs.index(None)}, expected one for all or none"
            )
        finest, sharpest, extent = _measure(images, coordinates, position_angle, names)
        if scale is None:
            scale = finest if None in psfs else min(finest, sharpest / _SAMPLING)
        if isinstance(size, numbers.Integral):
            n = int(size)
        else:
            extent = 2 * extent if size is None else size
            n = math.ceil((extent / scale).to_value(u.one) - 1e-6)
        psf = None if None in psfs else GaussianPSF(_SAMPLING * u.pixel, includes_pixel=True)
        return cls(scale, (n_bands, n, n), psf=psf, position_angle=position_angle)

    @property
    def axes(self) -> np.ndarray:
        """Steps on the sky from pixel to pixel, in arcseconds and along the frame's own axes."""
        return np.eye(2) * self.scale.to_value(u.arcsec)

    def world_to_pixel(self, ra, dec, coordinates):
        """Positions in the frames around several coordinates.

        Parameters
        ----------
        ra, dec : (N, n) `~numpy.ndarray`
            ICRS, in degrees.
        coordinates : `~astropy.coordinates.SkyCoord`
            The middles of the ``N`` frames.

        Returns
        -------
        (N, 2, n) `~numpy.ndarray`
            Zero-based pixels x and y, NaN where the projection does not reach.
        """
        coordinates = coordinates.icrs
        middles = zip(coordinates.ra.deg, coordinates.dec.deg, strict=True)
        return np.stack(
            [
                self._wcs(*middle).wcs_world2pix(np.column_stack(sky), 0).T
                for middle, *sky in zip(middles, ra, dec, strict=True)
            ]
        )

    def wcs(self, coordinate) -> WCS:
        """The WCS of a source.

        Parameters
        ----------
        coordinate : `~astropy.coordinates.SkyCoord`
            Where the middle of the frame is.

        Returns
        -------
        `~astropy.wcs.WCS`
            Tangential, ICRS, of this frame's shape.
        """
        coordinate = coordinate.icrs
        return self._wcs(coordinate.ra.deg, coordinate.dec.deg)

    def _wcs(self, ra, dec):
        (ny, nx), angle = self.shape[1:], self.position_angle.to_value(u.rad)
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.radesys = "ICRS"
        wcs.wcs.crval = [ra, dec]
        wcs.wcs.crpix = [(nx + 1) / 2, (ny + 1) / 2]
        wcs.wcs.cdelt = np.array([-1, 1]) * self.scale.to_value(u.deg)
        wcs.wcs.pc = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        wcs.wcs.set()
        wcs.array_shape = (ny, nx)
        return wcs


def _check_angle(name, value, *, positive=False):
    if not isinstance(value, u.Quantity) or not value.unit.is_equivalent(u.deg):
        raise InputError(f"{name}: found {value!r}, expected an angle, with its unit")
    if not value.isscalar or not np.isfinite(value):
        raise InputError(f"{name}: found {value}, expected one finite angle")
    if positive and value <= 0:
        raise InputError(f"{name}: found {value}, expected a positive angle")


def _check_size(size):
    if isinstance(size, numbers.Integral):
        if size < 1:
            raise InputError(f"size: found {size}, expected a positive number of pixels")
    else:
        _check_angle("size", size, positive=True)


def _measure(images, coordinates, position_angle, names):
    """Smallest pixels, sharpest PSF and farthest pixel of several images, as angles."""
    arcsec = SourceFrame(1 * u.arcsec, (1, 1, 1), position_angle=position_angle)
    finest, sharpest, extent = math.inf, math.inf, 0
    for (wcs, shape, psf), labels in zip(images, names or [None] * len(images), strict=True):
        maps = fit_pixel_maps(wcs, shape[-2:], arcsec, coordinates, names=labels)
        axes = pixel_axes(maps, shape[-2:])
        finest = min(finest, np.sqrt(np.abs(np.linalg.det(axes))).min())
        half_pixel = np.abs(axes).sum(axis=2).max() / 2
        extent = max(extent, np.abs(pixel_extent(maps, shape[-2:])).max() + half_pixel)
        if psf is not None:
            # PSFs that change over the image change little in their width.
            place = coordinates if coordinates.isscalar else coordinates[0]
            sharpest = min(sharpest, psf.at(place).resolution(axes[0]))
    return finest * u.arcsec, sharpest * u.arcsec, extent * u.arcsec
