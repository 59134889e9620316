import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from scipy.stats import kstest

from astro_ddprism.errors import InputError
from astro_ddprism.simulate.population import simulate_field


@pytest.fixture(scope="module")
def field():
    return simulate_field((300, 320), seed=3)


def test_same_seed_same_field(field):
    again, other = (simulate_field((300, 320), seed=seed) for seed in (3, 4))
    np.testing.assert_array_equal(again.image.data, field.image.data)
    assert not np.array_equal(other.image.data, field.image.data)


@pytest.mark.parametrize(
    ("kind", "slope", "bright", "faint", "pivot", "density"),
    [("galaxy", 0.37, 17, 27, 24, 12), ("star", 0.10, 15.5, 26, 20, 0.5)],
)
def test_counts_follow_the_slopes(field, kind, slope, bright, faint, pivot, density):
    table = field.catalog
    magnitude = table["magnitude"][table["kind"] == kind].value
    np.testing.assert_allclose(
        table["magnitude"].value, 23.9 - 2.5 * np.log10(table["flux"].to_value(u.uJy))
    )

    def counts(m):
        rate = slope * np.log(10)
        return density / rate * (np.exp(rate * (m - pivot)) - np.exp(rate * (bright - pivot)))

    arcmin2 = 348 * 368 * (0.34 / 60) ** 2  # with the margin of 24 pixels on all sides
    expected = arcmin2 * counts(faint)
    assert len(magnitude) == pytest.approx(expected, abs=4 * np.sqrt(expected))
    assert kstest(magnitude, lambda m: counts(m) / counts(faint)).pvalue > 0.01


def test_saturated_pixels_and_dead_columns_are_masked():
    field = simulate_field((200, 200), seed=1, saturation=1 * u.uJy, n_bad_columns=3)
    image = field.image
    assert image.data.max() <= np.float32(1)
    assert image.mask[image.data >= 1].all()
    assert image.mask.all(axis=0).sum() == 3
    assert (image.data[:, image.mask.all(axis=0)] == 0).all()


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"shape": (0, 10)}, "shape"),
        ({"noise": 0 * u.uJy}, "noise"),
        ({"galaxy_magnitudes": (27, 17)}, "magnitudes"),
        ({"fwhm": 0.5}, "fwhm"),
    ],
)
def test_refuses_what_is_no_field(options, culprit):
    with pytest.raises(InputError, match=culprit):
        simulate_field(**{"shape": (32, 32), "seed": 0, **options})


def test_photon_noise(field, tmp_path):
    """Its variance is that of the background and of the counted light."""
    gain = 50 * u.electron / u.uJy
    noisy = simulate_field((300, 320), seed=3, effective_gain=gain, n_bad_columns=0)
    np.testing.assert_array_equal(noisy.model, field.model)
    sigma = noisy.image.uncertainty.array[0, 0]
    assert sigma == field.image.uncertainty.array[0, 0]
    residual = noisy.image.data - noisy.model
    bright = (noisy.model > 0.2) & ~noisy.image.mask
    pull = residual / np.sqrt(sigma**2 + noisy.model / 50)
    n = bright.sum()
    assert n > 500
    # Counts of ten and more: the error of a variance is about sqrt(2 / n).
    assert np.square(pull[bright]).mean() == pytest.approx(1, abs=4 * np.sqrt(2 / n))
    assert np.square(residual[bright] / sigma).mean() > 10
    noisy.write(tmp_path / "field.fits")
    assert fits.getheader(tmp_path / "field.fits", "SCI")["EFFGAIN"] == 50


@pytest.mark.parametrize("gain", [-1 * u.electron / u.uJy, 3.0, 3 * u.electron, [1, 2] / u.uJy])
def test_gains_of_no_camera(gain):
    with pytest.raises(InputError, match=r"effective_gain: .*expected a positive number"):
        simulate_field((64, 64), seed=1, effective_gain=gain)


def test_fluxes_may_be_in_maggies():
    """A nanomaggie is 3.630780548 microjansky."""
    factor = 3.630780548
    given = {
        "noise": 0.03 * u.uJy,
        "saturation": 1 * u.uJy,
        "effective_gain": 50 * u.electron / u.uJy,
    }
    options = {"n_bad_columns": 0, "seed": 1}
    maggies = {"noise": 0.03 / factor * u.nmgy, "saturation": 1 / factor * u.nmgy,
               "effective_gain": 50 * factor * u.electron / u.nmgy}  # fmt: skip
    one, other = (simulate_field((64, 64), **options, **some) for some in (given, maggies))
    np.testing.assert_allclose(other.image.data, one.image.data, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(other.image.mask, one.image.mask)
    magnitudes = one.catalog["flux"].to_value(u.ABmag)
    np.testing.assert_allclose(one.catalog["magnitude"].value, magnitudes, rtol=1e-12)
