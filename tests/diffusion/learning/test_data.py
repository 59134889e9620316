"""What networks are trained on: fluxes that are equally frequent, noise as in the real images."""

import math

import numpy as np
import pytest
import torch
from azula.noise import VESchedule
from scipy.stats import kstest

from astro_ddprism.diffusion.learning import data as module
from astro_ddprism.diffusion.learning.data import (
    Simulations,
    Turns,
    Windows,
    data_scale,
    images,
)
from astro_ddprism.diffusion.observation import simulate
from astro_ddprism.diffusion.random import seeded
from astro_ddprism.diffusion.variety import Variety
from astro_ddprism.errors import InputError
from astro_ddprism.mixing import Amplitude, CorrelatedNoise, Identity
from astro_ddprism.separator.loader import ViewLoader
from astro_ddprism.views.dataset import MultiViewDataset
from astro_ddprism.views.multi import InstrumentImages, MultiInstrumentView

CPU = torch.device("cpu")


def steep_samples(n=4000, faintest=20.0, brightest=2000.0):
    """Images of one shape each, ten times as many at a tenth of the flux."""
    u = torch.rand(n)
    flux = 1 / (u / brightest + (1 - u) / faintest)
    x = torch.rand(n, 1, 3, 3)
    return flux, x / x.sum(dim=(1, 2, 3), keepdim=True) * flux.view(-1, 1, 1, 1)


def test_flux_factors_make_all_fluxes_equally_frequent():
    """Over the range of the samples the distribution of log flux is flat, to a tenth.

    Of the samples themselves, nine of ten are in its first half.
    """
    with seeded(9, device=CPU):
        flux, x = steep_samples()
        (drawn,) = images(x, (), CPU, (1.0, 1.0))(20_000)
    low, high = flux.quantile(0.05).log(), flux.quantile(0.95).log()
    position = (drawn.sum(dim=(1, 2, 3)).log() - low) / (high - low)
    assert ((flux.log() - low) / (high - low) < 0.5).float().mean() > 0.75
    counts = torch.histc(position, bins=4, min=-1e-6, max=1 + 1e-2) / len(position)
    assert (counts - 0.25).abs().max() < 0.02


def test_fluxes_are_flat_to_the_ends():
    """Also where factors lead beyond the samples."""
    with seeded(12, device=CPU):
        flux, x = steep_samples()
        (drawn,) = images(x, (), CPU, (0.25, 4.0))(20_000)
    low, high = 0.25 * flux.quantile(0.05), 4 * flux.quantile(0.95)
    position = (drawn.sum(dim=(1, 2, 3)) / low).log() / (high / low).log()
    assert kstest(position.double().numpy(), "uniform").pvalue > 0.01


def test_flux_factors_are_uniform_in_their_logarithm():
    """Of images of one flux, whose shapes stay as they are."""
    with seeded(10, device=CPU):
        x = torch.rand(50, 1, 3, 3)
        x = 100 * x / x.sum(dim=(1, 2, 3), keepdim=True)
        (drawn,) = images(x, (), CPU, (0.2, 5.0))(5000)
    factor = drawn.sum(dim=(1, 2, 3)) / 100
    position = (factor.log() / math.log(5) + 1) / 2
    assert kstest(position.double().numpy(), "uniform").pvalue > 0.01
    shapes = (drawn / factor.view(-1, 1, 1, 1)).flatten(1)
    distance = (shapes[:, None] - x.flatten(1)).abs().amax(dim=2)
    nearest = distance.min(dim=1)
    assert nearest.values.max() < 1e-3
    assert len(nearest.indices.unique()) == 50


def test_what_is_far_brighter_than_the_others_is_left_out():
    """One image of a thousand; images without light count as the faintest others."""
    with seeded(11, device=CPU):
        x = 50 * torch.ones(1000, 1, 2, 2)
        x[0], x[1:30] = 1e4, -1.0
        (drawn,) = images(x, (), CPU, (0.5, 2.0))(20_000)
    share = {value: (drawn[:, 0, 0, 0] / value).log().abs().lt(0.7) & (drawn[:, 0, 0, 0] > 0)
             for value in (50, 1e4)}  # fmt: skip
    assert not share[1e4].any()
    negative = (drawn < 0).flatten(1).all(dim=1).double().mean()
    assert negative == pytest.approx(0.029, abs=0.006)  # five standard deviations
    assert share[50].double().mean() + negative == pytest.approx(1, abs=1e-6)


def test_images_are_drawn_as_they_are():
    """Without factors: the random numbers are those of the indices alone."""
    x = torch.arange(10.0).view(10, 1)
    with seeded(12, device=CPU):
        (drawn,) = images(x, (), CPU)(6)
    with seeded(12, device=CPU):
        assert torch.equal(drawn, x[torch.randint(10, (6,))])


