import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import Table
from numpy.testing import assert_allclose, assert_array_equal

from astro_ddprism import MultiViewDataset
from astro_ddprism.errors import InputError
from astro_ddprism.survey import detect_galaxies, read_image, read_positions
from astro_ddprism.survey.find import find_galaxies
from astro_ddprism.views import build
from astro_ddprism.views.build import views_from_image


@pytest.fixture
def image(ccd):
    return read_image(ccd)


# --- views ---------------------------------------------------------------------------------------


def test_views_of_a_simulated_field(field):
    views = views_from_image(field.image, size=24, seed=4)
    assert list(views) == ["random", "galaxy"]
    assert views["random"].sources == ("los",)
    assert views["galaxy"].sources == ("los", "galaxy")
    assert len(views["random"]) == 2 * len(views["galaxy"]) > 100
    galaxy = views["galaxy"]
    assert galaxy.data.shape[1:] == (1, 24, 24)
    assert galaxy.unit == u.uJy
    centre = galaxy.wcs[5].pixel_to_world(12, 12)
    scale = field.pixel_scale
    assert centre.separation(galaxy.coordinates[5]) < 0.75 * scale
    x, y = field.image.wcs.world_to_pixel(galaxy.coordinates)
    for i in (0, 7, 30):
        row, column = round(float(y[i])), round(float(x[i]))
        if not galaxy.mask[i].any():
            expected = field.image.data[row - 12 : row + 12, column - 12 : column + 12]
            assert_array_equal(galaxy.data[i, 0], expected)
    assert_array_equal(
        views_from_image(field.image, size=24, seed=4)["random"].data, views["random"].data
    )


def test_positions_replace_detection_and_keep_their_ids(field):
    truth = field.catalog[field.catalog["kind"] == "galaxy"][5:60]
    catalog = Table({"id": [f"g{i}" for i in truth["id"]]})
    catalog["ra"], catalog["dec"] = truth["sky_coord"].ra.deg, truth["sky_coord"].dec.deg
    views = views_from_image(
        field.image, size=16, positions=catalog, n_random=70, psf=field.psf, random_distance=8
    )
    assert set(views["galaxy"].ids) <= set(catalog["id"])
    assert len(views["random"]) == 70
    index = {name: i for i, name in enumerate(catalog["id"])}
    order = [index[name] for name in views["galaxy"].ids]
    assert order == sorted(order)
    offset = views["galaxy"].coordinates.separation(truth["sky_coord"][order])
    assert offset.max() < 1e-6 * u.arcsec
    nearest = views["random"].coordinates.match_to_catalog_sky(truth["sky_coord"])[1]
    assert nearest.min() > 7.4 * field.pixel_scale


def test_options_reach_their_functions(field, tmp_path):
    path = tmp_path / "field.fits"
    CCDData(field.image.data, unit="uJy", wcs=field.image.wcs).write(path)
    views = views_from_image(
        [path, path], size=16, estimate_noise=True, detection={"min_snr": 40, "threshold": 3}
    )
    assert views["galaxy"].data.shape[1:] == (2, 16, 16)
    image = read_image(path, estimate_noise=True)
    assert list(views_from_image(image, n_random=0)) == ["galaxy"]
    assert len(views["galaxy"]) <= len(detect_galaxies(image, min_snr=20))
    with pytest.raises(InputError, match="found the options hdu"):
        views_from_image(image, hdu=1)
    with pytest.raises(InputError, match="image: found int"):
        views_from_image(3)
    with pytest.raises(InputError, match="already"):
        read_image(image)
    with pytest.raises(InputError, match="size: found 9999"):
        views_from_image(image, size=9999)


def test_correlated_noise(field):
    """The field's noise is white: its correlations vanish, and the variance is the image's."""
    views = views_from_image(field.image, size=16, n_random=20, correlated_noise=2)
    plain = views_from_image(field.image, size=16, n_random=20)
    for name, view in views.items():
        assert view.noise.autocorrelation.shape == (1, 1, 5, 5)
        away = view.noise.autocorrelation.numpy().copy()
        assert away[..., 2, 2] == 1
        away[..., 2, 2] = 0
        assert abs(away).max() < 0.05
        assert_array_equal(view.mask, plain[name].mask)
        assert_allclose(view.variance, plain[name].variance, rtol=1e-6)
    with pytest.raises(InputError, match="band0: correlated_noise: max_lag: found 0"):
        views_from_image(field.image, size=16, correlated_noise=0)


def test_a_field_with_no_galaxy(ccd):
    with pytest.raises(InputError, match="found no"):
        views_from_image(ccd)


def test_positions_off_the_image(ccd):
    with pytest.raises(InputError, match="none of the 1 positions"):
        views_from_image(ccd, positions=SkyCoord([10], [10], unit="deg"), size=16)


