"""What an extension holds, whose it is, and headers that nobody can read."""

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose, assert_array_equal

from astro_ddprism.errors import InputError
from astro_ddprism.survey import read_image

SHAPE = (40, 40)
PIXELS = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def header(wcs):
    return fits.Header({**wcs.to_header(), "BUNIT": "nJy"})


def write(path, *hdus, primary=None):
    fits.HDUList([primary or fits.PrimaryHDU(), *hdus]).writeto(path, overwrite=True)
    return path


def sets(header, names, versions=(1, 2)):
    """Image, noise (1, 2, ...) and a mask with as many bad pixels of each of several."""
    for k, (image, noise, mask) in enumerate(names, 1):
        bad = np.zeros(SHAPE, np.int16)
        bad[0, :k] = 1
        for data, name in ((PIXELS + k, image), (np.full(SHAPE, float(k)), noise), (bad, mask)):
            hdu = fits.ImageHDU(data, header if name == image else None, name=name)
            if versions:
                hdu.ver = versions[k - 1]
            yield hdu


@pytest.mark.parametrize(
    ("names", "versions", "specs"),
    [
        ([("SCI", "ERR", "DQ")] * 2, (1, 2), ("SCI,1", "SCI,2")),
        ([("SCI", "ERR", "DQ")] * 2, (1, 2), (("SCI", 1), ("SCI", 2))),
        ([("SCI", "ERR", "DQ")] * 2, None, (1, 4)),
        (
            [("1-1.SCI", "1-1.RMS", "1-1.FLG"), ("1-2.SCI", "1-2.RMS", "1-2.FLG")],
            None, (1, "1-2.SCI"),
        ),
        ([("CCD1", "ERR_CCD1", "CCD1_MASK"), ("CCD2", "ERR_CCD2", "CCD2_MASK")], None, ("CCD1", 4)),
        ([("SCI1", "ERR1", "DQ1"), ("SCI2", "ERR2", "DQ2")], None, ("SCI1", "SCI2")),
    ],
)  # fmt: skip
def test_planes_belong_to_their_image(tmp_path, header, names, versions, specs):
    path = write(tmp_path / "a.fits", *sets(header, names, versions))
    for k, spec in enumerate(specs, 1):
        image = read_image(path, hdu=spec)
        assert_array_equal(image.data[0], PIXELS + k)
        assert_allclose(image.variance[~image.mask], k**2)
        assert image.mask.sum() == k
        assert any(line.startswith("not used: ") for line in image.provenance)
    with pytest.raises(InputError, match=r"found 2 images, .*expected the name or the number of"):
        read_image(path)


def test_a_plane_of_another_image_is_not_used(tmp_path, header):
    hdus = list(sets(header, [("SCI", "ERR", "DQ")] * 2))
    path = write(tmp_path / "a.fits", *hdus[:4])  # the second image has neither noise nor mask
    with pytest.raises(InputError, match="found no noise"):
        read_image(path, hdu="SCI,2")
    other = write(
        tmp_path / "b.fits", *list(sets(header, [("CCD1", "a", "b"), ("CCD2", "c", "d")]))
    )
    mask = write(tmp_path / "c.fits", *(
        fits.ImageHDU(np.pad([[1] * k], ((0, 39), (0, 40 - k))), name=f"CCD{k}") for k in (1, 2)
    ))  # fmt: skip
    image = read_image(other, hdu="CCD2", uncertainty="c", mask=mask)
    assert image.mask.sum() == 2


def test_parts_of_a_variance_are_no_variance(tmp_path, header):
    sci = fits.ImageHDU(PIXELS, header, name="SCI")
    part = fits.ImageHDU(np.ones(SHAPE), name="VAR_POISSON")
    with pytest.raises(InputError, match="found no noise"):
        read_image(write(tmp_path / "a.fits", sci, part))
    image = read_image(
        write(tmp_path / "a.fits", sci, part, fits.ImageHDU(2 * np.ones(SHAPE), name="ERR"))
    )
    assert_allclose(image.variance, 4)
    assert "not used: HDU VAR_POISSON, of the shape of the image" in image.provenance


def test_units_headers_and_types_of_planes(tmp_path, header):
    """Each in its own unit, or a copied header; integers are scaled, and masked where BLANK."""
    sci = fits.ImageHDU(PIXELS, header, name="SCI")
    for name, unit, value in (
        ("ERR", "uJy", 3e-3), ("ERR", "nJy", 3), ("VAR", "uJy2", 9e-6), ("VAR", "nJy", 9),
        ("IVAR", "1/uJy^2", 1e6 / 9), ("ERR", None, 3),
    ):  # fmt: skip
        plane = fits.ImageHDU(np.full(SHAPE, value), name=name)
        if unit:
            plane.header["BUNIT"] = unit
        image = read_image(write(tmp_path / "a.fits", sci, plane))
        assert_allclose(image.variance, 9, rtol=1e-6)
    plane.header["BUNIT"] = "electron"
    with pytest.raises(InputError, match="HDU ERR: found the unit 'electron', expected nJy"):
        read_image(write(tmp_path / "a.fits", sci, plane))
    primary = fits.PrimaryHDU()
    primary.header.update(header)
    coded = fits.ImageHDU(np.arange(1600, dtype=np.int16).reshape(SHAPE), name="SCI")
    coded.header.update(BSCALE=0.5, BZERO=10.0, BLANK=7)
    image = read_image(
        write(tmp_path / "b.fits", coded, primary=primary), uncertainty=np.ones(SHAPE)
    )
    assert str(image.unit) == "nJy"  # of the first header, as is the WCS
    assert np.argwhere(image.mask[0]).tolist() == [[0, 7]]
    assert image.data[0, 0, 6] == 13
    coded = fits.ImageHDU(np.arange(1600, dtype=np.uint16).reshape(SHAPE), header, name="SCI")
    coded.header["BLANK"] = 7 - 32768
    image = read_image(write(tmp_path / "b.fits", coded), uncertainty=np.ones(SHAPE))
    assert np.argwhere(image.mask[0]).tolist() == [[0, 7]]


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
