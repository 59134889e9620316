import shutil
import subprocess

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.wcs import WCS
from photutils.aperture import SkyCircularAperture, aperture_photometry

from astro_ddprism import PosteriorSamples, View
from astro_ddprism.errors import InputError
from astro_ddprism.io.fits import row_wcs
from astro_ddprism.mixing import Amplitude, Convolution, CorrelatedNoise, DenseMatrix, Identity
from astro_ddprism.survey.conditions import SurveyConditions

SHAPE = (2, 20, 20)
SCALE = 0.3 / 3600


def image_wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = 150.1, 2.2
    wcs.wcs.crpix = 200.5, 180.5
    wcs.wcs.cd = SCALE * np.array([[-0.8, 0.6], [0.6, 0.8]])
    wcs.wcs.set()
    return wcs


@pytest.fixture
def view():
    """Five cutouts of two bands with a PSF, masked pixels and an amplitude per observation."""
    rng = np.random.default_rng(0)
    wcs, corners = image_wcs(), rng.integers(0, 300, size=(5, 2))
    kernel = np.outer([1, 2, 1], [1, 3, 1]) / 20
    centres = corners + 10 + rng.uniform(-0.5, 0.5, corners.shape)
    return View(
        rng.normal(size=(5, *SHAPE)),
        variance=rng.uniform(0.5, 2.0, (5, *SHAPE)),
        mask=rng.random((5, *SHAPE)) < 0.1,
        mixing={
            "los": Convolution(kernel, SHAPE),
            "galaxy": Amplitude(rng.uniform(0.5, 1.0, 5), SHAPE),
        },
        unit="uJy",
        wcs=[wcs[y : y + 20, x : x + 20] for x, y in corners],
        coordinates=wcs.pixel_to_world(*centres.T),
        ids=[f"J{i}" for i in range(5)],
        name="galaxy",
    )


@pytest.fixture
def samples(view):
    rng = np.random.default_rng(1)
    draws = {source: rng.normal(size=(12, 5, *SHAPE)).astype("f4") for source in view.sources}
    provenance = {"model": "model.asdf", "sha256": 64 * "a", "version": "0.1", "seed": 7,
                  "sampler": "ddim"}  # fmt: skip
    return PosteriorSamples(draws, view, provenance=provenance)


def test_chi2_of_correlated_noise():
    """At the truth it scatters as chi-squared does, unlike that of single pixels."""
    n, shape = 400, (1, 8, 8)
    noise = CorrelatedNoise(
        np.full((n, *shape), 4.0), [[0.3, 0.45, 0.3], [0.4, 1, 0.4], [0.3, 0.45, 0.3]]
    )
    white = torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))
    view = View(noise.colour(white).numpy(), noise=noise, mixing={"a": Identity(shape)})
    samples = PosteriorSamples({"a": np.zeros((1, n, *shape))}, view)
    expected = white.square().flatten(1).mean(1).numpy()
    np.testing.assert_allclose(samples.chi2[0], expected, rtol=1e-3)
    pixels = np.square(samples.residual()[0]).mean(axis=(1, 2, 3))
    assert pixels.std() > 1.3 * samples.chi2.std()


def test_mean_and_spread(samples):
    for source, x in samples.samples.items():
        assert x.shape == (12, 5, *SHAPE)
        np.testing.assert_allclose(samples.mean[source].value, x.value.mean(0), atol=1e-6)
        np.testing.assert_allclose(samples.std[source].value, x.value.std(0, ddof=1), rtol=1e-5)
        for images in (x, samples.mean[source], samples.std[source]):
            assert images.unit == u.uJy
            assert images.wcs is samples.view.wcs
    assert len(samples) == 5
    assert "12 samples of 5 observations in uJy" in repr(samples)


def test_images_are_quantities_in_all_else(samples):
    mean = samples.mean["galaxy"]
    assert (2 * mean).wcs is None
    assert (2 * mean).to(u.mJy).unit == u.mJy
    assert mean[0].shape == SHAPE


