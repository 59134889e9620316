"""Pan-STARRS stacks: pixels on an asinh scale, ``.wt.fits`` and ``.mask.fits`` beside the image.

The asinh is undone by ``BSOFTEN`` and ``BOFFSET``; the weight is a variance. A stack's AB zero
point is 25 mag for a flux of 1 in one second.

Bits of the mask: outerspace.stsci.edu, "PS1 Pixel flags", where the header (``MSKNAM00``) names
none.
"""

import numpy as np

from .fits import Layout, number_of, register_layout

__all__ = ["BAD", "BITS"]

BITS = {
    "DETECTOR": 1, "FLAT": 2, "DARK": 4, "BLANK": 8, "CTE": 16, "SAT": 32, "LOW": 64,
    "SUSPECT": 128, "CR": 256, "SPIKE": 512, "GHOST": 1024, "STREAK": 2048, "STARCORE": 4096,
    "CONV.BAD": 8192, "CONV.POOR": 16384,
}  # fmt: skip
BAD = (
    "DETECTOR", "FLAT", "DARK", "BLANK", "CTE", "SAT", "LOW", "CR", "SPIKE", "GHOST", "STREAK",
    "STARCORE", "CONV.BAD",
)  # fmt: skip


def _zero_point(header):
    time = number_of(header, "EXPTIME")
    return float(25 + 2.5 * np.log10(time)) if time is not None and time > 0 else None


register_layout(
    Layout(
        "panstarrs",
        lambda _names, header: "BSOFTEN" in header and "BOFFSET" in header,
        siblings={
            "variance": (r"\.fits", ".wt.fits"),
            "mask": (r"\.fits", ".mask.fits"),
        },
        bits=BITS,
        bad=BAD,
        zero_point=_zero_point,
    )
)
