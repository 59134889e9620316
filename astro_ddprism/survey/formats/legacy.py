"""DESI Legacy Surveys: bricks, ``image`` beside ``invvar`` and ``maskbits``, in nanomaggies.

``legacysurvey-BRICK-image-r.fits.fz`` finds ``legacysurvey-BRICK-invvar-r.fits.fz`` and
``legacysurvey-BRICK-maskbits.fits.fz`` where they lie in the same folder. Lossy compression leaves
a few negative inverse variances; these pixels are masked.

Bits of ``maskbits``: legacysurvey.org, "Bitmasks". ``NPRIMARY`` and the masks around bright stars
and galaxies are no defects of a pixel, and neither are flags of WISE.
"""

from .fits import Layout, register_layout

__all__ = ["BAD", "BITS"]

BITS = {
    "NPRIMARY": 1, "BRIGHT": 2, "SATUR_G": 4, "SATUR_R": 8, "SATUR_Z": 16, "ALLMASK_G": 32,
    "ALLMASK_R": 64, "ALLMASK_Z": 128, "WISEM1": 256, "WISEM2": 512, "BAILOUT": 1024,
    "MEDIUM": 2048, "GALAXY": 4096, "CLUSTER": 8192, "SATUR_I": 16384, "ALLMASK_I": 32768,
}  # fmt: skip
BAD = tuple(name for name in BITS if name.startswith(("SATUR", "ALLMASK")))


def _is_brick(_names, header):
    return "LEGPIPEV" in header or ("BRICK" in header and "IMTYPE" in header)


register_layout(
    Layout(
        "legacy",
        _is_brick,
        siblings={"ivar": ("-image-", "-invvar-"), "mask": (r"-image-\w+\.", "-maskbits.")},
        bits=BITS,
        bad=BAD,
        unit="nanomaggy",
    )
)
