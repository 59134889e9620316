r"""What may be wrong with the measurements of an observation, as the bits of one integer.

They are about the surroundings of the object: the aperture in which its flux is measured or,
without one, a circle about its position with a radius of a quarter of the shorter side of its
pixels. Of several instruments, each that has seen the observation is asked, and the worst answer
counts.

A fit is bad where its residuals are larger than noise explains. At the truth, the sum of the
squared whitened residuals of :math:`n` valid pixels follows a :math:`\chi^2` distribution of
:math:`n` degrees of freedom; posterior samples that are as good as the truth have no larger ones on
average. Beyond its quantile of :math:`1 - 10^{-4}` the samples do not explain the observation, or
its noise is larger than was said.
"""

import enum

import numpy as np
from scipy.stats import chi2 as chi2_distribution

from .apertures import aperture_weights
from .grid import pixel_positions, pixel_scales
from .photometry import NEAR

__all__ = ["Quality", "Surroundings", "is_bad_fit"]

BAD_FIT_PROBABILITY = 1e-4  # that noise alone makes a residual larger than the limit


class Quality(enum.IntFlag):
    """What is wrong with an observation or with the measurements of a source in it.

    Examples
    --------
    >>> from astro_ddprism.posterior.quality import Quality
    >>> Quality(10)
    <Quality.EDGE|BAD_FIT: 10>
    """

    MASKED = 1
    """A part of the aperture carries no information."""
    EDGE = 2
    """The aperture, or the cutout, reaches over the edge of the image."""
    SATURATED = 4
    """The aperture holds pixels that are known to be saturated."""
    BAD_FIT = 8
    """The residuals are larger than noise explains."""
    UNDEFINED = 16
    """In some samples a measurement has no value."""


class Surroundings:
    """What is known of the pixels around the objects of some observations.

    Parameters
    ----------
    view : View or MultiInstrumentView
        The observations.
    grid : SourceGrid
        The pixels of their sources.
    radius : float or ndarray, shape (N,), optional
        Of the aperture, in pixels of the sources; a quarter of their shorter side by default.

    Attributes
    ----------
    masked_fraction : ndarray, shape (N,)
        The part of the aperture's area that carries no information, pixels off the image among it;
        in the worst band of the worst instrument.
    edge : ndarray of bool, shape (N,)
        Whether the aperture reaches over the edge of a cutout, or whole rows or columns at the edge
        of a cutout are masked, as they are where it reaches over the edge of the image.
    saturated : ndarray of bool, shape (N,)
        Whether pixels in the aperture are known to be saturated (`View.saturated
        <astro_ddprism.views.view.View>`).
    """

    def __init__(self, view, grid, radius=None):
        self.masked_fraction = np.zeros(len(view))
        self.edge, self.saturated = np.zeros((2, len(view)), dtype=bool)
        radius = NEAR * min(grid.shape) if radius is None else radius
        radius = np.broadcast_to(radius, len(view)).astype(float)
        for image in view.images.values():
            self._look(image, view.coordinates, grid, radius)

    def _look(self, image, coordinates, grid, radius):
        seen = image.n_valid() > 0
        shape, mask = image.data.shape[-2:], image.mask
        if mask.ndim < 3:  # a vector of numbers has no surroundings
            self.masked_fraction = np.maximum(self.masked_fraction, mask.mean(axis=1))
            if image.saturated is not None:
                self.saturated |= image.saturated.any(axis=1)
            return
        mask = mask.reshape(len(mask), -1, *shape)
        if image.wcs is grid.wcs and shape == grid.shape:
            positions = grid.positions
        else:
            positions = pixel_positions(image.wcs, coordinates, len(image), shape)
        radius = radius * _magnification(image, grid)
        weights = aperture_weights(positions, radius, shape)
        area = np.pi * radius**2
        informed = np.einsum("nyx,nbyx->nb", weights, ~mask).min(axis=1) / area
        # Rounding must not make a wholly valid aperture a masked one.
        masked = np.where(seen, np.clip(1 - informed.round(9), 0, 1), 0)
        self.masked_fraction = np.maximum(self.masked_fraction, masked)
        outside = weights.sum(axis=(1, 2)) < (1 - 1e-9) * area
        off = mask.all(axis=1)
        for border in (off[:, 0], off[:, -1], off[:, :, 0], off[:, :, -1]):
            outside |= border.all(axis=1)
        self.edge |= seen & outside
        if image.saturated is not None:
            saturated = image.saturated.reshape(mask.shape).any(axis=1)
            self.saturated |= ((weights > 0) & saturated).any(axis=(1, 2))


def is_bad_fit(chi2, n_valid):
    """Whether residuals are larger than noise explains.

    Parameters
    ----------
    chi2 : ndarray
        Reduced chi-squared; NaN where there are no samples.
    n_valid : ndarray of int
        Number of pixels that carry information.

    Returns
    -------
    bad : ndarray of bool
        False where no pixel does.

    Examples
    --------
    >>> from astro_ddprism.posterior.quality import is_bad_fit
    >>> is_bad_fit([1.0, 1.2, 1.2], [1024, 1024, 100]).tolist()
    [False, True, False]
    """
    n_valid = np.asarray(n_valid)
    limit = chi2_distribution.isf(BAD_FIT_PROBABILITY, np.maximum(n_valid, 1))
    return (n_valid > 0) & ~(np.asarray(chi2) * n_valid <= limit)  # NaN is no fit at all


def _magnification(image, grid):
    """Pixels of each image to one of its sources."""
    if grid.wcs is not None and image.wcs is not None:
        if image.wcs is grid.wcs:
            return 1.0
        return grid.pixel_scales / pixel_scales(image.wcs)
    # Without a WCS: sources and images show the same part of the sky.
    return min(image.data.shape[-2:]) / min(grid.shape)
