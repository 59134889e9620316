import galsim
import numpy as np
import pytest
from scipy.special import gammaincinv

from astro_ddprism.errors import InputError
from astro_ddprism.simulate.profiles import MoffatRenderer, _sersic_transform

FWHM, BETA, SIZE = 2.4, 3.5, 96


def galsim_stamp(x, y, corner, radius, n, axis_ratio, theta):
    """The same object by GalSim, which renders by other code with other conventions."""
    accurate = galsim.GSParams(maximum_fft_size=16384, folding_threshold=1e-3)
    profile = galsim.Moffat(beta=BETA, fwhm=FWHM, gsparams=accurate)
    if radius > 0:
        # GalSim's half-light radius is the circularized one.
        sersic = galsim.Sersic(
            n, half_light_radius=radius * np.sqrt(axis_ratio), gsparams=accurate
        ).shear(q=axis_ratio, beta=theta * galsim.radians)
        profile = galsim.Convolve(sersic, profile, gsparams=accurate)
    centre = (SIZE - 1) / 2
    image = galsim.Image(SIZE, SIZE, dtype=float, scale=1)
    profile.drawImage(image, offset=(x - corner[0] - centre, y - corner[1] - centre))
    return image.array


@pytest.mark.parametrize(
    ("radius", "n", "axis_ratio", "theta"),
    [
        (0.0, 1.0, 1.0, 0.0),
        (1.3, 1.0, 1.0, 0.0),
        (3.0, 1.0, 0.4, 0.7),
        (2.0, 0.6, 0.3, 0.2),
        (1.3, 4.0, 0.8, 2.0),
        (5.0, 4.0, 0.6, 1.0),
        (3.0, 5.5, 0.7, 3.0),
    ],
)
def test_agrees_with_galsim(radius, n, axis_ratio, theta):
    x, y = 40.3, 38.8
    shape = {"radius": radius, "n": n, "axis_ratio": axis_ratio, "theta": theta}
    image, corner = MoffatRenderer(FWHM, BETA).stamp(x, y, size=SIZE, **shape)
    reference = galsim_stamp(x, y, corner, **shape)
    # Every pixel to 0.05 % of the brightest. What GalSim leaves beyond the stamp, up to 2.4 % of
    # the flux of the most extended profile, folds back here, so that the total flux is kept.
    assert np.abs(image - reference).max() < 5e-4 * reference.max()
    assert image.sum() == pytest.approx(1, abs=1e-9)


def test_sersic_transform_in_closed_form():
    log_k, exponential = _sersic_transform(1.0)
    scale = 1 / gammaincinv(2, 0.5)
    np.testing.assert_allclose(exponential, (1 + (np.exp(log_k) * scale) ** 2) ** -1.5, atol=1e-6)
    log_k, gaussian = _sersic_transform(0.5)
    variance = 1 / (2 * gammaincinv(1, 0.5))
    np.testing.assert_allclose(gaussian, np.exp(-np.exp(2 * log_k) * variance / 2), atol=1e-6)


def test_position_is_the_centroid():
    image, (x0, y0) = MoffatRenderer(FWHM, BETA).stamp(10.37, -3.81, size=64, radius=1.5)
    y, x = np.mgrid[y0 : y0 + 64, x0 : x0 + 64]
    assert (image * x).sum() == pytest.approx(10.37, abs=2e-3)
    assert (image * y).sum() == pytest.approx(-3.81, abs=2e-3)


@pytest.mark.parametrize(("radius", "n"), [(0.0, 1.0), (2.0, 1.0), (2.0, 4.0)])
def test_stamp_holds_all_light_above_the_level(radius, n):
    renderer, level = MoffatRenderer(FWHM, BETA), 1e-6
    size = int(renderer.stamp_size(level, radius, n))
    image, _ = renderer.stamp(0, 0, size=1024, radius=radius, n=n)
    image[512 - size // 2 : 512 + size // 2, 512 - size // 2 : 512 + size // 2] = 0
    assert image.max() < 1.5 * level  # the level is estimated from the profile and the PSF apart


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ({"fwhm": 1.0}, "fwhm"),
        ({"fwhm": np.nan}, "fwhm"),
        ({"fwhm": 2.5, "beta": 1.0}, "beta"),
    ],
)
def test_refuses_what_is_no_psf(arguments, culprit):
    with pytest.raises(InputError, match=culprit):
        MoffatRenderer(**arguments)
