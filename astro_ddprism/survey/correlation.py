"""How strongly neighbouring pixels of an image share their noise.

Resampled and drizzled images share noise between neighbours, at a range of a few pixels that is the
same all over the image. It is measured in the image's blank sky.
"""

import logging

import numpy as np

from ..errors import InputError
from .noise import estimate_autocorrelation

__all__ = ["autocorrelation_of"]

logger = logging.getLogger(__name__)


def autocorrelation_of(images, max_lag):
    """Measure how strongly neighbouring pixels share their noise, band by band.

    Parameters
    ----------
    images : sequence of `SurveyImage`
        Images of one instrument, all of one shape.
    max_lag : int or None
        The largest distance of two pixels, along both axes. None: they are independent.

    Returns
    -------
    (bands, 2 max_lag + 1, 2 max_lag + 1) `~numpy.ndarray`, or None

    Raises
    ------
    InputError
        If it cannot be measured, naming the file.
    """
    if max_lag is None:
        return None
    label, patches = images[0].filename, []
    if len(images) > 1:
        label += f" and {len(images) - 1} more"
    for band, name in enumerate(images[0].names):
        try:
            patch = estimate_autocorrelation(
                np.stack([image.data[band] for image in images]),
                mask=np.stack([image.mask[band] for image in images]),
                max_lag=max_lag,
            )
        except InputError as error:
            raise InputError(f"{label}, {name}: correlated_noise: {error}") from error
        middle = patch[max_lag, max_lag + 1], patch[max_lag + 1, max_lag]
        logger.info("%s, %s: noise of neighbours correlated by %.2f, %.2f", label, name, *middle)
        patches.append(patch)
    return np.stack(patches)