def test_samples_in_another_unit_are_converted(samples, view):
    for factor, unit in ((1e-3, u.mJy), (1 / 3630.780548e6, u.mgy)):
        draws = {source: factor * x.value * unit for source, x in samples.samples.items()}
        again = PosteriorSamples(draws, view)
        np.testing.assert_allclose(
            again.mean["los"].value, samples.mean["los"].value, rtol=1e-5, atol=1e-6
        )
        assert again.mean["los"].unit == u.uJy


def test_one_sample_has_no_spread(samples, view):
    one = PosteriorSamples({s: x.value[:1] for s, x in samples.samples.items()}, view)
    assert np.isnan(one.std["galaxy"]).all()
    assert np.isnan(one.catalog()["galaxy_flux_error_1"]).all()


def test_model_is_the_sum_of_mixed_sources(samples, view):
    expected = np.zeros((12, *view.data.shape))
    for s in range(12):
        for source, operator in view.mixing.items():
            x = torch.from_numpy(samples.samples[source].value[s])
            expected[s] += operator(x).numpy()
    np.testing.assert_allclose(samples.model().value, expected, atol=1e-5)
    parts = sum(samples.component(source).value for source in view.sources)
    np.testing.assert_allclose(parts, expected, atol=1e-5)


def test_residual_is_standardized_and_knows_the_mask(samples, view):
    residual = samples.residual()
    assert np.isnan(residual[:, view.mask]).all()
    valid = ~view.mask
    expected = (view.data - samples.model().value[3]) / np.sqrt(view.variance)
    np.testing.assert_allclose(residual[3][valid], expected[valid], rtol=1e-5)
    chi2 = [np.mean(expected[i][valid[i]] ** 2) for i in range(5)]
    np.testing.assert_allclose(samples.chi2[3], chi2, rtol=1e-5)


def test_flux_in_an_aperture_is_about_the_coordinates(samples, view):
    pixels = samples.flux("galaxy", 4.0)
    angle = samples.flux("galaxy", 4.0 * 0.3 * u.arcsec)
    assert pixels.shape == (12, 5, 2)
    np.testing.assert_allclose(pixels.value, angle.value, rtol=1e-4, atol=1e-4)
    for i in range(5):
        aperture = SkyCircularAperture(view.coordinates[i], 1.2 * u.arcsec)
        image = samples.samples["galaxy"][2, i, 1]
        table = aperture_photometry(image, aperture, wcs=view.wcs[i])
        assert table["aperture_sum"][0].value == pytest.approx(angle[2, i, 1].value, abs=1e-3)
    total = samples.samples["galaxy"].sum(axis=(-2, -1))
    np.testing.assert_allclose(samples.flux("galaxy").value, total.value, atol=1e-4)


def test_positions_are_those_of_the_coordinates(view):
    """In one frame, in several, and where declination is the first axis."""
    swapped = WCS(naxis=2)
    swapped.wcs.ctype = "DEC--TAN", "RA---TAN"
    swapped.wcs.crval, swapped.wcs.crpix, swapped.wcs.cdelt = (2.2, 150.1), (9, 8), (SCALE, SCALE)
    galactic = WCS(naxis=2)
    centre = view.coordinates[0].galactic
    galactic.wcs.ctype = "GLON-TAN", "GLAT-TAN"
    galactic.wcs.crval, galactic.wcs.crpix = (centre.l.deg, centre.b.deg), (11, 12)
    galactic.wcs.cdelt = -SCALE, SCALE
    for wcs in (view.wcs, [swapped] * 5, [galactic, *view.wcs[1:]]):
        other = View(view.data, variance=1.0, mixing={"a": Identity(SHAPE)}, wcs=wcs,
                     coordinates=view.coordinates)  # fmt: skip
        samples = PosteriorSamples({"a": view.data[None]}, other)
        expected = [w.world_to_pixel(c) for w, c in zip(wcs, view.coordinates, strict=True)]
        np.testing.assert_allclose(samples.positions, expected, atol=1e-6)
    np.testing.assert_allclose(samples.positions[0], [10, 11], atol=1e-6)
    bare = View(view.data, variance=1.0, mixing={"a": Identity(SHAPE)})
    samples = PosteriorSamples({"a": view.data[None]}, bare)
    np.testing.assert_array_equal(samples.positions, [[10, 10]] * 5)
    at_centre = samples.flux("a", 3.0)
    assert at_centre.shape == (1, 5, 2)


