"""DES: coadd tiles and single exposures, with ``SCI``, ``MSK`` and ``WGT``, an inverse variance.

Bits of the mask: ``maskbits.h`` of DESDM (despyfits), and Morganson et al. 2018. What is "nominally
useful", suspect by its place or corrected is none that makes a pixel bad, nor is the light of a
bright star. Pixels of coadds have the AB zero point 30, those of exposures that of ``MAGZERO`` or
``SCAMPZPT``.

References
----------
Morganson et al. 2018, PASP 130, 074501.
"""

from .fits import Layout, number_of, register_layout

__all__ = ["BAD", "BITS"]

BITS = {
    "BPM": 1, "SATURATE": 2, "INTERP": 4, "BADAMP": 8, "CRAY": 16, "STAR": 32, "TRAIL": 64,
    "EDGEBLEED": 128, "SSXTALK": 256, "EDGE": 512, "STREAK": 1024, "SUSPECT": 2048, "FIXED": 4096,
    "NEAREDGE": 8192, "TAPEBUMP": 16384,
}  # fmt: skip
BAD = ("BPM", "SATURATE", "BADAMP", "CRAY", "TRAIL", "EDGEBLEED", "SSXTALK", "EDGE", "STREAK")


def _zero_point(header):
    return number_of(header, "MAGZERO", "SCAMPZPT")


register_layout(
    Layout(
        "des",
        lambda names, _header: {"SCI", "MSK", "WGT"} <= set(names),
        kinds={"WGT": "ivar"},
        bits=BITS,
        bad=BAD,
        zero_point=_zero_point,
    )
)
