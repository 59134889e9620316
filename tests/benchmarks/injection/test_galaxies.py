import numpy as np
import pytest

pytest.importorskip("galsim")

import galsim

from astro_ddprism.simulate.population import simulate_field
from astro_ddprism.survey import read_image
from benchmarks.injection.gain import effective_gain, likely_gain
from benchmarks.injection.galaxies import OVERSAMPLING, GalaxyCatalog


@pytest.fixture(scope="module")
def catalog(cosmos):
    """Through a Moffat PSF, its pixel included."""
    pixel = 0.339
    psf = galsim.Convolve(galsim.Moffat(3.5, fwhm=0.8), galsim.Pixel(pixel))
    size = 25 * OVERSAMPLING + 1
    fine = psf.drawImage(nx=size, ny=size, scale=pixel / OVERSAMPLING, method="no_pixel").array
    return GalaxyCatalog(cosmos, fine / fine.sum(), pixel), psf


def test_galaxies_against_galsim_itself(catalog, cosmos):
    """The same galaxy, drawn by GalSim with the PSF as a profile and the pixel by integration."""
    galaxies, _ = catalog
    rng = np.random.default_rng(1)
    drawn = galaxies.draw(1e-9, 100.3, 57.8, 32, 0.95, rng)
    again = np.random.default_rng(1)
    source = galsim.COSMOSCatalog(
        "real_galaxy_catalog_23.5_example.fits", dir=str(cosmos), use_real=False,
        exclusion_level="none",
    )  # fmt: skip
    # The random numbers as they were drawn; galaxies that are too large are passed over.
    while (index := int(again.integers(source.nobjects))) != drawn.index:
        again.uniform(0, 360)
    angle = again.uniform(0, 360) * galsim.degrees
    galaxy = source.makeGalaxy(index, gal_type="parametric").withFlux(1e-9).rotate(angle)
    seen = galsim.Convolve(galaxy, galsim.Moffat(3.5, fwhm=0.8))
    image = galsim.ImageD(galsim.BoundsI(84, 115, 42, 73), scale=0.339)
    seen.drawImage(image, center=galsim.PositionD(100.3, 57.8))
    np.testing.assert_allclose(drawn.cutout, image.array, atol=5e-3 * image.array.max())
    assert drawn.cutout.sum() == pytest.approx(image.array.sum(), rel=5e-3)
    here = drawn.stamp[42 - drawn.y0 :, 84 - drawn.x0 :][:32, :32]
    np.testing.assert_array_equal(here, drawn.cutout)


def test_large_galaxies_are_passed_over(catalog):
    rng = np.random.default_rng(2)
    parts = [catalog[0].draw(1.0, 0, 0, 32, 0.97, rng).cutout.sum() for _ in range(20)]
    assert min(parts) >= 0.97
    with pytest.raises(RuntimeError, match="no galaxy in 3 fits into 4 pixels"):
        catalog[0].draw(1.0, 0, 0, 4, 0.97, rng, attempts=3)


def test_psf_at_pixels(catalog):
    galaxies, psf = catalog
    expected = psf.drawImage(nx=25, ny=25, scale=0.339, method="no_pixel").array
    np.testing.assert_allclose(galaxies.psf_at_pixels(), expected, atol=2e-3 * expected.max())


def test_gain_makes_photons_of_the_noise():
    """Sky photons, counted with the gain, scatter by the noise that the gain was told."""
    noise, pixel, magnitude = 4.5e-12, 0.339, 21.0
    gain = effective_gain(noise, pixel, magnitude)
    sky = 10 ** (-0.4 * magnitude) * pixel**2
    counts = np.random.default_rng(0).poisson(gain * sky, 100_000) / gain
    assert counts.std() == pytest.approx(noise, rel=0.02)
    # A zero point of a telescope of 2.6 m: 25 to 26 magnitudes for an electron a second.
    assert 25 < 2.5 * np.log10(gain / 1800) < 26


def test_gain_knows_the_zero_point():
    """A star of 21 mag makes as many electrons, whatever the image's unit."""
    field = simulate_field((64, 64), seed=0)
    electrons = []
    for zero_point in (0.0, 23.9, 30.0):
        unit = 10 ** (0.4 * (zero_point - 23.9))
        image = read_image(field.image.multiply(unit))
        electrons.append(10 ** (0.4 * (zero_point - 21)) * likely_gain(image, zero_point))
    np.testing.assert_allclose(electrons, electrons[0], rtol=1e-6)
    # The sky is as bright in a square arcsecond: electrons enough to make the noise.
    noise = field.image.uncertainty.array[0, 0]
    pixel = field.image.wcs.proj_plane_pixel_scales()[0].to_value("arcsec")
    sky = 10 ** (0.4 * (23.9 - 21)) * pixel**2
    assert sky / noise**2 * sky == pytest.approx(electrons[0] * pixel**2, rel=1e-3)


def test_psf_is_that_of_the_field(scene, simulated_tile):
    """The simulated field's own PSF, which the stars have; to 2 % of its peak."""
    expected = simulated_tile[1].psf
    assert scene.psf.shape == expected.shape
    np.testing.assert_allclose(scene.psf, expected, atol=0.02 * expected.max())
    assert scene.psf.sum() == pytest.approx(1)