def test_catalog_is_the_statistics_of_the_fluxes(samples, view):
    catalog = samples.catalog(aperture=4.0)
    assert isinstance(catalog, QTable)
    assert catalog["id"].tolist() == [f"J{i}" for i in range(5)]
    assert catalog["sky_coord"].separation(view.coordinates).max() < 1e-9 * u.deg
    for name, aperture in (("flux", None), ("aperture_flux", 4.0)):
        flux = samples.flux("galaxy", aperture)[..., 1]
        np.testing.assert_allclose(catalog[f"galaxy_{name}_2"].value, flux.value.mean(0))
        error = catalog[f"galaxy_{name}_error_2"].value
        np.testing.assert_allclose(error, flux.value.std(0, ddof=1))
        low, high = (catalog[f"galaxy_{name}_p{p}_2"] for p in (16, 84))
        expected = np.quantile(flux.value, [0.16, 0.84], axis=0, method="weibull")
        np.testing.assert_allclose([low.value, high.value], expected)
    assert not [name for name in catalog.colnames if name.startswith("los_")]
    np.testing.assert_allclose(catalog["chi2"], samples.chi2.mean(0))
    assert catalog["n_valid"].tolist() == (~view.mask).sum(axis=(1, 2, 3)).tolist()
    assert catalog.meta["aperture"] == "4.0"
    assert catalog.meta["seed"] == 7


def test_catalog_is_written_as_ecsv(samples, tmp_path):
    catalog = samples.catalog()
    catalog.write(tmp_path / "c.ecsv")
    again = QTable.read(tmp_path / "c.ecsv")
    assert again.colnames == catalog.colnames
    assert again["galaxy_flux_1"].unit == u.uJy
    assert isinstance(again["sky_coord"], SkyCoord)


def test_nddata_is_an_image_with_error_and_wcs(samples, view, tmp_path):
    image = samples.nddata("galaxy", 3, band=1)
    np.testing.assert_array_equal(image.data, samples.mean["galaxy"].value[3, 1])
    np.testing.assert_array_equal(image.uncertainty.array, samples.std["galaxy"].value[3, 1])
    assert image.unit == u.uJy
    assert image.wcs is view.wcs[3]
    assert image.meta["OBJECT"] == "J3"
    image.write(tmp_path / "image.fits")