def test_the_data_scale_is_that_of_bright_images():
    """Of a hundred images of the rms 1 to 100, that of the ninetieth."""
    signs = 2.0 * torch.randint(2, (100, 1, 2, 2), generator=torch.Generator().manual_seed(1)) - 1
    x = signs * torch.arange(1.0, 101.0).view(-1, 1, 1, 1)
    assert data_scale(x) == pytest.approx(90.1)  # quantiles lie between


# --- simulated observations ----------------------------------------


def moments(batch):
    y = batch.y.flatten(1).numpy()
    return y.mean(axis=0), np.cov(y.T)


def test_simulated_observations_have_the_noise_of_the_real_ones(linear_problem):
    """Mean and covariance, to five standard deviations of the error of n observations."""
    n, problem = 4000, linear_problem(2, psf=True)
    x = 5 * torch.randn(1, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sources = dict(zip("ab", problem.observation().split(x), strict=True))
    batch = problem.view.batch(np.zeros(n, dtype=int), dtype=torch.float64)
    old = batch.y.clone()
    with seeded(1, device=CPU):
        new = simulate(batch, {name: part.expand(n, -1, -1, -1) for name, part in sources.items()})
    assert torch.equal(batch.y, old)
    assert new.mixing is batch.mixing
    mean, covariance = moments(new)
    weights = problem.weights[0]
    seen = weights > 0
    assert (mean[~seen] == 0).all()
    assert (covariance[~seen] == 0).all()
    std = 1 / np.sqrt(weights[seen])
    light = problem.matrices[0] @ x[0].numpy()
    assert np.abs((mean[seen] - light[seen]) / std).max() < 5 / np.sqrt(n)
    correlation = covariance[np.ix_(seen, seen)] / np.outer(std, std)
    limit = 5 * np.sqrt((1 + np.eye(len(std))) / n)
    assert (np.abs(correlation - np.eye(len(std))) < limit).all()


def test_simulated_images_of_several_instruments():
    """Each with its own correlated noise, independent of that of the others."""
    n, shape = 4000, (1, 2, 3)
    variance = np.full((2, *shape), 4.0)
    noise = CorrelatedNoise(variance, [[0.4, 1, 0.4]])
    white, red = ({"a": Amplitude(a, shape)} for a in (3.0, -1.0))
    views = {
        "white": InstrumentImages(np.ones((2, *shape)), variance=variance / 4, mixing=white),
        "red": InstrumentImages(np.ones((2, *shape)), noise=noise, mixing=red),
    }
    view = MultiInstrumentView(views, name="pairs")
    x = torch.arange(6.0, dtype=torch.float64).reshape(1, *shape)
    batch = view.batch(np.ones(n, dtype=int), dtype=torch.float64)
    with seeded(2, device=CPU):
        new = simulate(batch, {"a": x.expand(n, -1, -1, -1)})
    assert isinstance(new, tuple)
    y = torch.cat([image.y.flatten(1) for image in new], dim=1).numpy()
    red = 4 * np.kron(np.eye(2), np.eye(3) + 0.4 * (np.eye(3, k=1) + np.eye(3, k=-1)))
    expected = np.block([[np.eye(6), np.zeros((6, 6))], [np.zeros((6, 6)), red]])
    std = np.sqrt(expected.diagonal())
    light = np.concatenate([3 * np.arange(6), -np.arange(6)])
    assert np.abs((y.mean(axis=0) - light) / std).max() < 5 / np.sqrt(n)
    error = np.sqrt((np.outer(std, std) ** 2 + expected**2) / n)
    assert (np.abs(np.cov(y.T) - expected) < 5 * error).all()


IMAGE = (1, 2, 2)


def make_simulations(n_observations=(6,), sources="ab", **options):
    """Draws 0, 1, 2 of each source, whose pixels say which they are; views of zeros."""
    views = MultiViewDataset.from_arrays(
        {
            f"v{k}": {
                "data": np.full((n, *IMAGE), 1.0 * k),
                "variance": 1.0 + k,
                "mixing": {s: Identity(IMAGE) for s in sources},
            }
            for k, n in enumerate(n_observations)
        }
    )
    samples = {
        source: (10.0 * k + torch.arange(3.0)).view(3, 1, 1, 1).expand(3, *IMAGE)
        for k, source in enumerate(sources, 1)
    }
    return Simulations(
        samples,
        [ViewLoader(view, 1.0, CPU) for view in views.values()],
        **{
            "symmetries": dict.fromkeys(sources, ()),
            "schedule": VESchedule(0.1, 100.0),
            "learning": tuple(sources),
            "light": None,
            "seeing": {s: torch.full((len(x),), torch.nan) for s, x in samples.items()},
            **options,
        },
    )


def drawing(turns):
    """One function in place of one for each view."""

    def draw(n):
        return turns.draws[turns.next()](n)

    return draw


def test_simulated_sources_are_independent_draws():
    """All pairs equally often, to five standard deviations; what is observed of them is noisy."""
    n, simulations = 9000, make_simulations()
    assert simulations.source_shapes == {"a": IMAGE, "b": IMAGE}
    assert simulations.data_scale == data_scale(simulations.samples["b"])
    with seeded(1, device=CPU):
        x, observation = drawing(simulations.draws({}, (), Variety()))(n)
    a, b = (x.view(n, 2, 4) - torch.tensor([[10.0], [20.0]])).unbind(1)
    assert all((part == part[:, :1]).all() for part in (a, b))
    counts = torch.bincount((3 * a + b)[:, 0].long(), minlength=9)
    assert len(counts) == 9
    assert ((counts - n / 9).abs() < 5 * math.sqrt(n / 9)).all()
    noise = observation.y - x[:, :4] - x[:, 4:]
    assert kstest(noise.flatten().double().numpy(), "norm").pvalue > 0.01


def test_views_are_simulated_as_often_as_they_have_observations():
    """A batch is of one view; its noise tells which. To five standard deviations."""
    draw, n, scales = drawing(make_simulations((90, 10)).draws({}, (), Variety())), 400, []
    with seeded(2, device=CPU):
        for _ in range(n):
            x, observation = draw(2)
            scales.append(observation.forward(x) / (x[:, :4] + x[:, 4:]))
    scales = torch.stack(scales).flatten(1)
    torch.testing.assert_close(scales, scales[:, :1].expand_as(scales))
    second = (scales[:, 0] < 0.9).double().mean()  # whitened by the root of 2, and not by 1
    assert abs(second - 0.1) < 5 * math.sqrt(0.09 / n)


@pytest.mark.parametrize("independent", [True, False])
def test_some_observations_lose_pixels(independent):
    """Half of them, but none whose pixels share noise; simulated light and noise are the same."""
    simulations = make_simulations()
    if not independent:
        simulations._loaders = [SharingLoader(loader) for loader in simulations._loaders]
    with seeded(6, device=CPU):
        x, observation = drawing(simulations.draws({}, (), Variety(masks=0.5)))(4000)
    lost = observation.n_valid < 4
    assert (observation.forward(x)[lost] == 0).any(dim=1).all()
    if independent:  # of four pixels, one may be lost
        assert 0.02 < lost.float().mean() < 0.4
        assert (observation.n_valid >= 3).all()
    else:
        assert not lost.any()


class SharingLoader:
    """A loader whose pixels share noise."""

    independent = False

    def __init__(self, loader):
        self.observe, self.device = loader.observe, loader.device
        self._n = self.n_held = len(loader)

    def __len__(self):
        return self._n


def test_fluxes_of_some_sources():
    with seeded(3, device=CPU):
        x, _ = drawing(make_simulations().draws({"b": (3.0, 3.0)}, (), Variety()))(500)
    assert set(x[:, 0].tolist()) == {10.0, 11.0, 12.0}
    assert {round(value, 3) for value in x[:, 4].tolist()} <= {60.0, 63.0, 66.0}


@pytest.mark.parametrize("all_light", [False, True])
def test_templates_of_sources_that_are_learned(monkeypatch, all_light):
    """In place of draws, of all light at first; known sources and others stay as they are."""
    template, some, given = torch.full((2, *IMAGE), 7.0), slice(2), []
    monkeypatch.setattr(
        module, "symmetric_templates", lambda x: given.append(x) or (template, some)
    )
    simulations = make_simulations(learning=("b",), light=lambda source: f"light of {source}")
    found = simulations.of_templates(("a", "b", "c"), all_light=all_light)
    assert found.samples["a"] is simulations.samples["a"]
    assert found.samples["b"] is template
    assert len(given) == 1
    assert given[0] == "light of b" if all_light else given[0] is simulations.samples["b"]
    assert simulations.samples["b"] is not template
    assert found.schedule is simulations.schedule
    with seeded(4, device=CPU):
        x, _ = drawing(found.draws({}, (), Variety()))(20)
    assert (x[:, 4:] == 7).all()


def test_templates_turn_about_the_pixel_of_their_position():
    """Frames of even size: others turn about their middle, and leave the pixel."""
    x = torch.zeros(1, *IMAGE)
    x[..., 1, 1] = 1
    simulations = make_simulations(symmetries=dict.fromkeys("ab", ("rotations", "flips")))
    simulations.samples = {"a": x, "b": x}
    with seeded(5, device=CPU):
        drawn, _ = drawing(simulations.draws({}, ("b",), Variety()))(200)
    a, b = drawn.view(200, 2, 2, 2).unbind(1)
    assert (a.sum(dim=0) > 20).all()
    assert (b[:, 1, 1] == 1).all()


def test_nothing_symmetric(monkeypatch):
    monkeypatch.setattr(module, "symmetric_templates", lambda light: (light[:0], slice(0)))
    with pytest.raises(InputError, match="templates: found no image of the source 'a' that is sym"):
        make_simulations().of_templates(("a",), all_light=False)


# -- what does not fit on a device ------------------------------------------------------------


@pytest.mark.parametrize(("n", "most"), [(1000, 100), (1000, 999), (17, 5), (5000, 1), (40, 64)])
def test_windows_are_all_rows_once_before_any_comes_again(n, most):
    windows = Windows(n, most)
    assert windows.is_whole == (n <= most)
    counts = np.zeros(n, int)
    with seeded(3, device=CPU):
        for _ in range(4 * n // min(n, most)):
            rows = windows.next().numpy()
            assert len(np.unique(rows)) == len(rows) <= max(most, 1)
            counts[rows] += 1
    assert counts.min() > 0
    assert np.ptp(counts) <= 1


def test_windows_depend_on_the_seed_alone():
    found = []
    for seed in (1, 1, 2):
        with seeded(seed, device=CPU):
            windows = Windows(1000, 100)
            found.append(torch.cat([windows.next() for _ in range(5)]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_phases_of_training_see_all_draws():
    made = iter(range(9))
    turns = Turns([next(made)], [1], lambda: [next(made)], n_rows=6000)
    seen = [(n, turns.draws) for n in turns.phases(1450, batch_size=10)]
    assert seen == [(600, (0,)), (600, (1,)), (250, (2,))]
    assert list(Turns([0], [1]).phases(1450, 10)) == [1450]


def streamed_simulations(monkeypatch, room, n_held):
    """Two sources that are as many numbers, seen by a view whose noise tells its rows."""
    monkeypatch.setattr(module, "room", lambda _: room)
    monkeypatch.setattr(ViewLoader, "n_held", n_held)
    n, shape = 60, (1, 2, 2)
    view = MultiViewDataset.from_arrays(
        {
            "one": {
                "data": np.zeros((n, *shape)),
                "variance": np.arange(1, n + 1.0).reshape(n, 1, 1, 1) ** -2 * np.ones(shape),
                "mixing": dict.fromkeys("ab", Identity(shape)),
            }
        }
    )["one"]
    values = torch.arange(1, n + 1.0).view(n, 1, 1, 1).expand(n, *shape)
    return Simulations(
        {"a": values, "b": 1000 * values},
        [ViewLoader(view, 1.0, CPU)],
        symmetries={"a": (), "b": ()},
        schedule=VESchedule(0.1, 100.0),
        learning=["a"],
        light=None,
        seeing=dict.fromkeys("ab", torch.full((n,), math.nan)),
    )


@pytest.mark.parametrize(("room", "n_held"), [(math.inf, 60), (2 * 16 * 10, 60), (math.inf, 12)])
def test_what_is_streamed_is_drawn_as_often_as_what_is_held(room, n_held, monkeypatch):
    """Every row of both sources and of the view, as uniformly as chance allows."""
    with seeded(4, device=CPU):
        turns = streamed_simulations(monkeypatch, room, n_held).draws({}, (), Variety())
        counts, n_phases = np.zeros((3, 60)), 0
        for n in turns.phases(30_000, batch_size=1):
            x, observation = turns.draws[turns.next()](16 * n)
            one = torch.cat([torch.ones_like(x[:, :4]), torch.zeros_like(x[:, 4:])], dim=1)
            row = observation.forward(one)[:, 0]  # in units of the noise
            for k, value in enumerate((x[:, 0], x[:, 4] / 1000, row)):
                counts[k] += np.bincount(value.numpy().round().astype(int) - 1, minlength=60)
            n_phases += 1
    assert (n_phases == 1) == (room == math.inf and n_held == 60)
    share = counts / counts.sum(axis=1, keepdims=True) * 60
    assert abs(share - 1).max() < 0.06  # 8,000 times each


def test_a_part_of_a_view_is_its_rows(monkeypatch):
    loader = streamed_simulations(monkeypatch, math.inf, 60)._loaders[0]
    part, rows = loader.part(np.array([7, 3, 50])), torch.tensor([2, 0])
    assert len(part) == 3
    expected = loader.observe(torch.tensor([50, 7]))
    assert torch.equal(part.observe(rows).information[0], expected.information[0])
    assert list(part.ids) == ["7", "3", "50"]
