"""Two tiles of one sky, with galaxies whose image through any PSF is known in closed form."""

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.table import Table
from numpy.testing import assert_allclose, assert_array_equal

from astro_ddprism import InputError, MultiInstrumentView, MultiViewDataset
from astro_ddprism.frame import SourceFrame
from astro_ddprism.mixing import CorrelatedNoise
from astro_ddprism.psf import GaussianPSF, ImagePSF

CENTRE = SkyCoord(150.1, 2.2, unit="deg")
GALAXY = 0.25  # standard deviation in arcsec
FWHM = {"hst": 0.25, "hsc": 0.7}  # of effective PSFs, in arcsec
NOISE = {"hst": 0.01, "hsc": 0.05}
FRAMES = {
    "hst": SourceFrame(0.1 * u.arcsec, (1, 220, 220), position_angle=20 * u.deg),
    "hsc": SourceFrame(0.3 * u.arcsec, (1, 120, 120)),
}
FRAME = SourceFrame(
    0.1 * u.arcsec, (1, 36, 36), psf=GaussianPSF(2.5 * u.pixel, includes_pixel=True)
)


def blob(wcs, shape, place, fwhm, flux=100.0):
    """A Gaussian galaxy through a Gaussian effective PSF."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    sky = wcs.pixel_to_world(x, y)
    dx, dy = (offset.to_value(u.arcsec) for offset in place.spherical_offsets_to(sky))
    variance = GALAXY**2 + (fwhm / np.sqrt(8 * np.log(2))) ** 2
    area = wcs.proj_plane_pixel_area().to_value(u.arcsec**2)
    return flux * area * np.exp(-(dx**2 + dy**2) / 2 / variance) / (2 * np.pi * variance)


def image(name, wcs, shape, places, seed=0):
    noise = np.random.default_rng(seed).normal(0, NOISE[name], shape)
    data = noise + sum(blob(wcs, shape, place, FWHM[name]) for place in places)
    sigma = StdDevUncertainty(np.full(shape, NOISE[name]))
    return CCDData(data.astype(np.float32), unit="nJy", wcs=wcs, uncertainty=sigma)


@pytest.fixture(scope="module")
def galaxies():
    """Two within both tiles, one that the larger tile alone shows, one that none shows."""
    east, north = np.array([[-3.1, 2.0], [4.4, -3.3], [14.0, 1.0], [60.0, 0.0]]).T
    return CENTRE.spherical_offsets_by(east * u.arcsec, north * u.arcsec)


@pytest.fixture(scope="module")
def tiles(galaxies):
    return {
        name: image(name, frame.wcs(CENTRE), frame.shape[1:], galaxies, seed)
        for seed, (name, frame) in enumerate(FRAMES.items())
    }


@pytest.fixture(scope="module")
def psf():
    return {name: GaussianPSF(fwhm * u.arcsec, includes_pixel=True) for name, fwhm in FWHM.items()}


def check_operators(view, noise=1.0):
    """Operators lead from galaxies in the frame to what is in the images."""
    for i, place in enumerate(view.coordinates):
        source = blob(view.source_wcs[i], view.source_shapes["galaxy"][1:], place, 0.25)
        x = torch.as_tensor(source[None, None], dtype=torch.float32)
        for part in view.images.values():
            if part.n_valid(i)[0] == 0:
                continue
            seen = part[[i]]
            model = seen.mixing["galaxy"](x).numpy()
            residual = ((seen.data - model) / np.sqrt(seen.variance))[~seen.mask]
            # 64 to 576 pixels of unit noise
            assert abs(np.square(residual).mean() - noise) < 0.35
            assert abs(residual).max() < 5


def test_tiles(tiles, psf, galaxies):
    views = MultiViewDataset.from_image(
        tiles, psf=psf, frame=FRAME, positions=galaxies, size=24, n_random=5, seed=1
    )
    view = views["galaxy"]
    assert isinstance(view, MultiInstrumentView)
    assert list(views) == ["random", "galaxy"]
    assert view.sources == ("los", "galaxy")
    assert views["random"].sources == ("los",)
    assert view.ids.tolist() == ["0", "1", "2"]
    assert view.coordinates.separation(galaxies[:3]).max() < 1e-6 * u.arcsec
    assert view.images["hst"].observation_shape == (1, 24, 24)
    assert view.images["hsc"].observation_shape == (1, 8, 8)
    assert view.images["hst"].n_valid().tolist() == [576, 576, 0]
    assert view.images["hsc"].n_valid().tolist() == [64, 64, 64]
    assert len(views["random"]) == 5
    assert views.source_shapes == {"los": (1, 36, 36), "galaxy": (1, 36, 36)}
    check_operators(view)


def test_a_position_is_in_the_middle_of_all_its_images(tiles, psf, galaxies):
    view = MultiViewDataset.from_image(
        tiles, psf=psf, positions=galaxies, size=2.4 * u.arcsec, n_random=0
    )["galaxy"]
    for part in view.images.values():
        n = part.observation_shape[-1]
        for wcs, place in zip(part.wcs, view.coordinates, strict=True):
            assert_allclose(wcs.world_to_pixel(place), n / 2, atol=1.01)
    shape = view.source_shapes["galaxy"]
    assert shape[1] == shape[2]
    assert 31 <= shape[1] <= 36  # 2.4 arcsec turned, and a fraction of a pixel
    for wcs, place in zip(view.source_wcs, view.coordinates, strict=True):
        assert_allclose(wcs.world_to_pixel(place), (shape[-1] - 1) / 2, atol=1e-5)


def test_detection_on_the_first_instrument(tiles, psf):
    views = MultiViewDataset.from_image(
        tiles, psf=psf, size=24, detection={"reject_stars": False}, correlated_noise={"hsc": 1}
    )
    assert len(views["galaxy"]) == 2
    assert len(views["random"]) == 4
    images = views["galaxy"].images
    assert images["hst"].noise is None
    assert isinstance(images["hsc"].noise, CorrelatedNoise)


@pytest.fixture
def cutouts(galaxies, tmp_path):
    """Cutouts around three galaxies, as files; HST did not see the second one."""
    files = {"hst": [], "hsc": []}
    for name, n in (("hst", 24), ("hsc", 9)):
        for i, place in enumerate(galaxies[:3]):
            frame = SourceFrame(FRAMES[name].scale, (1, n, n), position_angle=(30 * i) * u.deg)
            files[name].append(tmp_path / f"{name}_{i}.fits")
            image(name, frame.wcs(place), (n, n), [place], seed=i).write(files[name][-1])
    files["hst"][1] = None
    return files


def test_cutouts(cutouts, psf, galaxies):
    views = MultiViewDataset.from_fits(
        {"pairs": cutouts},
        sources={"pairs": ["galaxy"]},
        psf=psf,
        frame=FRAME,
        coordinates={"pairs": galaxies[:3]},
    )
    view = views["pairs"]
    assert view.images["hst"].n_valid().tolist() == [576, 0, 576]
    assert view.ids.tolist() == ["hst_0", "hsc_1", "hst_2"]
    check_operators(view)


def test_views_may_have_different_instruments(cutouts, psf):
    """Chosen from all of them is one frame."""
    views = MultiViewDataset.from_fits(
        {"random": {"hsc": cutouts["hsc"][:1]}, "galaxy": cutouts},
        psf={"hst": psf["hst"], "hsc": [psf["hsc"]] * 4},
        frame={"scale": 0.08 * u.arcsec},
        bands={"hsc": [[0.2, 0.8]], "hst": [[1, 0]]},
    )
    assert list(views["random"].images) == ["hsc"]
    bands, ny, nx = views.source_shapes["los"]
    assert bands == 2
    # The widest images, 9 pixels of 0.3 arcsec turned by 60 degrees, lie within.
    assert ny == nx >= 2.7 * 1.36 / 0.08
    # Without coordinates, the middle of each observation's first cutout is in the middle.
    wcs = views["galaxy"].images["hst"].wcs[2]
    middle = wcs.pixel_to_world(12, 12)
    assert views["galaxy"].coordinates[2].separation(middle) < 1e-6 * u.arcsec


def test_options_of_each_instrument(cutouts, tmp_path):
    with fits.open(cutouts["hsc"][0]) as hdus:
        flags = np.zeros((9, 9), dtype=np.int16)
        flags[0] = 1
        hdus.append(fits.ImageHDU(flags, name="BAD"))
        hdus.writeto(tmp_path / "flagged.fits")
    view = MultiViewDataset.from_fits(
        {"random": {"hst": cutouts["hst"][:1], "hsc": [tmp_path / "flagged.fits"]}},
        mask={"hsc": "BAD"},
    )["random"]
    assert view.images["hsc"].n_valid().tolist() == [72]
    assert view.images["hst"].n_valid().tolist() == [576]
    assert view.images["hst"].mixing["los"].n_observations == 1


def test_a_psf_file_tells_its_scale(cutouts, galaxies, tmp_path):
    y, x = np.mgrid[-10:11, -10:11] * 0.1
    star = np.exp(-(x**2 + y**2) / 2 / (FWHM["hst"] / 2.3548) ** 2)
    hdu = fits.PrimaryHDU(star / star.sum())
    hdu.writeto(tmp_path / "blind.fits")
    hdu.header["PIXELSCL"] = 0.1
    hdu.writeto(tmp_path / "psf.fits")
    options = {"sources": {"pairs": ["galaxy"]}, "frame": FRAME}
    options["coordinates"] = {"pairs": galaxies[:1]}
    files = {"pairs": {"hst": [cutouts["hst"][0]]}}
    for given in (tmp_path / "psf.fits", ImagePSF(hdu.data, oversampling=1)):
        check_operators(MultiViewDataset.from_fits(files, psf={"hst": given}, **options)["pairs"])
    with pytest.raises(InputError, match=r"blind.fits: found none of the keywords"):
        MultiViewDataset.from_fits(files, psf={"hst": tmp_path / "blind.fits"}, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"psf": {"hst": 1}}, "psf: found hst, expected one for each of hst, hsc"),
        ({"psf": GaussianPSF(1 * u.arcsec)}, "psf: found Gauss.*expected one for each of hst, hsc"),
        ({"psf": {"hst": np.ones((3, 3)), "hsc": 1}}, "psf: found ndarray, which has no scale"),
        (
            {"psf": {"hst": [GaussianPSF(1 * u.arcsec)], "hsc": None}},
            r"psf\['hst'\]: found a list of 1, expected one for each of 3 observations",
        ),
        ({"bands": {"acs": [[1]]}}, "bands: found acs, expected one for each of hst, hsc"),
        ({"bands": {"hst": [[1, 0]]}}, "bands: found 2 of hst, 1 of hsc, expected 2 of all"),
        (
            {"bands": {"hst": [[0.0]]}},
            "view 'galaxy', hst: bands: found nothing but zeros for band 0",
        ),
        (
            {"coordinates": {"galaxy": SkyCoord([0.0] * 3, [0.0] * 3, unit="deg")}},
            "hst_0.fits, HDU .*expected a WCS that covers the object",
        ),
        ({"frame": {"scale": 1 * u.m}}, "scale: found"),
    ],
)
def test_options_that_do_not_fit(cutouts, change, message):
    with pytest.raises(InputError, match=message):
        MultiViewDataset.from_fits({"galaxy": cutouts}, **change)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: {"random": c["hst"], "galaxy": c}, r"cutouts\['random'\]: found \["),
        (lambda _: {"galaxy": {"hst": "a.fits"}}, r"cutouts\['galaxy'\]\['hst'\]: found 'a.fits'"),
        (
            lambda c: {"galaxy": {"hst": c["hst"], "hsc": c["hsc"][:2]}},
            r"cutouts\['galaxy'\]: found 3 of hst, 2 of hsc, expected one for each observation",
        ),
        (
            lambda c: {"galaxy": {"hst": [None] * 3, "hsc": c["hsc"]}},
            "view 'galaxy', hst: found no image for any of 3 observations",
        ),
        (
            lambda c: {"galaxy": {"hst": c["hst"][:2], "hsc": [c["hsc"][0], None]}},
            r"cutouts\['galaxy'\]: found no cutout of observation 1",
        ),
        (
            lambda c: {"galaxy": {"hst": [*c["hst"][:2], c["hsc"][2]]}},
            r"view 'galaxy', hst: .*hsc_2.fits.*: found shape \(1, 9, 9\) .* as in .*hst_0.fits",
        ),
    ],
)
def test_cutouts_that_do_not_belong_together(cutouts, spoil, message):
    with pytest.raises(InputError, match=message):
        MultiViewDataset.from_fits(spoil(cutouts))


def test_positions_on_no_image(tiles, galaxies):
    with pytest.raises(InputError, match="found 1 for the view 'galaxy', none of them on an image"):
        MultiViewDataset.from_image(tiles, positions=galaxies[3:])
    for size in (0, -1, 3 * u.m):
        with pytest.raises(InputError, match="size: found"):
            MultiViewDataset.from_image(tiles, positions=galaxies, size=size)


def test_a_catalog(tiles, galaxies, tmp_path):
    table = Table({"id": ["a", "b", "c", "d"], "ra": galaxies.ra.deg, "dec": galaxies.dec.deg})
    table.write(tmp_path / "catalog.csv")
    view = MultiViewDataset.from_image(
        tiles, positions=tmp_path / "catalog.csv", size=24, n_random=0
    )["galaxy"]
    assert view.ids.tolist() == ["a", "b", "c"]
    assert_array_equal(view.images["hst"].ids, view.ids)