@pytest.mark.parametrize("with_samples", [False, True])
def test_fits_product(samples, view, tmp_path, with_samples):
    path = tmp_path / "separated.fits"
    told = ("noise: HDU ERR, standard deviation",) * with_samples
    conditions = SurveyConditions(0.2 * u.arcsec, [1.0] * u.uJy, provenance=told)
    view.conditions = SurveyConditions.from_state(conditions.state())
    samples.write(path, samples=with_samples, aperture=4.0)
    cubes = ["LOS_MEAN", "LOS_STD", "GALAXY_MEAN", "GALAXY_STD"]
    cubes += ["LOS_SAMPLES", "GALAXY_SAMPLES", "VIEW"] * with_samples
    with fits.open(path, checksum=True) as hdus:
        hdus.verify("exception")
        assert {hdu.name for hdu in hdus} == {"PRIMARY", "CATALOG", "DATA", "RESIDUAL", *cubes}
        header = hdus[0].header
        assert (header["MODEL"], header["MODELSHA"]) == ("model.asdf", 64 * "a")
        assert (header["DDPRISMV"], header["SEED"], header["NSAMPLES"]) == ("0.1", 7, 12)
        assert header["SOURCES"] == "los,galaxy"
        assert "sampler = ddim" in str(header["HISTORY"])
        assert ("noise: HDU ERR, standard deviation" in header["HISTORY"]) is with_samples
        for source in view.sources:
            for kind, images in (("MEAN", samples.mean), ("STD", samples.std)):
                hdu = hdus[f"{source}_{kind}"]
                assert hdu.header["BUNIT"] == "uJy"
                np.testing.assert_array_equal(hdu.data, images[source].value)
        if with_samples:
            assert hdus["GALAXY_SAMPLES"].data.shape == (12, 5, *SHAPE)
        np.testing.assert_array_equal(hdus["DATA"].data, view.data)
        residual = hdus["RESIDUAL"].data
        np.testing.assert_allclose(residual, samples.residual().mean(0), atol=1e-5)
        assert hdus["CATALOG"].header["APERTURE"] == "4.0"
    table = QTable.read(path, hdu="CATALOG")
    np.testing.assert_allclose(table["ra"].to_value(u.deg), view.coordinates.ra.deg)
    assert table["galaxy_flux_1"].unit == u.uJy
    if shutil.which("fitsverify"):
        subprocess.run(["fitsverify", "-q", str(path)], check=True)
    with pytest.raises(InputError, match="existing file"):
        samples.write(path)


def test_text_that_fits_does_not_hold(view, tmp_path):
    """Names in any script come back; keywords are escaped, and the file stays readable."""
    ids = ["星1", "é", "plain", "α Cen", str(2**63)]
    images = {"galaxie\u0301": view.data, "los": view.data}
    mixing = {source: Identity(SHAPE) for source in images}
    named = View(view.data, variance=1.0, mixing=mixing, ids=ids, unit="uJy", wcs=view.wcs,
                 coordinates=view.coordinates, name="ci\u00e9l")  # fmt: skip
    draws = {source: np.ones((2, 5, *SHAPE), "f4") for source in images}
    provenance = {"model": "mod\u00e8le.asdf", "note": "a\nb"}
    samples = PosteriorSamples(draws, named, provenance=provenance)
    path = tmp_path / "s.fits"
    samples.write(path)
    table = QTable.read(path, hdu="CATALOG")
    assert [str(np.char.decode(one, "utf-8")) for one in np.asarray(table["id"])] == ids
    with fits.open(path) as hdus:
        assert hdus[0].header["MODEL"] == "mod\\xe8le.asdf"
        assert hdus[0].header["VIEW"] == "ci\\xe9l"
        assert "note = a\\nb" in str(hdus[0].header["HISTORY"])
        assert "GALAXIE\\U0301_MEAN" in {hdu.name for hdu in hdus}
        hdus.verify("exception")


def test_every_cutout_lands_on_its_pixels_of_the_sky(tmp_path):
    """A point source of known RA and Dec is found there through the product's own columns."""
    wcs = image_wcs()
    star = SkyCoord(150.103 * u.deg, 2.197 * u.deg)
    x, y = wcs.world_to_pixel(star)
    image = np.zeros((400, 400), dtype=np.float32)
    yy, xx = np.mgrid[:400, :400]
    image += np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 2 / 1.5**2)
    corners = [(int(x) - dx, int(y) - dy) for dx, dy in ((10, 10), (6, 13), (15, 5))]
    cutouts = np.stack([image[b : b + 20, a : a + 20] for a, b in corners])[:, None]
    view = View(cutouts, variance=1.0, mixing={"galaxy": Identity((1, 20, 20))}, unit="uJy",
                wcs=[wcs[b : b + 20, a : a + 20] for a, b in corners])  # fmt: skip
    PosteriorSamples({"galaxy": cutouts[None]}, view).write(tmp_path / "s.fits")
    table = Table.read(tmp_path / "s.fits", hdu="CATALOG")
    yy, xx = np.mgrid[:20, :20]
    for row, separated in zip(table, fits.getdata(tmp_path / "s.fits", "GALAXY_MEAN"), strict=True):
        weight = separated[0] ** 2  # squared: the wings that a cutout loses weigh less
        here = (xx * weight).sum() / weight.sum(), (yy * weight).sum() / weight.sum()
        # A tenth of a pixel is 0.03 arcsec; the corner of the image is 60 arcsec away.
        assert row_wcs(row).pixel_to_world(*here).separation(star) < 0.1 * 0.3 * u.arcsec


