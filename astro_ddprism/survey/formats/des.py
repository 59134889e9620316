"""DES: coadd tiles and single exposures, with ``SCI``, ``MSK`` and ``WGT``, an inverse variance.

Bits of the mask: DESDM, single-epoch images, table "BADPIX flags". Pixels of coadds have the AB
zero point 30, those of exposures that of ``MAGZERO`` or ``SCAMPZPT``.
"""

from .fits import Layout, register_layout

__all__ = ["BAD", "BITS", "zero_point"]

BITS = {
    "BPM": 1, "SATURATE": 2, "INTERP": 4, "BADAMP": 8, "CRAY": 16, "STAR": 32, "TRAIL": 64,
    "EDGEBLEED": 128, "SSXTALK": 256, "EDGE": 512, "STREAK": 1024, "SUSPECT": 2048, "FIXED": 4096,
    "NEAREDGE": 8192, "TAPEBUMP": 16384,
}  # fmt: skip
BAD = (
    "BPM", "SATURATE", "BADAMP", "CRAY", "TRAIL", "EDGEBLEED", "SSXTALK", "EDGE", "STREAK",
    "SUSPECT", "NEAREDGE", "TAPEBUMP",
)  # fmt: skip


def zero_point(header):
    """The keyword ``MAGZERO``, or ``SCAMPZPT``.

    Parameters
    ----------
    header : mapping
        Keywords of the image.

    Returns
    -------
    float or None
    """
    value = header.get("MAGZERO", header.get("SCAMPZPT"))
    return float(value) if isinstance(value, int | float) else None


register_layout(
    Layout(
        "des",
        lambda names, _header: {"SCI", "MSK", "WGT"} <= set(names),
        kinds={"WGT": "ivar"},
        bits=BITS,
        bad=BAD,
        zero_point=zero_point,
    )
)
