"""LSST and HSC: exposures and coadds with ``IMAGE``, ``MASK`` and ``VARIANCE``.

The header of the mask names its bits (``MP_SAT = 1``); those that mean defects are bad,
``DETECTED`` is none. LSST images are in nJy; HSC coadds are counts of the AB zero point in
``FLUXMAG0``, which is applied where they state no unit.
"""

import numpy as np

from .fits import Layout, register_layout

__all__ = ["BAD", "BITS", "is_exposure", "zero_point"]

# Where the header of a mask does not name its bits.
BITS = {
    "BAD": 1, "SAT": 2, "INTRP": 4, "CR": 8, "EDGE": 16, "DETECTED": 32, "DETECTED_NEGATIVE": 64,
    "SUSPECT": 128, "NO_DATA": 256,
}  # fmt: skip
# Interpolated pixels are filled from their neighbours; those of coadds mostly hold other exposures.
BAD = (
    "BAD", "SAT", "CR", "EDGE", "SUSPECT", "NO_DATA", "UNMASKEDNAN", "SENSOR_EDGE", "VIGNETTED",
    "PARTLY_VIGNETTED", "STREAK", "ITL_DIP",
)  # fmt: skip


def is_exposure(names, _header):
    """Whether a file has the extensions of an exposure.

    Parameters
    ----------
    names : tuple of str
        Names of the extensions.
    _header : mapping
        Their keywords.

    Returns
    -------
    bool
    """
    return names[1:4] == ("IMAGE", "MASK", "VARIANCE")


def zero_point(header):
    """AB magnitude of a count, from the counts of magnitude 0.

    Parameters
    ----------
    header : mapping
        Keywords of the image.

    Returns
    -------
    float or None
    """
    counts = header.get("FLUXMAG0")
    return float(2.5 * np.log10(counts)) if isinstance(counts, int | float) and counts > 0 else None


register_layout(Layout("lsst", is_exposure, bits=BITS, bad=BAD, zero_point=zero_point))
