"""Joined operators and noise against their parts, one observation at a time."""

import numpy as np
import pytest
import torch

from astro_ddprism.errors import InputError
from astro_ddprism.mixing import (
    Amplitude,
    Convolution,
    CorrelatedNoise,
    DiagonalNoise,
    Identity,
    PhotonNoise,
    noise_from_state,
    operator_from_state,
)
from astro_ddprism.mixing.joined import JoinedNoise, JoinedOperator, join_noises, join_operators

SHAPE = (1, 6, 6)
COUNTS = (3, 2, 4)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def operators(rng):
    return [
        Convolution(rng.uniform(size=(3, 3)), SHAPE, dtype=torch.float64),
        Amplitude(rng.uniform(size=2), SHAPE, dtype=torch.float64),
        Convolution(rng.uniform(size=(4, 1, 3, 5)), SHAPE, dtype=torch.float64),
    ]


def one_by_one(parts, function, values):
    """Of each part its rows of the values, with one row at a time."""
    result, first = [], 0
    for part, count in zip(parts, COUNTS, strict=True):
        result += [function(part[[i]], values[first + i][None]) for i in range(count)]
        first += count
    return torch.cat(result)


@pytest.mark.parametrize("index", [slice(None), [8, 0, 0, 4], slice(5, None), 3])
def test_operators_map_each_its_own(operators, rng, index):
    joined = join_operators(operators, COUNTS)
    assert joined.before_psf
    assert not joined.own_pixels
    x, y = torch.as_tensor(rng.normal(size=(2, 9, *SHAPE)))
    rows = np.atleast_1d(np.arange(9)[index])
    for again in (joined[index], operator_from_state(joined[index].state())):
        assert again.n_observations == len(rows)
        expected = one_by_one(operators, lambda part, own: part(own), x)[rows]
        torch.testing.assert_close(again(x[rows]), expected)
        expected = one_by_one(operators, lambda part, own: part.adjoint(own), y)[rows]
        torch.testing.assert_close(again.adjoint(y[rows]), expected)
    twice = joined[index][torch.arange(len(rows)).flip(0)]
    torch.testing.assert_close(twice(x[rows[::-1].copy()]), joined[index](x[rows]).flip(0))
    assert joined.to(dtype=torch.float32)(x.float()).dtype == torch.float32


def test_what_all_share_stays_shared(operators):
    one = Convolution(np.ones((3, 3)), SHAPE)
    same = join_operators([one, Convolution(np.ones((3, 3)), SHAPE)], [2, 3])
    assert same is one
    assert isinstance(join_operators([Identity(SHAPE), one], [2, 3]), JoinedOperator)


def test_operators_that_do_not_fit(operators):
    with pytest.raises(InputError, match="for 5 observations"):
        JoinedOperator(operators[1:], [5, 4])
    with pytest.raises(InputError, match="operators: found <Identity"):
        JoinedOperator([operators[0], Identity((1, 5, 5))], [1, 1])
    with pytest.raises(InputError, match="place: found"):
        JoinedOperator(operators[:1], [3], [0, 0, 1])


@pytest.fixture
def noises(rng):
    variances = [rng.uniform(0.5, 2, (count, *SHAPE)) for count in COUNTS]
    variances[0][0, 0, 2, 3] = np.inf
    return [
        DiagonalNoise(variances[0], dtype=torch.float64),
        CorrelatedNoise(variances[1], [[0.3, 1, 0.3]], dtype=torch.float64),
        PhotonNoise(DiagonalNoise(variances[2], dtype=torch.float64), 3.0),
    ]


@pytest.mark.parametrize("index", [slice(None), [8, 0, 0, 4], slice(5, None), 3])
def test_noises_whiten_each_its_own(noises, rng, index):
    joined = join_noises(noises)
    light = torch.as_tensor(rng.uniform(0, 5, (9, *SHAPE)))
    r = torch.as_tensor(rng.normal(size=(9, *SHAPE)))
    rows = np.atleast_1d(np.arange(9)[index])
    some = joined[index]
    assert some.depends_on_signal == any(rows >= 5)
    for again in (some, noise_from_state(some.state())):
        for name in ("whiten", "whiten_adjoint", "colour"):
            expected = one_by_one(noises, lambda part, own, n=name: getattr(part, n)(own), r)
            torch.testing.assert_close(getattr(again, name)(r[rows]), expected[rows])
        torch.testing.assert_close(again.valid, torch.cat([noise.valid for noise in noises])[rows])
    lit = torch.cat([n.at(s).variance for n, s in zip(noises, light.split(COUNTS), strict=True)])
    torch.testing.assert_close(some.at(light[rows]).variance, lit[rows])
    torch.testing.assert_close(some.rescaled(2.0).variance, 4 * some.variance)
    added = some.added(light[rows]).variance
    torch.testing.assert_close(added[some.valid], (some.variance + light[rows])[some.valid])
    mask = torch.zeros_like(some.valid)
    mask[0, 0, 1, 1] = True
    assert (some.masked(mask).valid == some.valid & ~mask).all()
    assert some.to(dtype=torch.float32).variance.dtype == torch.float32


def test_photon_noise_of_all_is_photon_noise(rng):
    backgrounds = [rng.uniform(1, 2, (n, *SHAPE)) for n in (2, 3)]
    gains = 2.0, rng.uniform(1, 4, (3, 1, 1, 1))
    noises = [PhotonNoise(DiagonalNoise(v), g) for v, g in zip(backgrounds, gains, strict=True)]
    joined = join_noises(noises)
    assert isinstance(joined, PhotonNoise)
    light = torch.rand(5, *SHAPE)
    expected = torch.cat(
        [n.at(s).variance for n, s in zip(noises, light.split([2, 3]), strict=True)]
    )
    torch.testing.assert_close(joined.at(light).variance, expected)


def test_noises_that_do_not_fit():
    with pytest.raises(InputError, match="noises: found"):
        JoinedNoise([DiagonalNoise(np.ones((1, 2))), DiagonalNoise(np.ones((1, 3)))])
    with pytest.raises(InputError, match="mask: found shape"):
        JoinedNoise([DiagonalNoise(np.ones((2, 2)))]).masked(np.zeros((1, 2), dtype=bool))
