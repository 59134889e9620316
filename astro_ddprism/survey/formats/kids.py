"""KiDS: coadds in maggies, with the weight and the mask in files of their own.

``KiDS_DR4.0_RA_DEC_r_sci.fits`` finds ``..._r_wei.fits`` and ``..._r_msk.fits`` in the same
folder. The weight is an inverse variance but for its factor, which the sky tells. All bits of the
mask but the haloes of stars (1, 2 and 4 are stars, 8 a halo and so on: KiDS DR4, "Masks") mean
defects.
"""

from .fits import Layout, register_layout

__all__ = ["BAD", "BITS"]

BITS = {
    "SPIKE": 1, "SATURATED": 2, "HALO_PRIMARY": 4, "HALO_SECONDARY": 8, "HALO_TERTIARY": 16,
    "BAD": 32, "MANUAL": 64, "VOID": 128,
}  # fmt: skip
BAD = ("SPIKE", "SATURATED", "BAD", "MANUAL", "VOID")

register_layout(
    Layout(
        "kids",
        lambda _names, header: str(header.get("INSTRUME", "")).strip() == "OMEGACAM",
        siblings={"weight": ("_sci", "_wei"), "mask": ("_sci", "_msk")},
        bits=BITS,
        bad=BAD,
        unit="maggy",
    )
)
