import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.wcs import WCS

from astro_ddprism import PosteriorSamples, View
from astro_ddprism.errors import InputError
from astro_ddprism.mixing import Identity
from astro_ddprism.posterior.stamps import write_stamps


def make(wcs, n_bands=1, ids=("a/1", "ü")):
    shape = (n_bands, 12, 12)
    view = View(
        np.ones((2, *shape)),
        variance=1.0,
        mixing={"los": Identity(shape), "galaxy": Identity(shape)},
        unit="nJy",
        wcs=[wcs[5:17, 3:15], wcs[20:32, 30:42]],
        ids=ids,
    )
    draws = np.random.default_rng(0).normal(size=(2, 4, 2, *shape))
    return PosteriorSamples(dict(zip(view.sources, draws, strict=True)), view)


@pytest.mark.parametrize("n_bands", [1, 3])
def test_one_file(wcs, tmp_path, n_bands):
    samples = make(wcs, n_bands)
    path = tmp_path / "stamps.fits"
    assert write_stamps(samples, path) == [path]
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert len(hdus) == 1 + 2 * 2
        hdu = hdus["GALAXY", 2]
        assert hdu.header["OBJECT"] == "\\xfc"
        assert u.Unit(hdu.header["BUNIT"]) == u.nJy
        np.testing.assert_allclose(np.atleast_3d(hdu.data.T).T, samples.mean["galaxy"].value[1])
        np.testing.assert_allclose(
            np.atleast_3d(hdus["ERR", 1].data.T).T, samples.std["galaxy"].value[0]
        )
        found = WCS(hdu.header, naxis=2).pixel_to_world(0, 0)
        assert found.separation(wcs.pixel_to_world(30, 20)) < 1e-6 * u.arcsec
    with pytest.raises(InputError, match="existing file"):
        write_stamps(samples, path)


def test_a_file_each(wcs, tmp_path):
    samples = make(wcs)
    paths = write_stamps(samples, tmp_path / "stamps", "los")
    assert [path.name for path in paths] == ["a_1.fits", "ü.fits"]
    np.testing.assert_allclose(fits.getdata(paths[0], "LOS"), samples.mean["los"].value[0, 0])
    with pytest.raises(InputError, match="ids that make one name"):
        write_stamps(make(wcs, ids=("a/1", "a 1")), tmp_path / "others")
