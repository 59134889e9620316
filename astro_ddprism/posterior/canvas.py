r"""Separated light pasted back onto the pixels of the image that it was cut out of.

Each cutout :math:`i` divides its light, seen through its mixing operators, into its own source
:math:`g_i` (the last of its sources: a galaxy) and the rest :math:`b_i`, which holds what the
neighbours send there. Where cutouts overlap, all galaxies are in the image, and they add:

.. math:: G = \sum_i g_i .

All light of the image is known from every cutout, and these estimates are averaged,

.. math:: M = \frac{\sum_i w_i (g_i + b_i)}{\sum_i w_i}, \qquad B = M - G ,

with weights :math:`w_i` that fall linearly to the edge of a cutout, so that no seam is seen. The
rest is :math:`B`: what is left of all light without the galaxies. So :math:`G + B` is the image, up
to its noise, wherever a cutout is; elsewhere no galaxy was found and nothing is known of the rest,
which is NaN.

Means of the posterior follow a part of the noise. Of draws that are right, what is left,
:math:`d - M`, has the variance :math:`\sigma^2 - v`, with the mean squared deviation :math:`v` of
the draws of all light from their mean (the variance of the noise is that of its posterior mean and
the posterior variance of it, which is that of the light; with few draws :math:`v` is as much
smaller as their mean scatters). The standard deviation that is found and the one that this makes
expect stand beside each other in the header of the residual.
"""

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.time import Time

from .. import __version__
from ..errors import InputError
from ..io.fits import write_fits

__all__ = ["Canvas"]

# How far from a whole number of pixels a cutout may lie, for the rounding of its WCS.
TOLERANCE = 1e-3


