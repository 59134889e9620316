import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.wcs import WCS
from numpy.testing import assert_allclose

from astro_ddprism.errors import InputError
from astro_ddprism.psf import ImagePSF, PSFExPSF, open_psf
from astro_ddprism.psf.kernels import kernels_at


def write_psfex(path, degree=2, names=("X_IMAGE", "Y_IMAGE"), sampling=0.7):
    """A file as PSFEx writes it: a Gaussian, and other images that come in with x and y."""
    y, x = np.mgrid[:33, :33] - 16
    n_terms = (degree + 1) * (degree + 2) // 2
    star = np.exp(-(x**2 + y**2) / 2 / 2.5**2)
    shapes = (1, (x**2 - y**2) / 40, x * y / 40, x**3 / 300, x**2 / 50 - 0.1, y**3 / 300)
    basis = np.stack([shape * star for shape in shapes[:n_terms]])
    basis /= basis[0].sum()
    column = fits.Column("PSF_MASK", f"{basis.size}E", dim=f"(33,33,{n_terms})", array=basis[None])
    table = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    table.header.update({"POLNAXIS": 2, "POLNGRP": 1, "POLDEG1": degree, "PSF_SAMP": sampling,
                         "PSFNAXIS": 3, "PSF_FWHM": 4.1,
                         "PSFAXIS1": 33, "PSFAXIS2": 33, "PSFAXIS3": n_terms})  # fmt: skip
    for i, name in enumerate(names, 1):
        table.header.update({f"POLGRP{i}": 1, f"POLNAME{i}": name,
                             f"POLZERO{i}": 500.0 + i, f"POLSCAL{i}": 480.0})  # fmt: skip
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)


@pytest.fixture
def big():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = (10, 20), (500, 500), (-1e-4, 1e-4)
    return wcs


def test_the_psf_at_a_place_is_that_of_galsim(tmp_path, big):
    """By the reader of the Dark Energy Survey, which is not of this package."""
    galsim = pytest.importorskip("galsim")
    des = pytest.importorskip("galsim.des")
    path = tmp_path / "image.psf"
    write_psfex(path)
    theirs = des.DES_PSFEx(str(path))
    psf = open_psf(path, wcs=big)
    for x, y in ((0, 0), (499.3, 120.0), (999, 700)):
        ours = psf.at(big.pixel_to_world(x, y))
        expected = theirs.getPSFArray(galsim.PositionD(x + 1, y + 1))
        assert_allclose(ours.image[0], expected / expected.sum(), atol=1e-7)
        star = theirs.getPSF(galsim.PositionD(x + 1, y + 1))
        drawn = star.drawImage(nx=19, ny=19, scale=1.0, method="no_pixel").array
        kernel = ours.kernel(0.36 * np.eye(2))[0]
        half = len(kernel) // 2
        inner = kernel[half - 9 : half + 10, half - 9 : half + 10]
        assert_allclose(inner, drawn / drawn.sum(), atol=5e-3 * inner.max())  # Lanczos


def test_every_object_has_its_own(tmp_path, big):
    path = tmp_path / "image.psf"
    write_psfex(path)
    psf = open_psf(path, wcs=big)
    kernels = kernels_at(psf, big.pixel_to_world([0, 999], [0, 999]), 1, 0.36 * u.arcsec)
    assert kernels.shape[:2] == (2, 1)
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4
    with pytest.raises(InputError, match="changes over the image, expected the WCS"):
        PSFExPSF(path).at(big.pixel_to_world(0, 0))
    with pytest.raises(InputError, match="changes over the image, expected one at some place"):
        psf.kernel(np.eye(2))
    with pytest.raises(InputError, match="found PSFs of many places"):
        ImagePSF.read(path)


def test_what_does_not_change_and_what_depends_on_something_else(tmp_path, big):
    constant, other, table = (tmp_path / f"{name}.psf" for name in "abc")
    write_psfex(constant, degree=0)
    assert isinstance(open_psf(constant), ImagePSF)
    write_psfex(other, names=("X_IMAGE", "MAG_AUTO"))
    with pytest.raises(InputError, match="depends on X_IMAGE, MAG_AUTO, expected X_IMAGE and Y"):
        open_psf(other, wcs=big)
    fits.HDUList([fits.PrimaryHDU()]).writeto(table)
    with pytest.raises(InputError, match="expected the table PSF_DATA"):
        PSFExPSF(table)
