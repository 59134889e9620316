"""Euclid: VIS exposures (``euclid``), and all else (``euclid-mosaic``): MER mosaics, NISP.

VIS exposures hold ``3-4.F.SCI``, ``3-4.F.RMS``, ``3-4.F.FLG``, ... of every quadrant or CCD, and
``hdu="3-4.F.SCI"`` names one. MER mosaics are one image a file; their noise and flags are files of
their own, whose names end in other times, so that they are given (``uncertainty``, ``mask``). Their
pixels have the AB zero point of ``MAGZERO``.

Bits of the flags: Euclid data product description, "VIS flag map". Those of mosaics and of NISP are
others: without names all are bad, unless ``bad_bits`` tells which.
"""

from .fits import Layout, number_of, register_layout

__all__ = ["BAD", "BITS"]

BITS = {
    "INVALID": 1, "HOT": 2, "COLD": 4, "SAT": 8, "COSMIC": 16, "GHOST": 32, "QUADEDGE": 64,
    "BAD_COLUMN": 128, "BAD_CLUSTER": 256, "CR_REGION": 512, "OVRCOL": 4096, "EXTOBJ": 8192,
    "SCATLIGHT": 16384, "CHARINJ": 32768, "SATXTALKGHOST": 131072, "STARSIGNAL": 262144,
    "SATURATEDSTAR": 524288, "CTICORRECTION": 1048576, "ADCMAX": 2097152, "NO_DATA": 4194304,
    "STITCHBLOCK": 8388608, "OBJECTS": 16777216,
}  # fmt: skip
BAD = (
    "INVALID", "HOT", "COLD", "SAT", "COSMIC", "GHOST", "BAD_COLUMN", "BAD_CLUSTER", "OVRCOL",
    "CHARINJ", "SATXTALKGHOST", "SATURATEDSTAR", "ADCMAX", "NO_DATA",
)  # fmt: skip


def _is_euclid(header):
    return str(header.get("TELESCOP", "")).strip().upper() == "EUCLID"


def _is_vis(names, header):
    of_vis = "NIS" not in str(header.get("INSTRUME", "")).upper()
    return _is_euclid(header) and of_vis and any(name.endswith(".SCI") for name in names)


def _zero_point(header):
    return number_of(header, "MAGZERO")


register_layout(Layout("euclid", _is_vis, bits=BITS, bad=BAD, zero_point=_zero_point))
register_layout(
    Layout(
        "euclid-mosaic",
        lambda names, header: _is_euclid(header) and not _is_vis(names, header),
        zero_point=_zero_point,
    )
)
