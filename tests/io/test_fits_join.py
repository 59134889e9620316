"""Parts of products put together: the same as the whole, with checksums as astropy makes them."""

import warnings

import numpy as np
import pytest
from astropy.io import fits

from astro_ddprism.io.fits_in import open_fits
from astro_ddprism.io.fits_join import encoded_checksum, join_fits


def product(rows, rng, n_samples=3):
    cube = rng.normal(size=(rows, 1, 5, 7)).astype(np.float32)
    samples = rng.normal(size=(n_samples, rows, 1, 5, 7))
    ids = np.array([f"g{i}" * (i + 1) for i in range(rows)])
    columns = [
        fits.Column("id", f"{ids.dtype.itemsize // 4}A", array=ids),
        fits.Column("flux", "D", unit="uJy", array=rng.normal(size=rows)),
        fits.Column("flags", "I", array=np.arange(rows)),
        fits.Column("edge", "L", array=np.arange(rows) % 2 == 0),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="CATALOG")
    table.header["APERTURE"] = "cutout"
    images = [fits.ImageHDU(cube, name="DATA"), fits.ImageHDU(samples, name="A_SAMPLES")]
    images[0].header["BUNIT"] = "uJy"
    primary = fits.PrimaryHDU()
    primary.header["MODEL"] = "m.asdf"
    return fits.HDUList([primary, table, *images])


@pytest.mark.parametrize("rows", [(4,), (2, 1, 5)])
def test_parts_make_the_whole(tmp_path, rows):
    rng = np.random.default_rng(0)
    parts = [product(n, rng) for n in rows]
    paths = [tmp_path / f"{i}.fits" for i in range(len(rows))]
    for part, path in zip(parts, paths, strict=True):
        part.writeto(path, checksum=True)
    with open(tmp_path / "whole.fits", "wb+") as stream:
        join_fits(paths, stream, lambda name: int(name.endswith("SAMPLES")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(tmp_path / "whole.fits", checksum=True) as whole:
            whole.verify("exception")
            assert [hdu.name for hdu in whole] == ["PRIMARY", "CATALOG", "DATA", "A_SAMPLES"]
            assert whole[0].header["MODEL"] == "m.asdf"
            assert (whole["DATA"].header["BUNIT"], whole[1].columns["flux"].unit) == ("uJy", "uJy")
            assert whole["CATALOG"].header["APERTURE"] == "cutout"
            for name, axis in (("DATA", 0), ("A_SAMPLES", 1)):
                expected = np.concatenate([part[name].data for part in parts], axis)
                np.testing.assert_array_equal(whole[name].data, expected)
            for column in ("id", "flux", "flags", "edge"):
                expected = np.concatenate([part["CATALOG"].data[column] for part in parts])
                np.testing.assert_array_equal(whole["CATALOG"].data[column], expected)
    with open_fits(tmp_path / "whole.fits") as hdus:
        assert len(hdus) == 4


def test_encoded_checksums():
    """Within the characters that the standard allows, they make the sum that it asks for."""
    rng = np.random.default_rng(1)
    for total in [0, 2**32 - 1, *rng.integers(0, 2**32, 200)]:
        text = encoded_checksum(int(total))
        assert len(text) == 16
        assert text.isalnum()
        turned = text[1:] + text[0]
        added = int(np.frombuffer(turned.encode(), ">u4").sum(dtype=np.uint64)) - 4 * 0x30303030
        assert (added + int(total)) % (2**32 - 1) == 0