def test_sources_without_pixels_have_no_fluxes(tmp_path):
    rng = np.random.default_rng(0)
    matrix = DenseMatrix(rng.normal(size=(4, 3, 5)))
    view = View(rng.normal(size=(4, 3)), variance=0.01, mixing={"a": matrix})
    samples = PosteriorSamples({"a": rng.normal(size=(6, 4, 5))}, view)
    assert samples.catalog().colnames == [
        "id", "chi2", "n_valid", "masked_fraction", "flags",
    ]  # fmt: skip
    assert samples.mean["a"].wcs is None
    for use in (lambda: samples.flux("a"), lambda: samples.nddata("a", 0)):
        with pytest.raises(InputError, match=r"source 'a': found shape \(5,\)"):
            use()
    samples.write(tmp_path / "a.fits")
    with fits.open(tmp_path / "a.fits") as hdus:
        assert hdus["A_MEAN"].data.shape == (4, 5)
        assert "BUNIT" not in hdus["A_MEAN"].header


def test_sources_on_pixels_that_no_wcs_tells():
    """Theirs are not the image's: apertures are in pixels, about their middle."""
    wcs = image_wcs()[:8, :8]
    matrix = DenseMatrix(np.kron(np.eye(16), np.ones((1, 4))).T, (1, 4, 4), (1, 8, 8))
    view = View(np.ones((1, 1, 8, 8)), variance=1.0, mixing={"a": matrix}, wcs=[wcs])
    samples = PosteriorSamples({"a": np.ones((3, 1, 1, 4, 4))}, view)
    assert samples.flux("a", 1.0)[0, 0, 0].value == pytest.approx(np.pi)
    assert "a_sky_centroid" not in samples.catalog(aperture=1.0).colnames
    with pytest.raises(InputError, match=r"aperture: found 1\.0 arcsec"):
        samples.flux("a", 1 * u.arcsec)
    assert samples.aperture_radius(0.6 * u.arcsec)[0] == pytest.approx(2)


def test_bad_samples_are_named(samples, view):
    good = {source: x.value for source, x in samples.samples.items()}
    with pytest.raises(InputError, match="found sources los, expected los, galaxy"):
        PosteriorSamples({"los": good["los"]}, view)
    with pytest.raises(InputError, match=r"samples\['galaxy'\]: found shape \(12, 4, 2, 20, 20\)"):
        PosteriorSamples({**good, "galaxy": good["galaxy"][:, :4]}, view)
    with pytest.raises(InputError, match="expected one of los, galaxy"):
        samples.flux("star")
    with pytest.raises(InputError, match=r"aperture: found 3\.0 m"):
        samples.flux("galaxy", 3 * u.m)
    with pytest.raises(InputError, match="radius"):
        samples.flux("galaxy", -1)


# --- several instruments ----------------------------------------


@pytest.fixture
def both(pairs):
    """Samples of the truth, scattered by a hundredth."""
    view, truth = pairs()
    scatter = np.random.default_rng(3).normal(1, 0.01, (8, *truth.shape))
    return PosteriorSamples({"galaxy": truth * scatter}, view)


