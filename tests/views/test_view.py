import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.utils.masked import Masked
from astropy.wcs import WCS

from astro_ddprism import InputError, View
from astro_ddprism.mixing import (
    Amplitude,
    Convolution,
    CorrelatedNoise,
    DiagonalNoise,
    Identity,
    LowRankNoise,
)
from astro_ddprism.survey.conditions import SurveyConditions

N, SHAPE = 6, (2, 4, 5)
RAMP = np.arange(1.0, 41.0).reshape(SHAPE)


def celestial():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cdelt = [-1e-4, 1e-4]
    return wcs


@pytest.fixture
def data():
    return np.random.default_rng(0).normal(size=(N, *SHAPE))


def make(data, **arguments):
    arguments = {"variance": 0.25, "mixing": {"los": Identity(SHAPE)}} | arguments
    return View(data, **arguments)


def test_what_is_stored(data):
    view = make(data, name="random")
    assert len(view) == N
    assert view.data.dtype == view.variance.dtype == np.float32
    np.testing.assert_array_equal(view.data, data.astype(np.float32))
    assert (view.variance == 0.25).all()
    assert not view.mask.any()
    assert view.unit == u.dimensionless_unscaled
    assert view.sources == ("los",)
    assert view.observation_shape == SHAPE
    assert view.ids.tolist() == ["0", "1", "2", "3", "4", "5"]
    assert view.wcs is view.coordinates is None


def test_bad_pixels_are_never_read(data):
    variance, mask = np.full(data.shape, 0.25), np.zeros(data.shape, bool)
    bad = np.zeros(data.shape, bool)
    bad[0, 0, 0, :] = bad[1, 1, 1, :3] = bad[2, 0, 0, 0] = True
    data[0, 0, 0] = [np.nan, np.inf, -np.inf, 1.0, 1e99]
    mask[0, 0, 0, 3:] = True
    variance[1, 1, 1, :3] = [0, np.nan, np.inf]
    variance[2, 0, 0, 0], mask[2, 0, 0, 0] = -1, True  # masked: its variance does not matter
    view = make(data, variance=variance, mask=mask)
    np.testing.assert_array_equal(view.mask, bad)
    assert (view.data[bad] == 0).all()
    assert np.isposinf(view.variance[bad]).all()
    np.testing.assert_array_equal(view.data[~bad], data[~bad].astype(np.float32))
    batch = view.batch()
    assert torch.isfinite(batch.y).all()
    np.testing.assert_array_equal(~batch.noise.valid.numpy(), bad)
    assert view.table()["n_valid"].tolist() == [35, 37, 39, 40, 40, 40]


@pytest.mark.parametrize("kind", [np.ma.MaskedArray, Masked])
def test_masked_arrays(data, kind):
    mask = np.zeros(data.shape, bool)
    mask[0, 0, 0, 0] = mask[3, 1, 2, 2] = True
    np.testing.assert_array_equal(make(kind(data, mask=mask)).mask, mask)
    np.testing.assert_array_equal(
        make(data, variance=kind(np.ones(data.shape), mask=mask)).mask, mask
    )


def test_units(data):
    view = make(data * u.uJy, variance=np.full(data.shape, 4.0) * u.nJy**2, unit="nJy")
    assert view.unit == u.nJy
    np.testing.assert_allclose(view.data, data * 1000, rtol=1e-6)
    assert (view.variance == 4).all()
    assert make(data * u.uJy).unit == u.uJy
    assert make(data, unit="adu").unit == u.adu


def test_conversion(data):
    data[0, 0, 0, 0] = np.nan
    view = make(data, unit="uJy", ids=list("abcdef"), name="x").to("nJy")
    valid = ~view.mask
    np.testing.assert_allclose(view.data[valid], data[valid] * 1000, rtol=1e-6)
    np.testing.assert_allclose(view.variance[valid], 0.25e6, rtol=1e-6)
    assert view.mask.sum() == 1
    assert (view.ids[2], view.name, view.unit) == ("c", "x", u.nJy)
    with pytest.raises(InputError, match="view 'x': data: found unit nJy"):
        view.to("m")


