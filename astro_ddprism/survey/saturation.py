r"""Saturated stars of an image that does not tell its saturation level.

A star's brightest pixel stands in a fixed proportion to the flux around it, that of the PSF, until
the detector saturates: from there on the flux around it grows and the pixel does not. With

.. math:: q = \frac{\text{sum over the } 7 \times 7 \text{ pixels around a peak}}{\text{peak}} ,

stars share one :math:`q_0` and saturated stars have more. Galaxies have more too, but their peaks
are not the brightest of the image. So among the peaks in order of falling brightness there is first
a run of flat ones (:math:`q > 1.2\,q_0`), then a run of sharp ones; the level is the peak value
that separates the two runs best.
"""

import logging

import numpy as np
from scipy.ndimage import binary_dilation, label, maximum_filter, uniform_filter

__all__ = ["find_saturation"]

logger = logging.getLogger(__name__)

BRIGHT = 100  # peaks below this many standard deviations say nothing about saturation
FLAT = 1.2  # in units of q_0
MINIMUM = 3  # by so many must flat peaks outnumber sharp ones above the level
PLATEAU = 2.5  # saturated peaks lie within this factor of one another
SHOULDER = 0.05  # of the level: a saturated star is masked down to here
MARGIN = 2  # pixels around, where bled charge leaves dark rims


def find_saturation(data, noise, *, mask=None):
    """Saturation level of an image, from the flat tops of its brightest stars.

    Parameters
    ----------
    data : (ny, nx) array_like
        The image, background subtracted.
    noise : float
        Standard deviation of a pixel of blank sky, in the unit of the data.
    mask : (ny, nx) bool array_like, optional
        Pixels to leave out are `True`.

    Returns
    -------
    float or None
        The pixel value from which on stars are saturated; `None` where no star is.
    """
    data = np.asarray(data)
    bad = ~np.isfinite(data)
    if mask is not None:
        bad |= np.asarray(mask, dtype=bool)
    clean = np.where(bad, 0, data)
    peaks = (clean == maximum_filter(clean, 9)) & (clean > BRIGHT * noise)
    y, x = np.nonzero(peaks & ~maximum_filter(bad, 9))
    if len(x) < 4 * MINIMUM:
        return None
    peak = clean[y, x]
    q = 49 * uniform_filter(clean.astype(float), 7, mode="constant")[y, x] / peak
    order = np.argsort(-peak)
    peak, q = peak[order], q[order]
    # Nothing is sharper than a star: the stars are the low end of the distribution.
    flat = q > FLAT * np.percentile(q, 25)
    lead = np.cumsum(np.where(flat, 1, -1))
    last = int(np.argmax(lead))
    if lead[last] < MINIMUM or peak[0] > PLATEAU * peak[last]:
        return None
    logger.info("saturation found at %.4g: %d flat peaks", peak[last], int(flat[: last + 1].sum()))
    return float(peak[last])


def grow_saturated(data, level):
    """Mask saturated pixels and the cores of their stars.

    Around a saturated pixel the response is not linear, and bled charge and its dark rims lie next
    to it: all pixels over 5 % of the level that are connected with a saturated one are masked too,
    and two more around those.

    Parameters
    ----------
    data : (ny, nx) `~numpy.ndarray`
        The image.
    level : float
        Saturation level in the unit of the data.

    Returns
    -------
    (ny, nx) bool `~numpy.ndarray`
        `True` at masked pixels.
    """
    with np.errstate(invalid="ignore"):
        saturated = data >= level
    if not saturated.any():
        return saturated
    islands, _ = label(np.nan_to_num(data, nan=np.inf) >= SHOULDER * level, np.ones((3, 3)))
    touched = np.unique(islands[saturated])
    return binary_dilation(np.isin(islands, touched), iterations=MARGIN)
