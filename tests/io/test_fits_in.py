"""What an extension holds, and whose it is."""

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


def test_planes_by_other_names(tmp_path, header):
    """Those of ESO, and those that bear the name of their image; what is not used is named."""
    sci = fits.ImageHDU(PIXELS, header, name="SCI")
    for name, value in (("STAT", 4), ("NOISE", 2), ("SCI_ERR", 2), ("ERR_SCI", 2)):
        plane = fits.ImageHDU(np.full(SHAPE, value), name=name)
        bad = fits.ImageHDU(np.eye(40, dtype="u1"), name="SCI_MASK" if "SCI" in name else "DQUAL")
        image = read_image(write(tmp_path / "a.fits", sci, plane, bad))
        assert_allclose(image.variance[~image.mask], 4)
        assert image.mask.sum() == 40
    plane.name = "MYNOISE"
    with pytest.raises(InputError, match=r"found no noise .*; not used: HDU MYNOISE, of the shape"):
        read_image(write(tmp_path / "a.fits", sci, plane))


def test_an_image_inherits_unless_it_says_not_to(tmp_path, header):
    del header["BUNIT"]
    primary = fits.PrimaryHDU(header=fits.Header({"BUNIT": "nJy"}))
    for told, unit in ((None, "nJy"), (True, "nJy"), (False, "")):
        sci = fits.ImageHDU(PIXELS, header, name="SCI")
        if told is not None:
            sci.header["INHERIT"] = told
        path = write(tmp_path / "a.fits", sci, primary=primary)
        assert str(read_image(path, uncertainty=np.ones(SHAPE)).unit) == unit


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


def test_a_wcs_without_a_scale_is_none(tmp_path, header):
    """wcslib takes pixels of a degree."""
    for name in ("CDELT1", "CDELT2"):
        header.remove(name)
    path = write(tmp_path / "a.fits", fits.ImageHDU(PIXELS, header, name="SCI"))
    with pytest.raises(InputError, match="found a WCS without a scale, expected CD1_1"):
        read_image(path, uncertainty=np.ones(SHAPE))


def test_a_zero_of_unsigned_integers_in_floats_is_told(tmp_path, header, caplog):
    hdu = fits.ImageHDU(PIXELS.astype("f4"), header, name="SCI")
    hdu.header["BZERO"] = 32768
    image = read_image(write(tmp_path / "a.fits", hdu), uncertainty=np.ones(SHAPE))
    assert_allclose(image.data[0], PIXELS + 32768, rtol=1e-6)
    assert "HDU SCI: found floats with BZERO 32768" in caplog.text


def test_undefined_pixels_of_compressed_images(tmp_path, header):
    """NaN by ZBLANK, as of floats, and as the integers of Pan-STARRS have it; BLANK."""
    floats = PIXELS.astype("f4")
    floats[3, 4] = np.nan
    coded = np.where(np.isnan(floats), -32768, np.arange(1600).reshape(SHAPE)).astype("i2")
    path = tmp_path / "a.fits"
    for data, keyword in ((floats, None), (coded, "BLANK"), (coded, "ZBLANK")):
        if keyword:
            header["BLANK"] = -32768
        write(path, fits.CompImageHDU(data, header, name="SCI", quantize_level=64))
        if keyword == "ZBLANK":
            with fits.open(path, mode="update", disable_image_compression=True) as hdus:
                hdus[1].header["ZBLANK"] = hdus[1].header.pop("BLANK")
        image = read_image(path, uncertainty=np.ones(SHAPE))
        assert np.argwhere(image.mask[0]).tolist() == [[3, 4]]
        assert_allclose(image.data[0, 5:], data[5:], atol=0.1)
