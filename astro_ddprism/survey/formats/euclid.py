"""Euclid: VIS exposures and MER mosaics.

VIS exposures hold ``1-1.SCI``, ``1-1.RMS``, ``1-1.FLG``, ... of every CCD, and ``hdu="1-1.SCI"``
names one. MER mosaics are one image a file; their noise and flags are files of their own, whose
names end in other times, so that they are given (``uncertainty``, ``mask``).

Bits of the flags: Euclid data product description, VIS "calibrated quad frame". Pixels of mosaics
have the AB zero point of ``MAGZERO``.
"""

from .fits import Layout, register_layout

__all__ = ["BAD", "BITS", "is_euclid", "zero_point"]

BITS = {
    "INVALID": 1, "HOT": 2, "COLD": 4, "SAT": 8, "COSMIC": 16, "GHOST": 32, "BAD_COLUMN": 128,
    "BAD_CLUSTER": 256, "CR_REGION": 512, "OVRCOL": 4096, "EXTOBJ": 8192, "SCATLIGHT": 16384,
    "CHARINJ": 32768, "NEARCHARINJ": 65536, "STARSIGNAL": 524288, "SATURATEDSTAR": 1048576,
}  # fmt: skip
BAD = (
    "INVALID", "HOT", "COLD", "SAT", "COSMIC", "GHOST", "BAD_COLUMN", "BAD_CLUSTER", "CR_REGION",
    "OVRCOL", "CHARINJ", "SATURATEDSTAR",
)  # fmt: skip


def is_euclid(_names, header):
    """Whether headers are of Euclid.

    Parameters
    ----------
    _names : tuple of str
        Names of the extensions.
    header : mapping
        Their keywords.

    Returns
    -------
    bool
    """
    return str(header.get("TELESCOP", "")).strip().upper() == "EUCLID"


def zero_point(header):
    """The keyword ``MAGZERO``.

    Parameters
    ----------
    header : mapping
        Keywords of the image.

    Returns
    -------
    float or None
    """
    value = header.get("MAGZERO", header.get("MAGZEROP"))
    return float(value) if isinstance(value, int | float) else None


register_layout(Layout("euclid", is_euclid, bits=BITS, bad=BAD, zero_point=zero_point))
