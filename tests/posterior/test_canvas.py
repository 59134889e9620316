"""Galaxies pasted back: against an image whose every galaxy is known."""

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.wcs import WCS

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset, PosteriorSamples, View
from astro_ddprism.errors import InputError
from astro_ddprism.mixing import Convolution, Identity
from astro_ddprism.posterior.canvas import Canvas
from astro_ddprism.survey import read_image
from astro_ddprism.survey.images import SurveyImage

SIZE = 16
SIGMA = 0.5


@pytest.fixture
def scene(wcs):
    """An image of 64 x 64, four galaxies, two of which share their cutouts, one at the edge."""
    rng = np.random.default_rng(0)
    places = np.array([[20, 22], [26, 25], [50, 12], [2, 60]])  # x, y
    y, x = np.mgrid[:64, :64]
    galaxies = np.array(
        [20 * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 4) for a, b in places], dtype=np.float32
    )
    rest = (0.5 + 0.02 * x).astype(np.float32)
    mask = np.zeros((1, 64, 64), dtype=bool)
    mask[0, 22, 18] = True
    data = (galaxies.sum(0) + rest + rng.normal(0, SIGMA, (64, 64)))[None].astype(np.float32)
    image = SurveyImage(
        data=np.where(mask, 1e6, data), variance=np.where(mask, np.inf, SIGMA**2), mask=mask,
        wcs=wcs, unit=u.uJy, names=("r",), saturated=np.zeros_like(mask), filename="image.fits",
        files=(), effective_gain=None, psf=None,
    )  # fmt: skip
    return image, places, galaxies, rest


def cut(values, corner, fill=0.0):
    """A cutout that may reach over the edge."""
    padded = np.pad(values, SIZE, constant_values=fill)
    x, y = corner + SIZE
    return padded[y : y + SIZE, x : x + SIZE]


def separated(scene, rows, unit="uJy", shift=0.0, operator=None):
    """Samples around the truth of some galaxies, each of which knows its own and the rest."""
    image, places, galaxies, rest = scene
    corners = places[rows] - SIZE // 2
    truth = np.array([cut(galaxies[i], c) for i, c in zip(rows, corners, strict=True)])
    others = np.array(
        [cut(galaxies.sum(0) - galaxies[i] + rest, c) for i, c in zip(rows, corners, strict=True)]
    )
    wcs = []
    for x, y in corners:
        one = image.wcs.deepcopy()
        one.wcs.crpix -= np.array([x, y]) + shift
        wcs.append(one)
    mask = np.array([cut(image.mask[0], c, True) for c in corners])[:, None]
    data = np.array([cut(image.data[0], c) for c in corners])[:, None] * u.uJy
    operator = operator or Identity((1, SIZE, SIZE))
    view = View(
        data.to(unit), variance=(SIGMA**2 * u.uJy**2).to(u.Unit(unit) ** 2), mask=mask, wcs=wcs,
        mixing={"los": operator, "galaxy": operator}, ids=[f"g{i}" for i in rows], name="galaxy",
        coordinates=image.wcs.pixel_to_world(*places[rows].T),
    )  # fmt: skip
    scatter = np.linspace(-1, 1, 3).reshape(3, 1, 1, 1, 1)  # no change of the mean
    draws = {"los": others[None, :, None] + scatter, "galaxy": truth[None, :, None] - scatter}
    return PosteriorSamples({s: x * u.uJy for s, x in draws.items()}, view)


def test_the_truth_comes_back(scene, tmp_path):
    image, _, galaxies, rest = scene
    canvas = Canvas(image)
    for rows in ([0, 1], [2, 3]):  # in pieces, as of a large tile
        canvas.add(separated(scene, rows, unit="mJy" if rows == [2, 3] else "uJy"))
    covered = canvas.coverage > 0
    assert canvas.coverage.max() == 2
    assert not covered.all()
    # A galaxy reaches over its cutout by what is left of its light there.
    np.testing.assert_allclose(canvas.galaxies[0], galaxies.sum(0), atol=1e-3)
    np.testing.assert_allclose(canvas.rest[0][covered], rest[covered], atol=2e-3)
    assert np.isnan(canvas.rest[0][~covered]).all()
    assert (canvas.galaxies[0][~covered] == 0).all()
    residual = canvas.residual()
    known = covered & ~image.mask[0]
    expected = (image.data[0] - galaxies.sum(0) - rest) / SIGMA
    np.testing.assert_allclose(residual[0][known], expected[known], atol=5e-3)
    assert abs(residual[0][known].std() - 1) < 0.05
    assert np.isnan(residual[0][~known]).all()

    canvas.write(tmp_path / "tile.fits")
    with fits.open(tmp_path / "tile.fits") as hdus:
        hdus.verify("exception")
        names = ["PRIMARY", "DATA", "GALAXY", "REST", "RESIDUAL", "COVERAGE"]
        assert [hdu.name for hdu in hdus] == names
        for hdu in hdus[1:]:
            assert hdu.shape == (64, 64)
            assert WCS(hdu.header).wcs.compare(image.wcs.wcs, tolerance=1e-9)
        assert hdus["GALAXY"].header["BUNIT"] == "uJy"
        together = hdus["GALAXY"].data + hdus["REST"].data - hdus["DATA"].data
        assert np.nanstd(together) == pytest.approx(SIGMA, rel=0.05)
    with pytest.raises(InputError, match="existing file"):
        canvas.write(tmp_path / "tile.fits")