def test_conversion_of_maggies(data):
    """A nanomaggie is 3630.78 nJy: of data, variances, gains, noise, conditions and scales."""
    conditions = SurveyConditions(0.2 * u.arcsec, [0.5] * u.nmgy)
    view = make(data, unit="nmgy", effective_gain=4.0, conditions=conditions)
    other, factor = view.to("nJy"), 3630.780548
    np.testing.assert_allclose(other.data, factor * data, rtol=1e-6)
    np.testing.assert_allclose(other.variance, 0.25 * factor**2, rtol=1e-6)
    gain = other.effective_gain.to_value(u.electron / u.nJy)
    np.testing.assert_allclose(gain, 4 / factor, rtol=1e-6)
    assert other.conditions.noise.to_value(u.nJy) == pytest.approx([0.5 * factor])
    batch, same = (view.batch(scale=scale) for scale in (2.0, 2 * factor * u.nJy))
    torch.testing.assert_close(batch.y, same.y)
    # As they are given, too.
    again = make(
        data * u.nmgy,
        variance=0.25 * factor**2 * u.nJy**2,
        effective_gain=4 / factor * u.electron / u.nJy,
        unit="nJy",
    )
    np.testing.assert_allclose(again.data, other.data, rtol=1e-6)
    np.testing.assert_allclose(again.variance, other.variance, rtol=1e-6)
    np.testing.assert_allclose(again.effective_gain, other.effective_gain, rtol=1e-6)


@pytest.mark.parametrize("unit", [u.ABmag, u.mag, u.dex])
def test_magnitudes_are_no_linear_flux(data, unit):
    with pytest.raises(InputError, match=r"view: unit: found .*, expected a linear unit"):
        make(data, unit=unit)


def test_faint_units_lose_nothing(data):
    """Variances of 1e-50 are 0 in float32, and would mask every pixel."""
    view = make(1e-25 * data, variance=1e-50, unit="W / m2")
    assert view.data.dtype == view.variance.dtype == np.float64
    assert not view.mask.any()
    batch = view.batch(scale=1e-25 * u.W / u.m**2)
    assert batch.y.dtype == torch.float32
    np.testing.assert_allclose(batch.y, data, rtol=1e-6)
    np.testing.assert_allclose(batch.noise.std, 1, rtol=1e-6)


PATCH = np.array([[0.1, 0.3, 0.1], [0.2, 1.0, 0.2], [0.1, 0.3, 0.1]])


def correlated(data, **arguments):
    """Noise of another variance in every observation, and one bad pixel of its own."""
    variance = np.ones(data.shape) * (1 + np.arange(N)).reshape(N, 1, 1, 1)
    variance[3, 0, 1, 1] = np.nan
    noise = CorrelatedNoise(variance, PATCH, dtype=torch.float64)
    return make(data, variance=None, noise=noise, **arguments)


def test_noise_of_another_kind(data):
    data[1, 0, 2, 2] = np.nan
    mask = np.zeros(SHAPE, bool)
    mask[1, 3, 4] = True
    view = correlated(data, mask=mask)
    bad = np.zeros(data.shape, bool)
    bad[:, 1, 3, 4] = bad[1, 0, 2, 2] = bad[3, 0, 1, 1] = True
    np.testing.assert_array_equal(view.mask, bad)
    np.testing.assert_array_equal(view.noise.valid.numpy(), ~bad)
    assert np.isposinf(view.variance[bad]).all()
    np.testing.assert_allclose(view.variance[:, 0, 0, 0], 1 + np.arange(N))
    batch = view.batch([4, 1], scale=2.0, dtype=torch.float64)
    assert type(batch.noise) is CorrelatedNoise
    assert batch.noise.valid.dtype == torch.bool
    expected = CorrelatedNoise(
        np.full((1, *SHAPE), 5 / 4), PATCH, bad[4:5], dtype=torch.float64
    ).whiten(batch.y[:1])
    torch.testing.assert_close(batch.noise.whiten(batch.y)[:1], expected)


