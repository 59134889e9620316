import galsim
import numpy as np
import pytest
from astropy import units as u
from photutils.aperture import CircularAperture, aperture_photometry
from photutils.profiles import CurveOfGrowth

from astro_ddprism.errors import InputError
from astro_ddprism.posterior.photometry import adaptive_moments, ellipse, half_light_radius, measure

SIZE = 40
PIXEL = 1 / 12  # variance that a pixel adds to an axis


def gaussian(a, b, angle, centre, flux=1.0, size=SIZE):
    """An elliptical Gaussian, sampled at the pixels' centres; angle in degrees from x to y."""
    y, x = np.mgrid[:size, :size].astype(float)
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    x, y = x - centre[0], y - centre[1]
    along, across = (cos * x + sin * y) / a, (cos * y - sin * x) / b
    return flux * np.exp(-(along**2 + across**2) / 2) / (2 * np.pi * a * b)


def sersic(n, radius, q, angle, shift, flux):
    """A Sersic profile that GalSim draws, without a pixel."""
    profile = galsim.Sersic(n=n, half_light_radius=radius, flux=flux)
    profile = profile.shear(q=q, beta=angle * galsim.degrees).shift(*shift)
    return profile.drawImage(nx=64, ny=64, scale=1, dtype=float, method="auto")


@pytest.mark.parametrize(
    ("a", "b", "angle"), [(3.0, 3.0, 0.0), (4.0, 2.0, 30.0), (3.5, 2.5, -70.0), (2.5, 1.5, 90.0)]
)
def test_gaussians_have_their_own_moments(a, b, angle):
    centre = 20.3, 18.6
    found = measure(gaussian(a, b, angle, centre, 7.0)[np.newaxis, np.newaxis] * u.nJy)
    assert found.flux.unit == u.nJy
    assert found.flux[0, 0].value == pytest.approx(7, rel=1e-3)
    np.testing.assert_allclose(found.centroid[0, 0], centre, atol=1e-3)
    assert found.ellipticity[0, 0] == pytest.approx(1 - b / a, abs=1e-3)
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    axes = np.array([[cos, -sin], [sin, cos]])
    expected = axes @ np.diag([a**2, b**2]) @ axes.T
    np.testing.assert_allclose(found.covariance[0, 0], expected, atol=2e-2)
    if a > b:
        assert (found.orientation[0, 0] - angle + 90) % 180 == pytest.approx(90, abs=0.1)
    assert found.aperture_flux is None
    assert found.defined.all()


@pytest.mark.parametrize("sigma", [1.5, 2.5, 4.0])
def test_half_light_radius_of_a_gaussian(sigma):
    """A pixel's light is spread over its area: that widens the curve of growth."""
    radius = half_light_radius(gaussian(sigma, sigma, 0, (19.6, 20.2))[None], [(19.6, 20.2)])[0]
    assert radius == pytest.approx(np.sqrt(2 * np.log(2) * (sigma**2 + PIXEL)), rel=2e-3)


