import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord

from astro_ddprism.errors import InputError
from astro_ddprism.frame import SourceFrame
from astro_ddprism.psf import GaussianPSF, ImagePSF, MoffatPSF

HERE = SkyCoord(150.1, 60.2, unit="deg")
SEEING = MoffatPSF(0.7 * u.arcsec, 3)


@pytest.mark.parametrize("angle", [0, 30, 200])
def test_wcs(angle):
    """The coordinate in the middle, y along the position angle, x at right angles, towards west."""
    frame = SourceFrame(0.2 * u.arcsec, (3, 41, 30), position_angle=angle * u.deg)
    wcs = frame.wcs(HERE.transform_to("galactic"))
    assert wcs.array_shape == (41, 30)
    middle = wcs.pixel_to_world(14.5, 20)
    assert middle.separation(HERE) < 1e-8 * u.arcsec
    for place, direction in (((14.5, 25), angle), ((9.5, 20), angle + 90)):
        sky = wcs.pixel_to_world(*place)
        assert middle.separation(sky).to_value(u.arcsec) == pytest.approx(1, rel=1e-9)
        found = middle.position_angle(sky).to_value(u.deg)
        assert (found - direction + 180) % 360 - 180 == pytest.approx(0, abs=0.01)


def test_world_to_pixel():
    frame = SourceFrame(0.2 * u.arcsec, (1, 41, 30), position_angle=10 * u.deg)
    middles = SkyCoord([150.1, 20], [60.2, -30], unit="deg")
    sky = SkyCoord(middles.ra + [1, 2] * u.arcsec, middles.dec - [1, 1] * u.arcsec)
    found = frame.world_to_pixel(sky.ra.deg[:, None], sky.dec.deg[:, None], middles)
    for i in range(2):
        expected = frame.wcs(middles[i]).world_to_pixel(sky[i])
        np.testing.assert_allclose(found[i, :, 0], expected, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.2, (1, 8, 8)), "scale: found 0.2, expected an angle, with its unit"),
        ((0 * u.arcsec, (1, 8, 8)), "scale: found 0.0 arcsec, expected a positive angle"),
        ((1 * u.m, (1, 8, 8)), "scale: found <Quantity 1. m>, expected an angle"),
        (([1, 2] * u.arcsec, (1, 8, 8)), "scale: found .*, expected one finite angle"),
        ((1 * u.arcsec, (8, 8)), r"shape: found \(8, 8\), expected \(bands, ny, nx\)"),
        ((1 * u.arcsec, (1, 0, 8)), r"shape: found \(1, 0, 8\), expected .* all positive"),
        ((1 * u.arcsec, (1, 8, 8), 2.5), "psf: found float, expected one of astro_ddprism.psf"),
        (
            (1 * u.arcsec, (1, 8, 8), ImagePSF(np.full((2, 3, 3), 1 / 9), oversampling=1)),
            "psf: found 2 bands, expected 1, those of the frame",
        ),
    ],
)
def test_bad_frames(arguments, message):
    with pytest.raises(InputError, match=message):
        SourceFrame(*arguments)


def image(scale, n, angle=0):
    """The WCS of an image around HERE."""
    return SourceFrame(scale * u.arcsec, (1, n, n), position_angle=angle * u.deg).wcs(HERE)


def test_from_images_takes_the_finest_pixels():
    sharp = GaussianPSF(0.1 * u.arcsec)
    frame = SourceFrame.from_images(
        [(image(0.03, 100), (1, 100, 100), sharp), (image(0.168, 20, 45), (1, 20, 20), SEEING)],
        HERE,
    )
    assert frame.scale.to_value(u.arcsec) == pytest.approx(0.03, rel=1e-6)
    assert frame.psf.fwhm == 2.5 * u.pixel
    # The turned square of the coarse image just fits.
    assert frame.shape == (1, 159, 159)
    assert np.ceil(20 * 0.168 * np.sqrt(2) / 0.03) == 159


def test_from_images_samples_the_sharpest_psf():
    """Where the pixels of all images are too large for their PSF, the frame's are smaller."""
    frame = SourceFrame.from_images(
        [(image(0.2, 30), (5, 30, 30), GaussianPSF(0.3 * u.arcsec, includes_pixel=True))], HERE
    )
    assert frame.scale.to_value(u.arcsec) == pytest.approx(0.12, rel=0.01)
    assert frame.shape[0] == 5


def test_from_images_as_the_user_wants():
    images = [
        (image(0.03, 100), (1, 100, 100), None),
        (image(0.168, 20), (5, 20, 20), None),
    ]
    frame = SourceFrame.from_images(
        images, HERE, n_bands=6, scale=0.1 * u.arcsec, size=2 * u.arcsec, position_angle=5 * u.deg
    )
    assert frame.shape == (6, 20, 20)
    assert frame.psf is None
    assert frame.position_angle == 5 * u.deg
    frame = SourceFrame.from_images(images, HERE, n_bands=1, size=33)
    assert frame.shape == (1, 33, 33)
    assert frame.scale.to_value(u.arcsec) == pytest.approx(0.03, rel=1e-6)
    for size, message in ((0, "size: found 0, expected a positive number of pixels"),
                          (2.0, "size: found 2.0, expected an angle")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            SourceFrame.from_images(images, HERE, n_bands=1, size=size)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "images: found none, expected at least one"),
        (
            [(image(0.03, 9), (1, 9, 9), SEEING), (image(0.03, 9), (5, 9, 9), SEEING)],
            "images: found some of 1 and 5 bands, expected n_bands",
        ),
        (
            [(image(0.03, 9), (1, 9, 9), SEEING), (image(0.03, 9), (1, 9, 9), None)],
            "images: found no PSF for image 1, expected one for all or none",
        ),
    ],
)
def test_from_images_that_do_not_fit(images, message):
    with pytest.raises(InputError, match=message):
        SourceFrame.from_images(images, HERE)