def test_selection_and_units_of_noise(data):
    view = correlated(data, unit="uJy", name="x")
    some = view[[5, 0, 5]]
    torch.testing.assert_close(some.noise.variance, view.noise.variance[[5, 0, 5]])
    other = view.to("nJy")
    valid = ~view.mask
    np.testing.assert_allclose(other.variance[valid], 1e6 * view.variance[valid], rtol=1e-6)
    r = torch.tensor(data)
    torch.testing.assert_close(other.noise.whiten(1000 * r), view.noise.whiten(r))
    with pytest.raises(InputError, match="view 'x': data: found unit uJy, expected one like m"):
        view.to("m")
    with pytest.raises(InputError, match="view 'x': unit: found 'bananas'"):
        view.to("bananas")


def test_faint_noise_loses_nothing(data):
    std = torch.full((N, *SHAPE), 1e-25, dtype=torch.float64)
    pixels = DiagonalNoise(std.square())
    noise = LowRankNoise(pixels, std[:1]).to(dtype=torch.float32)
    view = make(1e-25 * data, variance=None, noise=noise, unit="W / m2")
    assert not view.mask.any()
    np.testing.assert_allclose(view.variance, 2e-50, rtol=1e-5)
    np.testing.assert_allclose(view.batch(scale=1e-25).noise.variance, 2, rtol=1e-5)


def test_broadcast_variance_and_mask(data):
    sigma2 = np.arange(1.0, 3.0).reshape(2, 1, 1)
    mask = np.zeros(SHAPE, bool)
    mask[0, 0, 0] = True
    view = make(data, variance=sigma2, mask=mask)
    assert view.variance.shape == view.mask.shape == data.shape
    assert (view.variance[:, 1] == 2).all()
    assert view.mask.sum() == N


@pytest.mark.parametrize(
    "index",
    [
        slice(1, 4),
        slice(None, None, -2),
        [5, 0, 0],
        np.array([2, -1]),
        torch.tensor([3, 3]),
        np.arange(N) % 2 == 0,
        4,
    ],
)
def test_selection(data, index):
    view = make(
        data,
        mixing={"los": Identity(SHAPE), "galaxy": Amplitude(np.arange(N), SHAPE)},
        wcs=[celestial() for _ in range(N)],
        coordinates=SkyCoord(np.arange(N), 0, unit="deg"),
    )
    rows = np.atleast_1d(np.arange(N)[np.asarray(index) if not isinstance(index, slice) else index])
    some = view[index]
    assert len(some) == len(rows)
    np.testing.assert_array_equal(some.data, view.data[rows])
    assert some.ids.tolist() == [str(i) for i in rows]
    assert all(one is view.wcs[i] for one, i in zip(some.wcs, rows, strict=True))
    np.testing.assert_allclose(some.coordinates.ra.deg, rows)
    assert some.mixing["galaxy"].amplitude.tolist() == rows.tolist()
    # A mini-batch is the batch of the selection.
    one, two = view.batch(index), some.batch()
    assert torch.equal(one.y, two.y)
    assert torch.equal(one.noise.std, two.noise.std)
    assert torch.equal(one.mixing["galaxy"].amplitude, two.mixing["galaxy"].amplitude)
    # The view itself is as it was.
    assert len(view) == len(view.wcs) == N


def test_selection_out_of_range(data):
    with pytest.raises(IndexError):
        make(data)[N]


def test_iteration(data):
    assert [one.ids[0] for one in make(data)] == list("012345")


def test_batch(data):
    psf = np.random.default_rng(1).normal(size=(N, 2, 3, 3))
    view = make(data, mixing={"los": Convolution(psf, SHAPE)})
    batch = view.batch([1, 4], scale=2.0, dtype=torch.float64)
    assert batch.y.dtype == batch.noise.std.dtype == torch.float64
    np.testing.assert_array_equal(batch.y, view.data[[1, 4]] / 2.0)
    np.testing.assert_array_equal(batch.noise.std, 0.25)
    assert batch.mixing["los"].n_observations == 2
    assert batch.mixing["los"](batch.y).dtype == torch.float64


