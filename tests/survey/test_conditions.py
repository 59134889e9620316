"""What an image is like, of a field of which all is known."""

import numpy as np
import pytest
from astropy import units as u

from astro_ddprism import MultiViewDataset
from astro_ddprism.errors import InputError
from astro_ddprism.psf.kernels import kernel_fwhm
from astro_ddprism.survey import image_conditions, read_image, stack_bands
from astro_ddprism.survey.find import detect_stars
from astro_ddprism.views.build import views_from_image


@pytest.fixture(scope="module")
def image(field):
    return read_image(field.image, name="r")


def test_stars_tell_the_width_of_the_psf(field, image):
    conditions = image_conditions(image, objects=detect_stars(image))
    scale = field.pixel_scale.to_value(u.arcsec)
    assert conditions.pixel_scale.to_value(u.arcsec) == pytest.approx(scale, rel=1e-4)
    expected = kernel_fwhm(field.psf) * scale
    np.testing.assert_allclose(conditions.psf_fwhm.to_value(u.arcsec), expected, rtol=0.05)
    assert conditions.noise.to_value(u.uJy) == pytest.approx(0.0163, rel=0.1)
    assert conditions.bands == ("r",)


def test_a_width_may_be_given(field, image):
    two = stack_bands([image, image])
    for given, expected in (
        (0.7, [0.7, 0.7]),
        (0.7 * u.arcsec, [0.7, 0.7]),
        ([700, 800] * u.mas, [0.7, 0.8]),
        ([0.7 * u.arcsec, 800 * u.mas], [0.7, 0.8]),
    ):
        found = image_conditions(two, psf_fwhm=given).psf_fwhm.to_value(u.arcsec)
        np.testing.assert_allclose(found, expected)
    found = image_conditions(two, psf=field.psf).psf_fwhm / field.pixel_scale
    np.testing.assert_allclose(found.to_value(u.one), np.repeat(kernel_fwhm(field.psf), 2))
    assert image_conditions(two).psf_fwhm is None


@pytest.mark.parametrize("width", [-1, 0, np.nan, np.inf, [1, 2], 3 * u.s, "wide"])
def test_widths_that_cannot_be_used(image, width):
    with pytest.raises(InputError, match=r"psf_fwhm: found .*, expected a"):
        image_conditions(image, psf_fwhm=width)


def test_too_few_stars(ccd):
    image = read_image(ccd)
    assert image_conditions(image, objects=detect_stars(image)).psf_fwhm is None


def test_views_remember_their_image(field, tmp_path):
    field.image.write(tmp_path / "tile.fits")
    views = views_from_image(tmp_path / "tile.fits", size=16, n_random=20)
    conditions = views["random"].conditions
    assert conditions is views["galaxy"].conditions
    assert conditions.images == ("tile.fits",)
    detected = conditions.psf_fwhm
    galaxies = views["galaxy"].coordinates[:30]
    placed = views_from_image(tmp_path / "tile.fits", size=16, n_random=0, positions=galaxies)
    np.testing.assert_allclose(placed["galaxy"].conditions.psf_fwhm, detected, rtol=0.02)
    # Through a file, some rows and another unit.
    MultiViewDataset(views).write(tmp_path / "views.asdf")
    again = MultiViewDataset.read(tmp_path / "views.asdf")["galaxy"]
    assert again.conditions.state() == conditions.state()
    assert again[:2].conditions == again.conditions
    assert again.to("nJy").conditions.noise == conditions.noise


def test_cutouts_remember_their_files(field, tmp_path):
    files = [tmp_path / f"cutout{i}.fits" for i in range(3)]
    for i, path in enumerate(files):
        field.image[32 * i : 32 * (i + 1), 64:96].write(path)
    dataset = MultiViewDataset.from_fits({"random": files, "galaxy": files[:2]}, psf_fwhm=0.8)
    conditions = dataset["random"].conditions
    assert conditions.images == ("cutout0.fits", "cutout1.fits", "cutout2.fits")
    assert conditions.psf_fwhm.to_value(u.arcsec) == pytest.approx(0.8)
    assert MultiViewDataset.from_fits({"random": files})["random"].conditions.psf_fwhm is None
