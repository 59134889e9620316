"""One or more bands of a survey image on one pixel grid: flux, noise, mask and WCS."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from astropy import units as u
from astropy.wcs import WCS

from ..errors import InputError
from ..units import AB_FLUX

__all__ = ["SurveyImage", "stack_bands"]

GRID_TOLERANCE = 0.1  # pixels, between bands on one grid


@dataclass(frozen=True)
class SurveyImage:
    """One or more bands of one field on one pixel grid.

    Parameters
    ----------
    data : (bands, ny, nx) `~numpy.ndarray`
        Flux of each pixel, in ``unit``.
    variance : (bands, ny, nx) `~numpy.ndarray`
        Noise variance, in ``unit**2``; infinite at masked pixels.
    mask : (bands, ny, nx) bool `~numpy.ndarray`
        `True` where a pixel carries no information.
    wcs : `~astropy.wcs.WCS`
        Celestial WCS of the pixel grid.
    unit : `~astropy.units.UnitBase`
        Unit of the flux.
    names : tuple of str
        Name of each band.
    saturated : (bands, ny, nx) bool `~numpy.ndarray`
        `True` at saturated stars; these pixels are masked too.
    filename : str
        Where the image comes from, for messages.
    files : tuple of str
        Names of the files, without their folders.
    effective_gain : (bands, ny, nx) `~numpy.ndarray`, optional
        Electrons for each unit of flux, infinite at masked pixels. The sources then have photon
        noise of their own, and ``variance`` is that of the background alone.
    psf : optional
        The PSF that the image brings along, as `~astro_ddprism.psf.open_psf` takes it.
    provenance : tuple of str
        What served as flux, noise, mask, ...: a line for each.
    """

    data: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    wcs: WCS
    unit: u.UnitBase
    names: tuple[str, ...]
    saturated: np.ndarray
    filename: str = "image"
    files: tuple[str, ...] = ()
    effective_gain: np.ndarray | None = None
    psf: object = None
    provenance: tuple[str, ...] = ()

    @property
    def shape(self):
        """Bands, rows and columns."""
        return self.data.shape

    @property
    def n_bands(self):
        """Number of bands."""
        return len(self.data)

    @property
    def pixel_type(self):
        """Type of the flux."""
        return self.data.dtype

    @property
    def has_gain(self):
        """Whether sources have photon noise of their own."""
        return self.effective_gain is not None

    def planes(self, rows, columns):
        """Parts of all planes.

        Parameters
        ----------
        rows, columns : slice
            The part.

        Returns
        -------
        dict of str to (bands, ny, nx) `~numpy.ndarray`
            ``data``, ``variance``, ``mask``, ``saturated`` and, where there is one,
            ``effective_gain``.
        """
        names = ["data", "variance", "mask", "saturated", *["effective_gain"] * self.has_gain]
        return {name: getattr(self, name)[:, rows, columns] for name in names}

    def with_planes(self, planes):
        """The image with other planes, such as parts of its own side by side.

        Parameters
        ----------
        planes : dict of str to (bands, ny, nx) `~numpy.ndarray`
            As of `planes`.

        Returns
        -------
        `SurveyImage`
            Its WCS is that of the whole.
        """
        return replace(self, **planes)

    def scaled(self, factor, unit):
        """The image with its flux multiplied by a factor.

        Parameters
        ----------
        factor : float
            What the pixels are multiplied by.
        unit : `~astropy.units.UnitBase`
            The unit of the products.

        Returns
        -------
        `SurveyImage`
        """
        gain = self.effective_gain
        return replace(
            self,
            data=self.data * factor,
            variance=self.variance * factor**2,
            effective_gain=None if gain is None else gain / factor,
            unit=unit,
        )


def stack_bands(images: Sequence[SurveyImage]):
    """Make one image of several bands that lie on one pixel grid.

    Parameters
    ----------
    images : sequence of `SurveyImage`
        The bands, in order.

    Returns
    -------
    `SurveyImage`
        All bands, in the unit of the first, with its WCS.

    Raises
    ------
    InputError
        If shapes differ, the WCS disagree by more than a tenth of a pixel, or units cannot be
        converted.
    """
    images = list(images)
    if not images:
        raise InputError("images: found none, expected one or more")
    first = images[0]
    images = [first, *(_on_grid(image, first) for image in images[1:])]
    psfs = [image.psf for image in images]
    if any(psf is None for psf in psfs):
        psfs = None
    names = [name for image in images for name in image.names]
    if len(set(names)) < len(names):
        names = [f"band{i}" for i in range(len(names))]
    return SurveyImage(
        data=np.concatenate([image.data for image in images]),
        variance=np.concatenate([image.variance for image in images]),
        mask=np.concatenate([image.mask for image in images]),
        wcs=first.wcs,
        unit=first.unit,
        names=tuple(names),
        saturated=np.concatenate([image.saturated for image in images]),
        filename=", ".join(image.filename for image in images),
        files=tuple(dict.fromkeys(name for image in images for name in image.files)),
        effective_gain=_stack_gains(images),
        psf=psfs[0] if psfs and len(psfs) == 1 else psfs,
        provenance=_lines_of(images),
    )


def _lines_of(images):
    """What served as what in each image; with its name where there are several."""
    if len(images) == 1:
        return images[0].provenance
    return tuple(
        f"{' '.join(image.files) or image.filename}: {line}"
        for image in images
        for line in image.provenance
    )


def _stack_gains(images):
    """Bands without photon noise have infinitely many electrons."""
    if all(image.effective_gain is None for image in images):
        return None
    return np.concatenate(
        [
            np.full(image.shape, np.inf) if image.effective_gain is None else image.effective_gain
            for image in images
        ]
    )


def _on_grid(image, first):
    ny, nx = first.shape[1:]
    if image.shape[1:] != (ny, nx):
        raise InputError(
            f"{image.filename}: found {image.shape[1:]} pixels, expected the {(ny, nx)} of "
            f"{first.filename}; resample the bands to one pixel grid first"
        )
    x, y = np.array([0, nx - 1, 0, nx - 1, nx / 2]), np.array([0, 0, ny - 1, ny - 1, ny / 2])
    there = image.wcs.pixel_to_world(x, y)
    offset = np.hypot(*(np.array(first.wcs.world_to_pixel(there)) - [x, y])).max()
    if not offset < GRID_TOLERANCE:
        raise InputError(
            f"{image.filename}: found a pixel grid that is up to {offset:.3g} pixels off that of "
            f"{first.filename}, expected the same grid; resample the bands to one first"
        )
    if image.unit == first.unit:
        return image
    try:
        factor = image.unit.to(first.unit, equivalencies=AB_FLUX)
    except u.UnitConversionError as error:
        raise InputError(
            f"{image.filename}: found the unit {image.unit}, expected one that converts to the "
            f"{first.unit} of {first.filename}"
        ) from error
    return image.scaled(factor, first.unit)


def pixel_angle(image):
    """Angle of the side of a pixel.

    Parameters
    ----------
    image : `SurveyImage`
        The image.

    Returns
    -------
    `~astropy.units.Quantity`
    """
    return np.sqrt(image.wcs.proj_plane_pixel_area()).to(u.arcsec)


def image_middle(image):
    """Sky coordinate of the middle of an image."""
    ny, nx = image.shape[1:]
    return image.wcs.pixel_to_world((nx - 1) / 2, (ny - 1) / 2)