def test_table_has_coordinates(data):
    coordinates = SkyCoord(np.arange(N), 1, unit="deg")
    table = make(data, coordinates=coordinates, ids=range(10, 16)).table()
    assert table.colnames == ["id", "sky_coord", "n_valid"]
    assert table["id"][0] == "10"
    assert table["sky_coord"][2].separation(coordinates[2]) == 0


def test_repr(data):
    assert repr(make(data, unit="nJy", name="random")) == (
        "<View 'random': 6 observations of shape (2, 4, 5) in nJy, sources: los>"
    )


def spectral():
    return WCS(naxis=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variance": np.full(SHAPE, -1.0)}, "variance: found 240 negative values"),
        (
            {"variance": np.ones((3, 3))},
            r"variance: found shape \(3, 3\), expected that",
        ),
        (
            {"variance": 1 * u.m**2, "unit": "nJy"},
            "variance: found unit m2, expected .* nJy2",
        ),
        ({"variance": 1j}, "variance: found an array of type complex"),
        ({"variance": None}, "variance, noise: found neither, expected one of the two"),
        ({"noise": DiagonalNoise(np.ones((N, *SHAPE)))}, "variance, noise: found both"),
        ({"variance": None, "noise": 1.0}, "noise: found float, expected one of astro_ddprism"),
        (
            {"variance": None, "noise": DiagonalNoise(np.ones((1, *SHAPE)))},
            r"noise: found shape \(1, 2, 4, 5\), expected that of the data, \(6, 2, 4, 5\)",
        ),
        ({"mask": np.zeros(3, bool)}, r"mask: found shape \(3,\)"),
        ({"mask": np.zeros(SHAPE)}, "mask: found an array of type float64, expected bool"),
        (
            {"mask": np.ones(SHAPE, bool)},
            r"mask: found no valid pixel in 6 of 6 .*3, 4, \.\.\.",
        ),
        ({"variance": np.nan}, "no valid pixel"),
        ({"unit": "bananas"}, "unit: found 'bananas'"),
        ({"unit": u.Unit("bananas", parse_strict="silent")}, "unit: found 'bananas'"),
        ({"unit": [1, 2]}, "unit: found"),
        ({"mixing": {}}, "mixing: found {}"),
        ({"mixing": Identity(SHAPE)}, "mixing: found"),
        ({"mixing": {"los": 1.0}}, r"mixing\['los'\]: found float, expected a MixingOperator"),
        (
            {"mixing": {"los": Identity((4, 5))}},
            r"mixing\['los'\]: found .* shape \(4, 5\)",
        ),
        ({"mixing": {"los": Amplitude([1.0], SHAPE)}}, r"found 1 observations, expected 6"),
        ({"ids": ["a"]}, r"ids: found shape \(1,\), expected \(6,\)"),
        ({"wcs": celestial()}, "wcs: found WCS, expected a list"),
        ({"wcs": [celestial()]}, r"wcs: found shape \(1,\)"),
        ({"wcs": [spectral()] * N}, "wcs: found .* for observation 0, expected a celestial"),
        ({"wcs": [None] * N}, "wcs: found 'NoneType' for observation 0"),
        ({"coordinates": SkyCoord(0, 0, unit="deg")}, r"coordinates: found shape \(\)"),
        ({"coordinates": [1] * N}, "coordinates: found list, expected a SkyCoord"),
    ],
)
def test_errors_name_the_view_and_the_argument(data, arguments, message):
    with pytest.raises(InputError, match="^view 'random': (?s:.*)" + message):
        make(data, **arguments, name="random")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.ones(3), r"data: found shape \(3,\)"),
        (np.ones((0, *SHAPE)), "data: found shape"),
        (np.full((2, *SHAPE), "a"), "data: found an array of type <U1"),
        (np.ones((2, *SHAPE)) * u.m, "data: found unit m, expected one like nJy"),
    ],
)
def test_bad_data(data, message):
    with pytest.raises(InputError, match="^view: " + message):
        make(data, unit="nJy")


