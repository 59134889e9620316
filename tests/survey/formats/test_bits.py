import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_array_equal

from astro_ddprism.errors import InputError
from astro_ddprism.survey import read_image

SHAPE = (64, 64)
BITS = np.tile(1 << np.arange(8), (64, 8))  # bit k in every eighth column


@pytest.fixture
def read(tmp_path, wcs):
    def read(mask, header=None, **options):
        pixels = np.random.default_rng(0).normal(size=SHAPE)
        image = fits.ImageHDU(pixels, fits.Header({**wcs.to_header(), "BUNIT": "nJy"}), name="SCI")
        hdus = [fits.PrimaryHDU(), image, fits.ImageHDU(np.ones(SHAPE), name="ERR")]
        hdus.append(fits.ImageHDU(mask, header, name="MASK"))
        fits.HDUList(hdus).writeto(tmp_path / "a.fits", overwrite=True)
        return read_image(tmp_path / "a.fits", **options)

    return read


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.float32])
@pytest.mark.parametrize(
    ("bad_bits", "value"),
    [
        (5, 5), ("0x1F", 31), ("SAT,CR", 10), ("sat|4", 6), ([1, "EDGE"], 17), ("0b11", 3), (0, 0),
        (None, 1 | 2 | 8 | 16),
    ],
)  # fmt: skip
def test_bits_by_number_and_by_name(read, dtype, bad_bits, value):
    """Names are those of the header; DETECTED is no defect, and neither is INTRP."""
    names = ["BAD", "SAT", "INTRP", "CR", "EDGE", "DETECTED", "DETECTED_NEGATIVE", "OTHER"]
    header = fits.Header([(f"HIERARCH MP_{name}", k) for k, name in enumerate(names)])
    image = read(BITS.astype(dtype), header, bad_bits=bad_bits)
    assert_array_equal(image.mask[0], BITS & value != 0)
    told = next(line for line in image.provenance if line.startswith("mask: "))
    assert "DETECTED 12.50%" in told


def test_other_ways_to_name_bits(read):
    header = fits.Header({"MBIT_1": "BAD", "MSKNAM00": "CR", "MSKVAL00": 64})
    assert_array_equal(read(BITS.astype("i2"), header).mask[0], BITS & 66 != 0)
    # No names in the header: those that all surveys give to one bit.
    image = read(BITS.astype("i2"), bad_bits="DO_NOT_USE")
    assert_array_equal(image.mask[0], BITS == 1)


@pytest.mark.parametrize(
    ("dtype", "bad_bits", "message"),
    [
        (np.uint8, 4096, "found 4096, expected bits of a mask of uint8, which has 8"),
        (np.int16, "0x10000", "found 65536, expected bits of a mask of int16"),
        (np.int16, "NOTHING", "found 'NOTHING', expected numbers"),
        (np.int16, "CR", "found 'CR', expected its number: it is 8 in lsst, 256 in panstarrs"),
        (np.int16, -1, "found -1, expected bits"),
    ],
)
def test_bits_that_a_mask_cannot_hold(read, dtype, bad_bits, message):
    with pytest.raises(InputError, match=message):
        read(BITS.astype(dtype), bad_bits=bad_bits)
