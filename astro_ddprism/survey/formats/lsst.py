"""LSST and HSC: exposures and coadds with ``IMAGE``, ``MASK`` and ``VARIANCE``.

The header of the mask names its bits (``MP_SAT = 1``); those that mean defects are bad,
``DETECTED`` is none. LSST images are in nJy; HSC coadds are counts of the AB zero point in
``FLUXMAG0``, which is applied where they state no unit.

In a coadd (known by the bits that coaddition adds) most bits tell that *one* of its exposures was
left out: cosmic rays, edges of sensors, crosstalk. The others make the pixel, and it is not bad
(dp1.lsst.io, "Deep and template coadd mask planes").
"""

import numpy as np

from .fits import Layout, number_of, register_layout

__all__ = ["BAD", "BAD_IN_COADDS", "BITS"]

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
BAD_IN_COADDS = ("BAD", "SAT", "NO_DATA", "UNMASKEDNAN")
OF_COADDS = {"REJECTED", "CLIPPED", "INEXACT_PSF", "SENSOR_EDGE"}


def _bad(names):
    return BAD_IN_COADDS if names & OF_COADDS else BAD


def _is_exposure(names, _header):
    return names[1:4] == ("IMAGE", "MASK", "VARIANCE")


def _zero_point(header):
    counts = number_of(header, "FLUXMAG0")
    return float(2.5 * np.log10(counts)) if counts is not None and counts > 0 else None


register_layout(Layout("lsst", _is_exposure, bits=BITS, bad=_bad, zero_point=_zero_point))