class Canvas:
    """The pixels of an image, onto which posterior samples are pasted.

    Parameters
    ----------
    image : `~astro_ddprism.survey.SurveyImage`
        The image: its pixels, noise, mask and WCS.

    Attributes
    ----------
    galaxies : ndarray, shape (bands, ny, nx)
        Sum of the separated galaxies, in ``image.unit``; 0 where there is none.
    coverage : ndarray of int, shape (ny, nx)
        Number of cutouts that hold a pixel.
    """

    def __init__(self, image):
        self.image = image
        shape = image.shape
        self.galaxies = np.zeros(shape, dtype=np.float32)
        self._light, self._weight = np.zeros(shape, np.float32), np.zeros(shape[1:], np.float32)
        self._followed = np.zeros(shape, np.float32)
        self.coverage = np.zeros(shape[1:], dtype=np.int16)
        self.source = None

    def add(self, samples) -> None:
        """Paste the posterior mean of some observations.

        Parameters
        ----------
        samples : PosteriorSamples
            Of cutouts of this image; those that reach over its edge are cut off there.

        Raises
        ------
        InputError
            If the observations have no WCS or lie on other pixels than the image, have other bands,
            or another unit.
        """
        view = samples.view
        shape = self.image.shape
        if list(view.images) != [""] or view.wcs is None or view.data.shape[1] != shape[0]:
            raise InputError(
                f"view {view.name!r}: found observations that are no cutouts of one image, "
                f"expected such of {shape[0]} bands, with WCS"
            )
        mean = samples.mean_sample()
        self.source = view.sources[-1]
        factor = u.Quantity(1, view.unit).to_value(self.image.unit)
        own = factor * mean.component(self.source).value[0]
        light = factor * mean.model().value[0]
        followed = np.nan_to_num(samples.residual_variance())
        weight = _weights(view.data.shape[-2:])
        for i in range(len(view)):
            here, part = self._place(view, i)
            self.galaxies[:, *here] += own[i][:, *part]
            self._light[:, *here] += (weight * light[i])[:, *part]
            self._followed[:, *here] += (weight * followed[i])[:, *part]
            self._weight[here] += weight[part]
            self.coverage[here] += 1

    def _place(self, view, i):
        """Where a cutout lies in the image, and which part of it does."""
        # The WCS of a cutout is that of the image, moved: its reference pixels tell by how much.
        sky = view.wcs[i].pixel_to_world(0, 0)
        x, y = (float(v) for v in self.image.wcs.world_to_pixel(sky))
        x0, y0 = round(x), round(y)
        if max(abs(x - x0), abs(y - y0)) > TOLERANCE:
            raise InputError(
                f"view {view.name!r}: observation {view.ids[i]}: found its first pixel at "
                f"({x:.3f}, {y:.3f}) of {self.image.filename}, expected whole pixels: it is no "
                "cutout of this image"
            )
        (ny, nx), (height, width) = view.data.shape[-2:], self.image.shape[1:]
        top, left, bottom, right = max(y0, 0), max(x0, 0), min(y0 + ny, height), min(x0 + nx, width)
        if top >= bottom or left >= right:
            raise InputError(f"view {view.name!r}: observation {view.ids[i]} lies off the image")
        here = slice(top, bottom), slice(left, right)
        return here, (slice(top - y0, bottom - y0), slice(left - x0, right - x0))

    @property
    def rest(self) -> np.ndarray:
        """All light but that of the galaxies: ndarray (bands, ny, nx); NaN without a cutout."""
        return self._model() - self.galaxies

    def residual(self) -> np.ndarray:
        """What neither explains, in units of the noise.

        Returns
        -------
        residual : ndarray, shape (bands, ny, nx)
            NaN at masked pixels and where there is no cutout.
        """
        image = self.image
        with np.errstate(invalid="ignore"):
            residual = (image.data - self._model()) / np.sqrt(image.variance)
        return np.where(image.mask, np.nan, residual).astype(np.float32)

    def residual_std(self) -> tuple[float, float]:
        """Standard deviation of `residual`, and that which the spread of the draws makes expect.

        Returns
        -------
        found, expected : float
            About zero, over all pixels that `residual` knows; NaN without one.
        """
        residual = self.residual()
        known = np.isfinite(residual)
        if not known.any():
            return np.nan, np.nan
        followed = (self._followed / np.maximum(self._weight, 1))[known]
        found = np.sqrt(np.mean(residual[known] ** 2, dtype=float))
        return float(found), float(np.sqrt(max(1 - np.mean(followed, dtype=float), 0)))

    def _model(self):
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._light / self._weight

    def hdus(self) -> fits.HDUList:
        """The tile as FITS extensions.

        Returns
        -------
        hdus : HDUList
            ``DATA`` (the image, NaN at masked pixels), ``GALAXY`` (or what the source is called),
            ``REST``, ``RESIDUAL`` (standardized) and ``COVERAGE``, all on the image's pixels with
            its WCS; of one band, without an axis of bands.
        """
        header = self.image.wcs.to_header(relax=True)
        primary = fits.PrimaryHDU()
        primary.header["CREATOR"] = "astro-ddprism"
        primary.header["DDPRISMV"] = __version__
        primary.header["DATE"] = Time.now().fits, "UTC of this file"
        data = np.where(self.image.mask, np.nan, self.image.data).astype(np.float32)
        name = (self.source or "galaxy").upper()
        planes = {"DATA": data, name: self.galaxies, "REST": self.rest}
        hdus = [primary]
        for extension, values in (*planes.items(), ("RESIDUAL", self.residual())):
            values = values[0] if len(values) == 1 else values
            hdus.append(fits.ImageHDU(values, header=header.copy(), name=extension))
            if extension != "RESIDUAL" and self.image.unit != u.one:
                hdus[-1].header["BUNIT"] = self.image.unit.to_string("fits")
        found, expected = self.residual_std()
        if np.isfinite(found):
            hdus[-1].header["RESSTD"] = found, "standard deviation, in units of the noise"
            hdus[-1].header["RESEXP"] = expected, "that which the spread of the draws expects"
        hdus.append(fits.ImageHDU(self.coverage, header=header.copy(), name="COVERAGE"))
        return fits.HDUList(hdus)

    def write(self, path, overwrite=False) -> None:
        """Write `hdus` as a FITS file, whole or not at all.

        Parameters
        ----------
        path : path-like
            The file to be.
        overwrite : bool
            Whether an existing file is replaced.

        Raises
        ------
        InputError
            If the file exists and may not be replaced.
        """
        write_fits(self.hdus(), path, overwrite)


def _weights(shape):
    """Distance from the edge in pixels, the first one being 1, to which an estimate is trusted."""
    across = [np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1)) for n in shape]
    return np.minimum.outer(*across).astype(np.float32)