@pytest.mark.parametrize(("n", "q"), [(0.5, 0.6), (1.0, 0.5), (1.0, 1.0), (2.0, 0.7)])
def test_sersic_profiles_of_galsim(n, q):
    image = sersic(n, 4.0, q, 35.0, (0.31, -0.42), 50.0)
    found = measure(image.array[np.newaxis, np.newaxis], aperture=6.0)
    centre = 31.5 + np.array([0.31, -0.42])
    # A cusp narrower than a pixel, at its corner, is not where the pixels say.
    np.testing.assert_allclose(found.centroid[0, 0], centre, atol=1e-3 if n < 2 else 1e-2)
    assert found.flux[0, 0] == pytest.approx(50, rel=2e-3 if n < 2 else 1.5e-2)
    # The pixel makes it rounder, too.
    assert found.ellipticity[0, 0] == pytest.approx(1 - q, abs=1e-2 if n < 2 else 1.5e-2)
    if q < 1:
        assert found.orientation[0, 0] == pytest.approx(35, abs=0.2 if n < 2 else 0.5)
    # Two independent implementations.
    growth = CurveOfGrowth(image.array, centre, np.linspace(0.2, 44, 500))
    half = 0.5 * image.array.sum() / growth.profile.max()
    growth.normalize()
    expected = growth.calc_radius_at_ee(np.array([half]))
    assert found.half_light_radius[0, 0] == pytest.approx(expected[0], rel=5e-3)
    hsm = galsim.hsm.FindAdaptiveMom(image, precision=1e-8)
    assert np.linalg.det(found.covariance[0, 0]) ** 0.25 == pytest.approx(
        hsm.moments_sigma, rel=1e-4
    )
    np.testing.assert_allclose(
        found.centroid[0, 0] + 1, [hsm.moments_centroid.x, hsm.moments_centroid.y], atol=1e-5
    )
    circle = CircularAperture((32, 32), 6.0)
    flux = aperture_photometry(image.array, circle)["aperture_sum"][0]
    assert found.aperture_flux[0, 0] == pytest.approx(flux, rel=1e-12)


def test_half_light_radius_of_round_sersics():
    """That of the profile itself, to the pixel and what the image cuts off."""
    for n, radius in ((0.5, 3.0), (1.0, 4.0), (1.5, 5.0)):
        image = sersic(n, radius, 1.0, 0.0, (0, 0), 1.0).array
        found = half_light_radius(image[None], [(31.5, 31.5)])[0]
        assert found == pytest.approx(radius, rel=0.02)


