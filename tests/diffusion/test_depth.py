"""Noise times a factor, against noise whose variance was given so."""

import pytest
import torch

from astro_ddprism.diffusion.depth import ScaledNoise
from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.mixing import CorrelatedNoise, DiagonalNoise, Identity, PhotonNoise
from astro_ddprism.views.base import Batch

N, SHAPE = 3, (1, 4, 5)
FACTOR = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
SQUARE = FACTOR.square().view(N, 1, 1, 1)


@pytest.fixture
def normal():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.fixture
def kinds(normal):
    """Of each kind, a noise and the same with its standard deviation times the factors."""
    variance, gain = 1 + normal(N, *SHAPE).square(), torch.full((N, *SHAPE), 2.0).double()
    mask = torch.zeros(N, *SHAPE, dtype=torch.bool)
    mask[:, 0, 1, 2] = True
    patch = torch.tensor([[0.2, 1.0, 0.2]]).double()
    return {
        "diagonal": (DiagonalNoise(variance, mask), DiagonalNoise(variance * SQUARE, mask)),
        "correlated": tuple(CorrelatedNoise(v, patch, mask) for v in (variance, variance * SQUARE)),
        "photon": (
            PhotonNoise(DiagonalNoise(variance, mask), gain),
            PhotonNoise(DiagonalNoise(variance * SQUARE, mask), gain / SQUARE),
        ),
    }


@pytest.mark.parametrize("kind", ["diagonal", "correlated", "photon"])
def test_noise(kind, kinds, normal):
    noise, expected = kinds[kind]
    scaled = ScaledNoise(noise, FACTOR)
    assert scaled.depends_on_signal == expected.depends_on_signal
    light, r = normal(N, *SHAPE).square(), normal(N, *SHAPE)
    lost = torch.zeros(N, *SHAPE, dtype=torch.bool)
    lost[1, 0, 3] = True
    if kind == "correlated":
        lost[:] = False
    rows = torch.tensor([2, 0])
    for found, other in (
        (scaled.at(light), expected.at(light)),
        (scaled.masked(lost).at(light), expected.masked(lost).at(light)),
        (scaled.at(light)[rows], expected.at(light)[rows]),
    ):
        assert torch.equal(found.valid, other.valid)
        assert torch.equal(found.n_valid, other.n_valid)
        values = r[: len(other.valid)]
        for name in ("whiten", "whiten_adjoint", "colour"):
            torch.testing.assert_close(getattr(found, name)(values), getattr(other, name)(values))


@pytest.mark.parametrize("kind", ["diagonal", "correlated", "photon"])
def test_observations(kind, kinds, normal):
    """What is simulated under other conditions, and what it tells of each pixel."""
    noise, expected = kinds[kind]
    y, x = torch.zeros(N, *SHAPE).double(), normal(N, 40).square()
    mixing, shapes = {name: Identity(SHAPE) for name in "ab"}, dict.fromkeys("ab", SHAPE)
    seeing = torch.tensor([2.0, 3.0, 4.0])

    def simulated(noise, depth=None):
        observation = JointObservation(Batch(y, mixing, noise), shapes, seeing=2.5)
        assert observation.seeing.tolist() == [2.5] * N
        if depth is not None:
            observation = observation.under(depth, seeing)
        torch.manual_seed(1)
        return observation.simulated(x)

    found, other = simulated(noise, FACTOR), simulated(expected)
    torch.testing.assert_close(found.y, other.y)
    for own, reference in zip(found.information, other.information, strict=True):
        torch.testing.assert_close(own, reference)
    torch.testing.assert_close(found.chi2(x), other.chi2(x))
    assert torch.equal(found[torch.tensor([2, 0])].seeing, seeing[[2, 0]])
