"""One instrument's images of many positions, some of which it may not have seen."""

from dataclasses import dataclass, replace

import numpy as np
from astropy import units as u
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from ..errors import InputError
from ..frame import SourceFrame
from ..units import AB_FLUX
from .conditions import SurveyConditions

__all__ = ["Stamps", "stack_stamps"]


@dataclass(frozen=True)
class Stamps:
    """Images of one instrument, all of one shape, one for each position.

    Parameters
    ----------
    data, variance, mask : (N, bands, ny, nx) `~numpy.ndarray`
        Flux, noise variance and mask (`True`: no information, all over a missing image).
    saturated : (N, bands, ny, nx) bool `~numpy.ndarray`
        `True` at masked pixels of saturated stars.
    wcs : list of `~astropy.wcs.WCS` or None
        Celestial WCS of each image; None where it is missing.
    unit : `~astropy.units.UnitBase`
        Unit of the flux.
    labels : list of str
        What messages call the images: their files.
    autocorrelation : (bands, ky, kx) `~numpy.ndarray`, optional
        Correlation of the noise of neighbouring pixels.
    effective_gain : (N, bands, ny, nx) `~numpy.ndarray`, optional
        Electrons for each unit of flux.
    conditions : `~astro_ddprism.survey.conditions.SurveyConditions`, optional
        What the images are like.
    """

    data: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    saturated: np.ndarray
    wcs: list[WCS | None]
    unit: u.UnitBase
    labels: list[str]
    autocorrelation: np.ndarray | None = None
    effective_gain: np.ndarray | None = None
    conditions: SurveyConditions | None = None

    @property
    def shape(self):
        """Bands, rows and columns of an image."""
        return self.data.shape[1:]

    def __getitem__(self, rows) -> "Stamps":
        """Those of some positions, by an array of int."""
        names = ["data", "variance", "mask", "saturated"]
        if self.effective_gain is not None:
            names.append("effective_gain")
        arrays = {name: getattr(self, name)[rows] for name in names}
        lists = {name: [getattr(self, name)[i] for i in rows] for name in ("wcs", "labels")}
        return replace(self, **arrays, **lists)

    def complete_wcs(self, coordinates) -> list[WCS]:
        """A WCS for every position.

        Parameters
        ----------
        coordinates : `~astropy.coordinates.SkyCoord`, shape (N,)
            The positions.

        Returns
        -------
        list of `~astropy.wcs.WCS`
            Where the image is missing: centred on the position, north up, with pixels of the same
            size.
        """
        first = next(one for one in self.wcs if one is not None)
        scale = np.sqrt(np.prod(proj_plane_pixel_scales(first))) * u.deg
        nominal = SourceFrame(scale, (1, *self.shape[1:]))
        return [
            nominal.wcs(place) if one is None else one
            for one, place in zip(self.wcs, coordinates, strict=True)
        ]


def stack_stamps(images, autocorrelation=None) -> Stamps:
    """Put images of one instrument together.

    Parameters
    ----------
    images : sequence of `SurveyImage` or None
        The images, in the order of the positions; None where there is none.
    autocorrelation : (bands, ky, kx) `~numpy.ndarray`, optional
        Correlation of the noise of neighbouring pixels.

    Returns
    -------
    `Stamps`
        In the unit of the first image.

    Raises
    ------
    InputError
        If there is no image at all, or shapes or units differ.
    """
    known = [image for image in images if image is not None]
    if not known:
        raise InputError(f"found no image for any of {len(images)} observations, expected some")
    first = known[0]
    for image in known:
        if image.shape != first.shape or not image.unit.is_equivalent(first.unit, AB_FLUX):
            raise InputError(
                f"{image.filename}: found shape {image.shape} in {image.unit}, expected "
                f"{first.shape} in {first.unit} as in {first.filename}"
            )
    shape = len(images), *first.shape
    data, variance = np.zeros(shape), np.full(shape, np.inf)
    mask, saturated = np.ones(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for i, image in enumerate(images):
        if image is not None:
            factor = image.unit.to(first.unit, equivalencies=AB_FLUX)
            data[i], variance[i] = factor * image.data, factor**2 * image.variance
            mask[i], saturated[i] = image.mask, image.saturated
    gain = None
    if any(image.effective_gain is not None for image in known):
        gain = np.full(shape, np.inf)
        for i, image in enumerate(images):
            if image is not None and image.effective_gain is not None:
                factor = image.unit.to(first.unit, equivalencies=AB_FLUX)
                gain[i] = image.effective_gain / factor
    return Stamps(
        data=data,
        variance=variance,
        mask=mask,
        saturated=saturated,
        wcs=[None if image is None else image.wcs for image in images],
        unit=first.unit,
        labels=["no image" if image is None else image.filename for image in images],
        autocorrelation=autocorrelation,
        effective_gain=gain,
    )