def test_far_texture_moves_nothing():
    """The window ends at the object; moments of the whole image do not."""
    rng = np.random.default_rng(0)
    clean = gaussian(2.5, 1.8, 20, (20, 20))
    y, x = np.mgrid[:SIZE, :SIZE]
    far = np.hypot(x - 20, y - 20) > 14
    texture = np.where(far, rng.normal(0, 0.01 * clean.max(), clean.shape), 0)
    texture[far] -= texture[far].mean()  # so that the total flux is the same
    before, after = (measure(image[None, None]) for image in (clean, clean + texture))
    np.testing.assert_allclose(after.centroid, before.centroid, atol=1e-4)
    np.testing.assert_allclose(after.covariance, before.covariance, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(after.half_light_radius, before.half_light_radius, rtol=1e-4)
    whole = np.sum((clean + texture) * (x - 20)) / clean.sum()
    assert abs(whole) > 0.05  # plain first moments are off by far more


def test_errors_of_zero_mean_leave_fluxes_unbiased():
    rng = np.random.default_rng(1)
    clean = gaussian(2.5, 2.0, 0, (20, 20), 1.0)
    noise = 0.001 * rng.normal(size=(2000, 1, 1, *clean.shape))
    images = clean + noise[:20]
    found = measure(images, aperture=5.0)
    np.testing.assert_allclose(found.flux, images.sum(axis=(-2, -1)))
    # The noise of a sum is that of a pixel times the root of their number.
    total = (clean + noise).sum(axis=(-2, -1))[:, 0, 0]
    assert total.mean() == pytest.approx(1, abs=4 * 0.04 / np.sqrt(2000))
    assert total.std() == pytest.approx(0.001 * SIZE, rel=0.06)


def test_no_flux_no_shape():
    clean = gaussian(3, 2, 0, (20, 20))
    dipole = gaussian(2, 2, 0, (18, 20)) - gaussian(2, 2, 0, (22, 20)) + 1e-9
    images = np.stack([clean, -clean, np.zeros_like(clean), np.full_like(clean, np.nan), dipole])
    images = np.concatenate([images, [clean - clean.mean()]])  # its sum is nothing but rounding
    found = measure(images[:, np.newaxis])
    assert found.defined[:, 0].tolist()[:4] == [True, False, False, False]
    for values in (found.half_light_radius, found.centroid, found.covariance, found.ellipticity):
        assert np.isnan(values[1:4]).all()
    np.testing.assert_allclose(found.flux[:3, 0], [1, -1, 0], rtol=1e-6)
    # Whatever else they are, sums without light are no errors.
    assert found.half_light_radius.shape == (6, 1)


def test_an_object_elsewhere_is_not_the_object():
    """Ten pixels is a quarter of the image: what is farther is not looked for."""
    images = np.stack([gaussian(2, 2, 0, (20 + d, 20))[None] for d in (4, 9, 13)])
    found = measure(images)
    assert found.defined[:, 0].tolist() == [True, True, False]
    np.testing.assert_allclose(found.centroid[:2, 0, 0], [24, 29], atol=1e-3)
    moved = measure(images, positions=[(24, 20), (29, 20), (33, 20)])
    np.testing.assert_allclose(moved.centroid[:, 0, 0], [24, 29, 33], atol=1e-2)


def test_windows_that_open_or_close():
    flat = np.ones((1, 20, 20))
    point = np.zeros((1, 21, 21))
    point[0, 10, 10] = 1
    for image in (flat, point):
        middle = [(np.array(image.shape[1:]) - 1) / 2]
        centroid, covariance = adaptive_moments(image, np.array(middle), np.array([2.0]))
        assert np.isnan(centroid).all()
        assert np.isnan(covariance).all()
    # Light of one pixel fills it: the circle of half its area.
    radius = half_light_radius(point, [(10, 10)])[0]
    assert radius == pytest.approx(np.sqrt(0.5 / np.pi), rel=1e-4)


def test_every_sample_band_and_position_is_its_own(monkeypatch):
    rng = np.random.default_rng(2)
    centres = rng.uniform(18, 22, (3, 4, 2, 2))
    sigma = rng.uniform(2, 3, (3, 4, 2))
    images = np.stack(
        [gaussian(s, s, 0, c) for s, c in zip(sigma.ravel(), centres.reshape(-1, 2), strict=True)]
    ).reshape(3, 4, 2, SIZE, SIZE)
    monkeypatch.setattr("astro_ddprism.posterior.photometry.BATCH_SIZE", 5)
    found = measure(images.astype("f4"), centres.mean(axis=(0, 2)))
    np.testing.assert_allclose(found.centroid, centres, atol=1e-3)
    size = np.sqrt(np.linalg.det(found.covariance)) ** 0.5
    np.testing.assert_allclose(size, sigma, rtol=2e-3)
    assert found.half_light_radius.shape == (3, 4, 2)


def test_fluxes_far_from_one():
    """In W / m2 they are smaller than the least float32."""
    image = gaussian(3, 2, 40, (20, 20), 1e-55)[None, None]
    found = measure(image)
    assert found.flux[0, 0] == pytest.approx(1e-55, rel=1e-3)
    assert found.ellipticity[0, 0] == pytest.approx(1 / 3, abs=1e-3)


def test_ellipse_of_covariances():
    rng = np.random.default_rng(3)
    root = rng.normal(size=(50, 2, 2))
    covariance = root @ np.swapaxes(root, 1, 2)
    e, angle = ellipse(covariance)
    values, vectors = np.linalg.eigh(covariance)
    np.testing.assert_allclose(e, 1 - np.sqrt(values[:, 0] / values[:, 1]), atol=1e-7)
    expected = np.rad2deg(np.arctan2(vectors[:, 1, 1], vectors[:, 0, 1]))
    np.testing.assert_allclose((angle - expected + 90) % 180, 90, atol=1e-6)
    assert ellipse(np.eye(2))[0] == 0


def test_bad_input_is_named():
    with pytest.raises(InputError, match=r"images: found shape \(3, 8, 8\)"):
        measure(np.ones((3, 8, 8)))
    with pytest.raises(InputError, match=r"positions: found shape \(2, 2\), expected \(3, 2\)"):
        measure(np.ones((3, 1, 8, 8)), positions=[(1, 2), (3, 4)])
    with pytest.raises(InputError, match="radius"):
        measure(np.ones((3, 1, 8, 8)), aperture=-1)