def test_overlaps_have_no_seams(scene):
    """Cutouts that disagree are averaged with weights that fall to their edges."""
    image, *_ = scene
    samples = separated(scene, [0, 1])
    brighter = {s: x.value.copy() for s, x in samples.samples.items()}
    brighter["los"][:, 1] += 10  # microjansky a pixel
    brighter["galaxy"][:] = 0
    brighter["los"][:, 0] = 0
    brighter["los"][:, 1] = 10
    canvas = Canvas(image)
    canvas.add(PosteriorSamples(brighter, samples.view))
    row = canvas.rest[0, 22, 12:34]  # cutouts begin at 12 and at 18, and end at 28 and 34
    assert (np.diff(row) >= 0).all()
    assert np.diff(row).max() < 2.5
    assert row[0] == 0
    assert row[-1] == 10


@pytest.mark.parametrize("n_samples", [1, 4, 16])
def test_how_much_of_the_noise_the_mean_follows(scene, tmp_path, n_samples):
    """Draws of the exact posterior of light of a known variance leave what they make expect."""
    image, *_ = scene
    rng = np.random.default_rng(n_samples)
    prior = 0.3  # variance of each pixel of the light
    light = rng.normal(0, prior**0.5, (64, 64))
    image.data[:] = light + rng.normal(0, SIGMA, (64, 64))
    gain, spread = prior / (prior + SIGMA**2), (1 / (1 / prior + 1 / SIGMA**2)) ** 0.5
    corners = [(x, y) for x in range(0, 64, SIZE) for y in range(0, 64, SIZE)]
    data = np.array([cut(image.data[0], np.array(c)) for c in corners])[:, None]
    wcs = []
    for corner in corners:
        wcs.append(image.wcs.deepcopy())
        wcs[-1].wcs.crpix -= corner
    view = View(
        data * u.uJy, variance=SIGMA**2 * u.uJy**2, wcs=wcs,
        mixing={"galaxy": Identity((1, SIZE, SIZE))}, name="galaxy",
    )  # fmt: skip
    draws = gain * data + spread * rng.normal(size=(n_samples, *data.shape))
    canvas = Canvas(image)
    canvas.add(PosteriorSamples({"galaxy": draws.astype(np.float32) * u.uJy}, view))
    found, expected = canvas.residual_std()
    exact = np.sqrt(1 - (spread / SIGMA) ** 2 * (1 - 1 / n_samples))
    assert found == pytest.approx(exact, rel=0.04)  # of 4,095 pixels, more than 3 errors
    assert expected == pytest.approx(exact, rel=0.02)
    canvas.write(tmp_path / "tile.fits")
    header = fits.getheader(tmp_path / "tile.fits", "RESIDUAL")
    assert (header["RESSTD"], header["RESEXP"]) == (found, expected)


def test_nothing_pasted_has_no_residual(scene):
    assert np.isnan(Canvas(scene[0]).residual_std()).all()


def test_light_is_as_the_image_sees_it(scene):
    image, *_ = scene
    blur = Convolution(np.full((3, 3), 1 / 9), (1, SIZE, SIZE))
    samples = separated(scene, [2], operator=blur)
    canvas = Canvas(image)
    canvas.add(samples)
    seen = samples.component("galaxy").value.mean(0)[0, 0]
    np.testing.assert_allclose(canvas.galaxies[0, 4:20, 42:58], seen, atol=1e-5)


def test_what_is_no_cutout_of_the_image(scene, pairs):
    image, *_ = scene
    with pytest.raises(
        InputError, match=r"observation g2: found its first pixel at .* of image.fits"
    ):
        Canvas(image).add(separated(scene, [2], shift=0.3))
    far = separated(scene, [2], shift=500.0)
    with pytest.raises(InputError, match="observation g2 lies off the image"):
        Canvas(image).add(far)
    view, truth = pairs()
    with pytest.raises(InputError, match="no cutouts of one image, expected such of 1 bands"):
        Canvas(image).add(PosteriorSamples({"galaxy": truth[None]}, view))


def test_a_piece_of_a_survey(shared_data, tmp_path):
    """Galaxies and the rest add up to a real image, to within its noise, on its own pixels."""
    reproject_interp = pytest.importorskip("reproject").reproject_interp
    part = np.s_[2150:2450, 400:700]
    with fits.open(shared_data / "kids_viking" / "r.fits.fz") as hdus:
        data, header = (
            hdus["SCI"].data[part].astype("f4"),
            WCS(hdus["SCI"].header)[part].to_header(),
        )
    fits.writeto(tmp_path / "r.fits", data, header)
    image = read_image(tmp_path / "r.fits", estimate_noise=True, saturation="auto", zero_point=0)
    views = MultiViewDataset.from_image(image, psf_fwhm=0.9, n_random=0)
    separator = DiffusionSourceSeparator.read("kids-r", device="cpu", progress=False)
    canvas = Canvas(image)
    canvas.add(separator.sample(views, n_samples=2, seed=1))
    canvas.write(tmp_path / "tile.fits")
    with fits.open(tmp_path / "tile.fits") as hdus:
        together = hdus["GALAXY"].data + hdus["REST"].data
        again, footprint = reproject_interp(hdus["GALAXY"], image.wcs, shape_out=together.shape)
        np.testing.assert_allclose(again, hdus["GALAXY"].data, atol=1e-3)
    assert footprint.all()
    residual = (together - image.data[0]) / np.sqrt(image.variance[0])
    covered = (canvas.coverage > 0) & ~image.mask[0]
    assert covered.sum() > 10_000
    assert np.std(residual[covered]) == pytest.approx(1, abs=0.05)
    found, expected = canvas.residual_std()
    assert found == pytest.approx(expected, rel=0.05)