# --- a real field --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kids(shared_data):
    return read_image(
        shared_data / "kids_viking" / "r.fits.fz", estimate_noise=True, saturation="auto"
    )


@pytest.fixture(scope="module")
def cut_out(kids):
    """Views of the real field, and the galaxies that were detected for them, once for all tests."""
    found = []

    def find(*args, **options):
        found.append(find_galaxies(*args, **options))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "find_galaxies", find)
        views = views_from_image(kids)
    ((galaxies, _),) = found
    return views, galaxies


def test_real_field(kids, cut_out):
    noise = np.sqrt(np.median(kids.variance[~kids.mask]))
    assert_allclose(noise, 4.5e-12, rtol=0.05)
    assert 0 < kids.saturated.mean() < 0.01
    views, _ = cut_out
    assert len(views["galaxy"]) > 1000
    assert len(views["random"]) > 2000
    assert views["galaxy"].data.shape[1:] == (1, 32, 32)
    # the mean galaxy has its peak at the position's pixel
    mean = np.median(views["galaxy"].data[:, 0], axis=0)
    assert np.unravel_index(mean.argmax(), mean.shape) == (16, 16)


def test_real_field_with_a_catalog(kids, cut_out, tmp_path):
    _, galaxies = cut_out
    catalog = Table({"NUMBER": np.arange(len(galaxies)) + 5000,
                     "ALPHA_J2000": galaxies["sky_centroid"].ra.deg,
                     "DELTA_J2000": galaxies["sky_centroid"].dec.deg})  # fmt: skip
    catalog.write(tmp_path / "catalog.fits")
    found = read_positions(tmp_path / "catalog.fits", kids.wcs)
    assert_allclose(found["x"], galaxies["x"], atol=1e-4)
    assert found["id"][0] == "5000"
    assert 100 < galaxies.meta["n_star"] < 400


def test_effective_gain_goes_along(ccd):
    """Into cutouts, views of one image and of several instruments, and of cutouts that exist."""
    rng = np.random.default_rng(1)
    gain = rng.uniform(1, 2, ccd.shape)
    positions = ccd.wcs.pixel_to_world([20, 40], [30, 25])
    options = {"size": 8, "positions": positions, "n_random": 0}
    view = MultiViewDataset.from_image(ccd, effective_gain=gain, **options)["galaxy"]
    expected = np.stack([gain[26:34, 16:24], gain[21:29, 36:44]])[:, None]
    np.testing.assert_allclose(view.effective_gain.value, expected, rtol=1e-6)
    images = {"a": ccd, "b": ccd}
    view = MultiViewDataset.from_image(images, effective_gain={"b": gain}, **options)["galaxy"]
    assert view.images["a"].effective_gain is None
    np.testing.assert_allclose(view.images["b"].effective_gain.value, expected, rtol=1e-6)
    cutouts = {"random": [ccd[:8, :8], ccd[8:16, 8:16]]}
    view = MultiViewDataset.from_fits(cutouts, effective_gain=3.0)["random"]
    assert view.effective_gain.value.ravel() == [3.0]


@pytest.mark.parametrize("kind", ["array", "PSFIMAGE", "PSF"])
def test_the_psf_that_an_image_brings_along(ccd, tmp_path, kind, caplog):
    """In memory, as CCDData writes it, and in an extension of its own."""
    caplog.set_level("INFO", logger="astro_ddprism")
    y, x = np.mgrid[-7:8, -7:8]
    psf = np.exp(-(x**2 + y**2) / 3.4)
    psf /= psf.sum()
    image = ccd
    if kind == "array":
        ccd.psf = psf
    else:
        ccd.psf = psf if kind == "PSFIMAGE" else None
        hdus = ccd.to_hdu(hdu_psf="PSFIMAGE")
        if kind == "PSF":
            hdus.append(fits.ImageHDU(psf, name="PSF"))
        image = tmp_path / "image.fits"
        hdus.writeto(image)
    options = {"positions": ccd.wcs.pixel_to_world([30], [30]), "n_random": 0, "size": 16}
    options["psf_fwhm"] = 1.0
    operator = views_from_image(image, **options)["galaxy"].mixing["los"]
    assert_allclose(operator.kernel, psf, rtol=1e-6)
    assert "its own PSF is used" in caplog.text
    without = views_from_image(image, psf=False, **options)["galaxy"].mixing["los"]
    assert not without.before_psf
    several = [ccd, CCDData(ccd, psf=psf[3:-3, 3:-3] / psf[3:-3, 3:-3].sum())]
    if kind == "array":
        kernel = MultiViewDataset.from_fits({"galaxy": several})["galaxy"].mixing["los"].kernel
        assert kernel.shape == (2, 1, 15, 15)
        assert_allclose(kernel[:, 0], [psf, np.pad(several[1].psf, 3)], rtol=1e-6)
