"""Damage of FITS files that a checksum tells, or what stands behind the last extension."""

import bz2
import gzip

import numpy as np
import pytest
from astropy.io import fits

from astro_ddprism.errors import InputError
from astro_ddprism.io.fits_in import open_fits, read_extension


@pytest.fixture(params=["plain", "compressed", "integers", "table"])
def content(request, tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.normal(100, 10, (50, 70)).astype(np.float32)
    hdu = {
        "plain": lambda: fits.ImageHDU(pixels, name="SCI"),
        "compressed": lambda: fits.CompImageHDU(pixels, name="SCI", compression_type="RICE_1"),
        "integers": lambda: fits.ImageHDU(pixels.astype(np.uint16), name="SCI"),
        "table": lambda: fits.BinTableHDU.from_columns(
            [fits.Column("a", "PE()", array=np.array([pixels[0], pixels[1, :5]], dtype=object))]
        ),
    }[request.param]()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "made.fits", checksum=True)
    return (tmp_path / "made.fits").read_bytes()


def opened(path, raw):
    path.write_bytes(raw)
    with open_fits(path) as hdus:
        return [hdu.name for hdu in hdus]


def test_every_flipped_bit_is_told(content, tmp_path):
    assert len(opened(tmp_path / "whole.fits", content)) == 2
    rng = np.random.default_rng(1)
    with fits.open(tmp_path / "whole.fits") as hdus:
        first = hdus[1].fileinfo()["datLoc"]
        last = first + hdus[1].fileinfo()["datSpan"]
    for place in rng.integers(first, last, 20):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        with pytest.raises(InputError, match=r"x\d*.fits, HDU 1.*: found .*the file is damaged"):
            opened(tmp_path / f"x{place}.fits", bytes(changed))


def test_changed_headers_are_told(content, tmp_path):
    changed = content.replace(b"EXTEND  =                    T", b"EXTEND  =                    F")
    with pytest.raises(InputError, match="found another CHECKSUM"):
        opened(tmp_path / "x.fits", changed)


@pytest.mark.parametrize("module", [gzip, bz2])
def test_packed_files_are_read_to_their_end(content, tmp_path, module):
    ending = {gzip: ".fits.gz", bz2: ".fits.bz2"}[module]
    packed = module.compress(content)
    assert len(opened(tmp_path / f"whole{ending}", packed)) == 2
    changed = bytearray(packed)
    changed[-6] ^= 1  # of the sum at the end
    with pytest.raises(InputError, match=r"changed\.fits"):
        opened(tmp_path / f"changed{ending}", bytes(changed))
    with pytest.raises(InputError, match=r"cut\.fits"):
        opened(tmp_path / f"cut{ending}", packed[:-4])


def test_a_packed_file_with_a_part_missing_ends(tmp_path):
    """What astropy makes of such a stream may have no end, so its own sum is looked at first."""
    rng = np.random.default_rng(2)
    pixels = rng.normal(100, 10, (64, 64)).astype(np.float32)
    names = ("SCI", "ERR", "MASK")
    hdus = fits.HDUList([fits.PrimaryHDU(), *(fits.ImageHDU(pixels, name=n) for n in names)])
    hdus.writeto(tmp_path / "whole.fits")
    packed = gzip.compress((tmp_path / "whole.fits").read_bytes())
    for number in range(20):
        place, length = rng.integers(20, 6000), rng.integers(1, 100)
        path = tmp_path / f"cut{number}.fits.gz"
        with pytest.raises(InputError, match=rf"cut{number}\.fits\.gz: not a FITS file"):
            opened(path, packed[:place] + packed[place + length :])


def test_an_extension_that_is_lost_is_missed(tmp_path):
    pixels = np.ones((20, 20), np.float32)
    names = ("SCI", "ERR", "MASK")
    hdus = fits.HDUList([fits.PrimaryHDU(), *(fits.ImageHDU(pixels, name=n) for n in names)])
    hdus.writeto(tmp_path / "whole.fits")
    raw = (tmp_path / "whole.fits").read_bytes()
    place = raw.rindex(b"XTENSION")
    for old, new in ((b"XTENSION", b"XTENSIOM"), (b"XTENSION= 'IMAGE", b"XTENSION= 1IMAGE")):
        changed = raw[:place] + raw[place:].replace(old, new, 1)
        with pytest.raises(InputError, match=r"x\.fits"):
            opened(tmp_path / "x.fits", changed)
    changed = raw.replace(b"EXTNAME = 'MASK", b"EXTNAME = 'M\xffSK")
    with pytest.raises(InputError, match=r"x\.fits, HDU 3: found a .*'M\?SK'"):
        opened(tmp_path / "x.fits", changed)


def test_an_image_larger_than_its_tiles_is_refused(tmp_path):
    path = tmp_path / "packed.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(np.ones((64, 64), np.float32))]).writeto(
        path
    )
    for axis, value in ((1, 2**31), (2, 63)):
        old, new = (f"ZNAXIS{axis} = {n:>20}".encode() for n in (64, value))
        assert old in path.read_bytes()
        (tmp_path / "x.fits").write_bytes(path.read_bytes().replace(old, new))
        with (
            pytest.raises(InputError, match=r"x.fits.* found .* the file is damaged"),
            open_fits(tmp_path / "x.fits") as hdus,
        ):
            read_extension(hdus[1], tmp_path / "x.fits")