def test_images_of_each_instrument(both):
    view = both.view
    assert list(both.images) == ["fine", "coarse"]
    total = 0
    for name, part in both.images.items():
        assert part.view is view.images[name]
        assert part.samples["galaxy"].base is not None  # shared, not copied
        x = torch.tensor(both.samples["galaxy"].value[2], dtype=torch.float32)
        expected = part.view.mixing["galaxy"](x)
        np.testing.assert_allclose(part.model().value[2], expected, atol=1e-5)
        assert np.isnan(part.residual()[:, part.view.mask]).all()
        with np.errstate(invalid="ignore"):
            total = total + np.nan_to_num(part.chi2) * part.view.n_valid()
    np.testing.assert_allclose(both.chi2, total / view.n_valid(), rtol=1e-5)
    assert abs(both.chi2.mean() - 1) < 0.15  # 6 observations of up to 305 pixels
    assert np.isnan(both.images["fine"].chi2[:, ::3]).all()
    with pytest.raises(InputError, match=r"several instruments.*\['fine'\]|'fine', 'coarse'"):
        both.model()
    with pytest.raises(InputError, match="several instruments"):
        both.residual()


def test_sources_of_several_instruments_are_on_the_sky(both):
    mean = both.mean["galaxy"]
    assert mean.wcs is both.view.source_wcs
    image = both.nddata("galaxy", 4, band=1)
    assert image.wcs.pixel_to_world(7.5, 7.5).separation(both.view.coordinates[4]) < 1e-6 * u.arcsec
    inner = both.flux("galaxy", 0.4 * u.arcsec)
    np.testing.assert_allclose(inner.value, both.flux("galaxy", 4.0).value, rtol=1e-4)
    assert (inner < both.flux("galaxy")).all()
    catalog = both.catalog()
    assert catalog["n_valid_fine"].tolist() == both.view.images["fine"].n_valid().tolist()
    assert np.isnan(catalog["chi2_fine"][0])
    assert np.isfinite(catalog["chi2_coarse"]).all()


def test_fits_product_of_several_instruments(both, tmp_path):
    path = tmp_path / "separated.fits"
    both.write(path)
    with fits.open(path, checksum=True) as hdus:
        hdus.verify("exception")
        names = [f"{kind}_{i}" for i in ("FINE", "COARSE") for kind in ("DATA", "RESIDUAL", "WCS")]
        expected = ["PRIMARY", "CATALOG", *names, "GALAXY_MEAN", "GALAXY_STD"]
        assert [hdu.name for hdu in hdus] == expected
        for name, part in both.images.items():
            np.testing.assert_array_equal(hdus[f"DATA_{name}"].data, part.view.data)
            residual = part.residual().mean(axis=0)
            np.testing.assert_allclose(hdus[f"RESIDUAL_{name}"].data, residual, atol=1e-5)
    target = both.view.coordinates[2]
    for hdu, middle in (("CATALOG", 7.5), ("WCS_FINE", 7.5), ("WCS_COARSE", 2)):
        row = Table.read(path, hdu=hdu)[2]
        assert row["id"] == "2"
        assert row_wcs(row).pixel_to_world(middle, middle).separation(target) < 1e-3 * u.arcsec
    if shutil.which("fitsverify"):
        subprocess.run(["fitsverify", "-q", str(path)], check=True)


def test_photon_noise_is_that_of_each_sample():
    """Residuals and chi-squared of the true light scatter as they should, with its own noise."""
    rng, shape, gain = np.random.default_rng(0), (1, 8, 8), 4.0
    light = np.stack([np.full((300, *shape), 20.0), np.full((300, *shape), 80.0)])
    data = rng.poisson(gain * light[1]) / gain + rng.normal(size=light[1].shape)
    view = View(data, variance=1.0, effective_gain=gain, mixing={"a": Identity(shape)})
    samples = PosteriorSamples({"a": light}, view)
    variance = 1 + light / gain
    expected = (data - light) / np.sqrt(variance)
    np.testing.assert_allclose(samples.residual(), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(samples.chi2, np.square(expected).mean((2, 3, 4)), rtol=1e-4)
    # 19,200 pixels: 1 %.
    assert samples.chi2[1].mean() == pytest.approx(1, abs=0.04)
