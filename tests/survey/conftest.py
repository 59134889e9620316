"""The simulated field as an image, with its objects; small FITS files with planes beside them."""

import numpy as np
import pytest
from astropy.io import fits

from astro_ddprism.survey import detect_objects, read_image


@pytest.fixture(scope="module")
def image(field):
    return read_image(field.image)


@pytest.fixture(scope="module")
def objects(image):
    return detect_objects(image)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).normal(0, 2, (64, 64)).astype(np.float32)


@pytest.fixture
def header(wcs):
    header = wcs.to_header()
    header["BUNIT"] = "nJy"
    header["FILTER"] = "r"
    return header


@pytest.fixture
def write(tmp_path, pixels, header):
    """A FITS file with an image and further extensions; returns its path."""

    def write(name="image.fits", image=pixels, header=header, **extensions):
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, header, name="SCI")]
        hdus += [fits.ImageHDU(plane, name=key) for key, plane in extensions.items()]
        path = tmp_path / name
        fits.HDUList(hdus).writeto(path, overwrite=True)
        return path

    return write
