"""Hubble: drizzled images (``drz``, ``drc``) and calibrated exposures (``flc``, ``flt``).

Drizzled images hold ``SCI``, ``WHT`` and ``CTX``, or lie in files of their own (``_sci.fits``
beside ``_wht.fits``); the weight is an exposure time or an inverse variance, and in both cases its
factor is told by the sky. Exposures hold ``SCI``, ``ERR`` and ``DQ`` of every chip, by ``EXTVER``.

Bits of ``DQ``: ACS Data Handbook, table 3.3, and WFC3 Data Handbook, table 3.3. The AB zero point
comes from ``PHOTFLAM`` and ``PHOTPLAM``, for electrons per second; ``zero_point="header"`` asks
for it.
"""

import numpy as np

from .fits import Layout, number_of, register_layout

__all__ = ["BAD", "BITS"]

BITS = {
    "RS_ERROR": 1, "FILL": 2, "BAD_DETECTOR": 4, "MASKED": 8, "HOT": 16, "UNSTABLE": 32,
    "WARM": 64, "BIAS": 128, "SATURATED": 256, "BAD_FLAT": 512, "TRAP": 1024,
    "ATOD_SATURATED": 2048, "CR_DRIZZLE": 4096, "CR_REJECTED": 8192, "USER": 16384,
}  # fmt: skip
# Warm pixels are calibrated, and traps are flat-fielded.
BAD = (
    "RS_ERROR", "FILL", "BAD_DETECTOR", "MASKED", "HOT", "BIAS", "SATURATED", "BAD_FLAT",
    "ATOD_SATURATED", "CR_DRIZZLE", "CR_REJECTED",
)  # fmt: skip


def _zero_point(header):
    """AB magnitude of a pixel value of 1, from the mean flux density that makes one electron."""
    flam, pivot = (number_of(header, name) or 0 for name in ("PHOTFLAM", "PHOTPLAM"))
    if flam <= 0 or pivot <= 0:
        return None
    zero = -2.5 * np.log10(flam) - 5 * np.log10(pivot) - 2.408
    if "/S" in str(header.get("BUNIT", "")).upper().replace(" ", ""):
        return float(zero)
    time = number_of(header, "EXPTIME") or 0
    return float(zero + 2.5 * np.log10(time)) if time > 0 else None


register_layout(
    Layout(
        "hst",
        lambda _names, header: header.get("TELESCOP") == "HST",
        siblings={"weight": ("_sci", "_wht")},
        bits=BITS,
        bad=BAD,
        zero_point=_zero_point,
    )
)
