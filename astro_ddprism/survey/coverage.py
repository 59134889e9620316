"""Areas of an image without data, where nothing else tells of them.

Mosaics are filled up where no exposure reaches, with zeros or with a number below all others. Such
an area is told by its pixels: a connected area of one and the same value, wide enough that each
pixel has neighbours of it all around, in an image whose other pixels do not have it. In a
photon-counting image zeros are everywhere, and are data.
"""

import numpy as np
from scipy.ndimage import binary_opening, label

__all__ = ["without_data"]

MIN_AREA = 64  # pixels
MAX_REST = 0.01  # of the other pixels that may have the value by chance
AROUND = np.ones((3, 3), dtype=bool)


def without_data(data, bad, *, whole=True):
    """Find the areas that hold one and the same value: zero, or the least of the image.

    Parameters
    ----------
    data : (ny, nx) `~numpy.ndarray`
        The image.
    bad : (ny, nx) bool `~numpy.ndarray`
        Pixels that are known to hold no data.
    whole : bool
        Whether this is all of the image: a part may hold nothing but such an area, while an image
        of one value is left as it is.

    Returns
    -------
    (ny, nx) bool `~numpy.ndarray`
        `True` in such areas.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_ddprism.survey.coverage import without_data
    >>> image = np.random.default_rng(0).normal(size=(64, 64))
    >>> image[:, :20] = 0
    >>> bool((without_data(image, np.zeros((64, 64), bool)) == (image == 0)).all())
    True
    """
    empty = np.zeros(data.shape, dtype=bool)
    if bad.all():
        return empty
    for value in {0.0, float(np.min(data, initial=np.inf, where=~bad))}:
        area = _area_of(data == value, bad, whole)
        if area is not None:
            empty |= area
    return empty


def _area_of(same, bad, whole):
    if np.count_nonzero(same) < MIN_AREA:
        return None
    padded = np.pad(same | bad, 1, constant_values=True)  # what lies outside holds no data either
    wide = binary_opening(padded, AROUND)[1:-1, 1:-1] & same
    labels, _ = label(wide, AROUND)
    large = np.bincount(labels.ravel()) >= MIN_AREA
    large[0] = False
    area = large[labels]
    rest = ~area & ~bad
    if not rest.any():
        return None if whole else area
    if not area.any() or np.count_nonzero(same & rest) >= MAX_REST * np.count_nonzero(rest):
        return None
    return area
