"""Headers that nobody can read, and what is needed of them all the same."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

from astro_ddprism.errors import InputError
from astro_ddprism.survey import read_image

SHAPE = (40, 40)
PIXELS = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def header(wcs):
    header = wcs.to_header()
    header["BUNIT"] = "nJy"
    return header


def write(path, *hdus, primary=None):
    fits.HDUList([primary or fits.PrimaryHDU(), *hdus]).writeto(path, overwrite=True)
    return path


MALFORMED = [
    "FOO     = 'no end",
    "FOO     = 1,234.5",
    "FOO     = 2020-01-01T00:00:00",
    "FOO     = nan",
    "FOO     =",
    "FOO     = 12 34 / two",
    "FOO = 7 / equals out of place",
    "foo     = 3 / lower case",
    "F?O     = 3",
    "HIERARCH a b c",
    "CONTINUE  'orphan'",
    "FOO     = 'a' 'b'",
    "FOO     = T F",
    "FOO\xe9    = 'caf\xe9'",
    "FOO     = 'tab\tnull\x00'",
    "FOO     = (1.0, 2.0",
    "        = 'no keyword'",
]


@pytest.mark.parametrize("card", MALFORMED)
@pytest.mark.filterwarnings("ignore::astropy.io.fits.verify.VerifyWarning")
@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyUserWarning")
def test_a_malformed_card_stops_nothing(tmp_path, header, card):
    """In the first header, the image's and the noise's."""
    header["PLACE"] = "HOLDER"
    noise = fits.ImageHDU(np.full(SHAPE, 2.0), fits.Header({"PLACE": "HOLDER"}), name="ERR")
    primary = fits.PrimaryHDU(header=fits.Header({"PLACE": "HOLDER"}))
    path = write(
        tmp_path / "a.fits", fits.ImageHDU(PIXELS, header, name="SCI"), noise, primary=primary
    )
    whole = path.read_bytes()
    places = [i for i in range(0, len(whole), 80) if whole[i : i + 8] == b"PLACE   "]
    assert len(places) == 3
    for place in places:
        path.write_bytes(whole[:place] + card.ljust(80).encode("latin1") + whole[place + 80 :])
        image = read_image(path)
        assert_array_equal(image.data[0], PIXELS)
        assert_allclose(image.variance, 4)
        assert str(image.unit) == "nJy"


def test_a_unit_without_quotes_is_read(tmp_path, header):
    path = write(tmp_path / "a.fits", fits.ImageHDU(PIXELS, header, name="SCI"))
    old = next(
        bytes(c.image, "ascii") for c in fits.getheader(path, 1).cards if c.keyword == "BUNIT"
    )
    path.write_bytes(path.read_bytes().replace(old, b"BUNIT   = uJy / of pixels".ljust(80)))
    assert str(read_image(path, uncertainty=np.ones(SHAPE)).unit) == "uJy"


@pytest.mark.parametrize("card", ["BSCALE  = 0,01", "BZERO   = 1.0 2.0", "BLANK   = nan"])
def test_a_scale_of_no_pixels_stops_nothing(tmp_path, header, card):
    """Where there are pixels, it is needed."""
    primary = fits.PrimaryHDU(header=fits.Header({"PLACE": "HOLDER"}))
    header["PLACE"] = "HOLDER"
    path = write(tmp_path / "a.fits", fits.ImageHDU(PIXELS, header, name="SCI"), primary=primary)
    whole = path.read_bytes()
    first = whole.index(b"PLACE   ")
    for place in (first, whole.index(b"PLACE   ", first + 80)):
        path.write_bytes(whole[:place] + card.ljust(80).encode() + whole[place + 80 :])
        if place == first:
            found = read_image(path, uncertainty=np.ones(SHAPE))
            assert_array_equal(found.data[0], PIXELS)
        else:
            with pytest.raises(InputError, match=rf"a.fits: .*Unparsable card .{card[:5].strip()}"):
                read_image(path, uncertainty=np.ones(SHAPE))


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("CRVAL1  = 150,0", "CRVAL1: found '150,0', expected a number"),
        ("CDELT1  = 1E-4 deg", "CDELT1: found '1E-4 deg', expected a number"),
        ("CRVAL1  = '150.0'", None),
        ("CTYPE1  = RA---TAN", None),
    ],
)
@pytest.mark.filterwarnings("ignore::astropy.io.fits.verify.VerifyWarning")
def test_a_malformed_card_of_the_wcs_is_no_zero(tmp_path, header, card, message):
    """wcslib takes text for a number as 0, which is elsewhere on the sky."""
    path = write(tmp_path / "a.fits", fits.ImageHDU(PIXELS, header, name="SCI"))
    whole = path.read_bytes()
    place = whole.index(card[:8].encode())
    path.write_bytes(whole[:place] + card.ljust(80).encode() + whole[place + 80 :])
    if message is None:
        found = read_image(path, uncertainty=np.ones(SHAPE)).wcs
        there = WCS(header).pixel_to_world_values(3, 4)
        assert_allclose(found.pixel_to_world_values(3, 4), there)
    else:
        with pytest.raises(InputError, match=message):
            read_image(path, uncertainty=np.ones(SHAPE))
