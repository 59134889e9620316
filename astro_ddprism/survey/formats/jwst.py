"""JWST: mosaics (``i2d``) and calibrated exposures (``cal``), in MJy/sr.

``SCI``, ``ERR`` and ``DQ``; the parts of the variance (``VAR_POISSON``, ...), the weight and the
context are not used, ``ERR`` holds all. Surface brightness becomes flux by ``PIXAR_SR`` and, in
exposures, whose pixels are not all of one size, by the extension ``AREA``. The WCS is the one of
the FITS header: that of mosaics is exact, that of exposures a SIP polynomial which is good to a few
hundredths of a pixel.

Bits of ``DQ``: jwst-pipeline.readthedocs.io, "Data Quality Flags". Most are a pixel's history; one
that is not to be used says so.
"""

from .fits import Layout, register_layout

__all__ = ["BAD", "BITS"]

BITS = {
    "DO_NOT_USE": 1, "SATURATED": 2, "JUMP_DET": 4, "DROPOUT": 8, "OUTLIER": 16, "PERSISTENCE": 32,
    "AD_FLOOR": 64, "CHARGELOSS": 128, "UNRELIABLE_ERROR": 256, "NON_SCIENCE": 512, "DEAD": 1024,
    "HOT": 2048, "WARM": 4096, "LOW_QE": 8192, "RC": 16384, "TELEGRAPH": 32768, "NONLINEAR": 65536,
    "BAD_REF_PIXEL": 131072, "NO_FLAT_FIELD": 262144, "NO_GAIN_VALUE": 524288,
    "NO_LIN_CORR": 1048576, "NO_SAT_CHECK": 2097152, "UNRELIABLE_BIAS": 4194304,
    "UNRELIABLE_DARK": 8388608, "UNRELIABLE_SLOPE": 16777216, "UNRELIABLE_FLAT": 33554432,
    "OPEN": 67108864, "ADJ_OPEN": 134217728, "FLUX_ESTIMATED": 268435456,
    "MSA_FAILED_OPEN": 536870912, "OTHER_BAD_PIXEL": 1073741824, "REFERENCE_PIXEL": 2147483648,
}  # fmt: skip
BAD = ("DO_NOT_USE", "NON_SCIENCE")

register_layout(
    Layout(
        "jwst",
        lambda _names, header: header.get("TELESCOP") == "JWST",
        bits=BITS,
        bad=BAD,
        area="AREA",
    )
)