def test_saturated_pixels_are_masked_and_remembered():
    saturated = np.zeros((3, 1, 4, 4), dtype=bool)
    saturated[1, 0, 2, 3] = True
    mask = np.zeros((3, 1, 4, 4), dtype=bool)
    mask[0, 0, 0, 0] = True
    options = {"variance": 1.0, "mixing": {"los": Identity((1, 4, 4))}, "unit": "uJy"}
    view = View(np.ones((3, 1, 4, 4)), mask=mask, saturated=saturated, **options)
    np.testing.assert_array_equal(view.mask, mask | saturated)
    np.testing.assert_array_equal(view[[1, 0]].saturated, saturated[[1, 0]])
    np.testing.assert_array_equal(view.to("mJy").saturated, saturated)
    assert View(np.ones((3, 1, 4, 4)), **options)[0].saturated is None
    for wrong in (saturated[0], saturated.astype(int)):
        with pytest.raises(InputError, match="saturated: found shape"):
            View(np.ones((3, 1, 4, 4)), saturated=wrong, **options)


@pytest.mark.parametrize(
    ("gain", "full"),
    [
        (2.0, np.full(SHAPE, 2.0)),
        ([2.0, 3.0], np.array([2.0, 3.0]).reshape(2, 1, 1)),
        (RAMP[0], RAMP[0]),
        (RAMP * u.electron / u.nJy, RAMP),
        (2e3 * u.electron / u.uJy, np.full(SHAPE, 2.0)),
    ],
)  # fmt: skip
def test_effective_gain(data, gain, full):
    """Electrons per unit: the variance of light of one unit grows by its inverse."""
    data[0, 0, 0, 0] = np.nan
    view = make(data, effective_gain=gain, unit="nJy")
    assert view.effective_gain.unit == u.electron / u.nJy
    np.testing.assert_allclose(np.broadcast_to(view.effective_gain.value, data.shape),
                               np.broadcast_to(full, data.shape))  # fmt: skip
    expected = np.broadcast_to(0.25 + 1 / full, data.shape)
    batch = view.batch()
    one = torch.ones_like(batch.y)
    found = batch.noise.at(one).variance.numpy()
    np.testing.assert_allclose(found[~view.mask], expected[~view.mask], rtol=1e-6)
    assert np.isinf(found[view.mask]).all()
    # In other units, of selected observations: the same noise.
    scaled = view[[2, 1]].to("uJy").batch([1], scale=1e-4 * u.uJy)
    found = scaled.noise.at(one[:1] / 0.1).variance.numpy() * 0.1**2
    np.testing.assert_allclose(found, expected[1:2], rtol=1e-5)
    # The background is what it was.
    np.testing.assert_allclose(batch.noise.variance, make(data).batch().noise.variance)


def test_without_gain_there_is_no_photon_noise(data):
    view = make(data)
    assert view.effective_gain is None
    assert view.noise is None


def test_gain_on_other_noise(data):
    noise = CorrelatedNoise(np.full(data.shape, 0.25), [[0.3, 1.0, 0.3]])
    view = make(data, variance=None, noise=noise, effective_gain=4.0)
    batch = view.batch()
    np.testing.assert_allclose(batch.noise.at(torch.ones_like(batch.y)).variance, 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("gain", "message"),
    [
        (-1.0, "view 'v': effective_gain: found 240 pixels where it is not positive"),
        (0.0, "found 240 pixels"),
        ([2.0, np.nan], "found 120 pixels"),
        (2 * u.nJy, "view 'v': effective_gain: found unit nJy, expected one like electron / nJy"),
        (np.ones((5, 4)), r"effective_gain: found shape \(1, 1, 5, 4\)"),
        ([1.0, 2.0, 3.0], r"effective_gain: found shape \(1, 3, 1, 1\)"),
        ("GAIN", "effective_gain: found an array of type"),
    ],
)
def test_gains_that_cannot_be_used(data, gain, message):
    with pytest.raises(InputError, match=message):
        make(data, effective_gain=gain, unit="nJy", name="v")
