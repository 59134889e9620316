"""Faults of files that come again with their seed, and what checksums tell of them."""

import numpy as np
from astropy.io import fits

from benchmarks.fuzz.mutations import KINDS, mutated
from benchmarks.fuzz.study import is_told

GOOD = b"SIMPLE  =                    T / " + b"number = 12.5\n" * 400


def test_a_seed_makes_a_fault_and_the_same_one_again():
    found = [mutated(GOOD, [0, i]) for i in range(200)]
    assert {kind for kind, _ in found} == set(KINDS)
    assert all(content != GOOD for _, content in found)
    assert found == [mutated(GOOD, [0, i]) for i in range(200)]
    assert len({content for _, content in found}) > 190


def test_what_a_checksum_tells(tmp_path):
    """A changed bit, but not words of a FITS file in another order."""
    image = np.arange(100, dtype=">i4").reshape(10, 10)
    good, path = tmp_path / "good.fits", tmp_path / "damaged.fits"
    fits.PrimaryHDU(image).writeto(good, checksum=True)
    moved = bytearray(good.read_bytes())
    moved[2880:2888] = moved[2884:2888] + moved[2880:2884]
    for content, told in ((moved, False), (moved[:2880] + b"\1" + moved[2881:], True)):
        path.write_bytes(content)
        assert is_told("tile_sum.fits", path) is told
        assert is_told("tile.fits.gz", path)
