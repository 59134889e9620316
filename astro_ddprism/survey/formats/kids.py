"""KiDS: coadds in maggies, with the weight and the mask in files of their own.

``KiDS_DR4.0_RA_DEC_r_sci.fits`` finds ``..._r_wei.fits`` and ``..._r_msk.fits`` in the same
folder. The weight is an inverse variance but for its factor, which the sky tells.

Bits of the mask: kids.strw.leidenuniv.nl, "Masking of bright stars and defects". All but the haloes
of stars, whose light is light, mean defects.
"""

from .fits import Layout, register_layout

__all__ = ["BAD", "BITS"]

BITS = {
    "READOUT_SPIKE": 1, "SATURATED": 2, "SPIKE": 4, "HALO_PRIMARY": 8, "HALO_SECONDARY": 16,
    "HALO_TERTIARY": 32, "BAD": 64, "MANUAL": 128,
}  # fmt: skip
BAD = ("READOUT_SPIKE", "SATURATED", "SPIKE", "BAD", "MANUAL")

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
