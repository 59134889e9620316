"""Joint draws of Gaussians and mixtures against their exact posterior; chains that go astray."""

from dataclasses import replace
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import torch
from azula.denoise import Denoiser, DiracPosterior, GaussianDenoiser
from azula.linalg.covariance import FullCovariance
from azula.noise import VESchedule
from scipy.linalg import block_diag
from scipy.stats import chisquare
from torch import nn

from astro_ddprism.diffusion.posteriors.base import Priors
from astro_ddprism.diffusion.posteriors.moment_matching import MomentMatching
from astro_ddprism.diffusion.posteriors.solvers import Dense
from astro_ddprism.diffusion.priors.gaussian import GaussianPrior
from astro_ddprism.diffusion.priors.mixture import GaussianMixture, MixtureResidualDenoiser
from astro_ddprism.diffusion.priors.schedule import NoiseSchedule
from astro_ddprism.diffusion.random import Rows, seeded
from astro_ddprism.diffusion.sampling.chains import Chains, draw_sources
from astro_ddprism.diffusion.sampling.samplers import SAMPLERS
from astro_ddprism.separator.loader import ViewLoader
from astro_ddprism.views.dataset import MultiViewDataset

# Chains end in the mean given the last noise scale, which must be small beside the posterior: 0.1.
SCHEDULE = VESchedule(0.01, 100.0)
CPU = torch.device("cpu")
SIZE = 3


def make_rows(seed, n):
    """Random numbers of n rows."""
    return Rows.of(seed, ids=range(n), device=CPU)


class GaussianSource(Denoiser):
    """A Gaussian source of three features, which may be told to lose its way."""

    def __init__(self, seed):
        super().__init__()
        rng = np.random.default_rng(seed)
        Q = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0]
        L = np.array([0.5, 1.0, 3.0]) ** 2
        self.mean, self.covariance = rng.normal(size=SIZE), (Q * L) @ Q.T
        mean, Q, L = (torch.tensor(a, dtype=torch.float32) for a in (self.mean, Q, L))
        self.prior = GaussianPrior(mean, Q * L.sqrt())
        self.exact, self.schedule = GaussianDenoiser(mean, FullCovariance(Q, L), SCHEDULE), SCHEDULE
        self.offset = torch.zeros(SIZE)

    def forward(self, x_t, t):
        return DiracPosterior(mean=self.exact(x_t, t).mean + self.offset)


def make_view(n=2, seed=3):
    """Sums of two sources, one pixel masked."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(2, SIZE, SIZE))
    mask = np.zeros((n, SIZE), dtype=bool)
    mask[0, 1] = True
    view = {
        "data": rng.normal(0, 2, (n, SIZE)),
        "variance": 0.25,
        "mask": mask,
        "mixing": {"a": A[0], "b": A[1]},
    }
    return MultiViewDataset.from_arrays({"view": view})["view"], np.concatenate(A, axis=1)


@pytest.fixture
def sources():
    return {"a": GaussianSource(1), "b": GaussianSource(2)}


class Drawing:
    """Priors, a posterior method and chains, with which observations are drawn."""

    def __init__(self, priors, method, batch_size, chains):
        self.priors, self.method, self.batch_size, self.chains = priors, method, batch_size, chains

    def observe(self, view, index):
        return ViewLoader(view, 1.0, CPU).observe(index)

    def draw(self, view, index, track, *, rows, first=None, start=1.0):
        return draw_sources(
            self.method,
            self.priors,
            ViewLoader(view, 1.0, CPU),
            index,
            rows,
            chains=replace(self.chains, start=start),
            batch_size=self.batch_size,
            track=track,
            first=first,
        )


def make_sampler(
    denoisers, sources, mixtures=None, kind=MomentMatching, batch_size=1000, **options
):
    priors = Priors(
        NoiseSchedule(0.01, 100.0),
        gaussians={name: source.prior for name, source in sources.items()},
        mixtures=mixtures or {},
        denoisers=denoisers,
    )
    chains = {"sampler": "adams-bashforth", "n_steps": 64, "max_chi2": 100.0, "n_redraws": 0}
    return Drawing(priors, kind(Dense()), batch_size, Chains(**{**chains, **options}))


def exact_posterior(view, matrix, sources, i):
    mean = np.concatenate([s.mean for s in sources.values()])
    covariance = block_diag(*(s.covariance for s in sources.values()))
    weights = np.where(view.mask[i], 0, 1 / view.variance[i])
    posterior = np.linalg.inv(np.linalg.inv(covariance) + (matrix.T * weights) @ matrix)
    return mean + posterior @ matrix.T @ (weights * (view.data[i] - matrix @ mean)), posterior


@pytest.mark.parametrize(
    ("learned", "start", "first"),
    [("ab", 1.0, False), ("a", 1.0, False), ("ab", 0.6, False), ("ab", 0.5, True)],
)
def test_draws_have_the_exact_moments(sources, learned, start, first):
    """Whichever sources have denoisers, wherever the chains begin.

    Tolerance: five standard deviations of the sampling error of n draws, and 4 % for the steps.
    """
    n, bias = 4000, 0.04
    view, matrix = make_view()
    sampler = make_sampler({name: sources[name] for name in learned}, sources)
    index = np.repeat([0, 1], n)
    draws = sampler.draw(view, index, iter, rows=make_rows(1, 2 * n))
    if first:  # chains that begin from the draws of the last time
        rows = make_rows(2, 2 * n)
        draws = sampler.draw(view, index, iter, rows=rows, first=draws.x, start=start)
    assert draws.x.shape == (2 * n, 2 * SIZE)
    assert draws.good.all()
    assert draws.n_redrawn == 0
    for i, x in enumerate(draws.x.double().view(2, n, -1).numpy()):
        mean, covariance = exact_posterior(view, matrix, sources, i)
        z = np.linalg.solve(np.linalg.cholesky(covariance), (x - mean).T)
        assert np.abs(z.mean(axis=1)).max() < 5 / np.sqrt(n) + bias
        limit = 5 * np.sqrt((1 + np.eye(len(z))) / n) + bias
        assert (np.abs(np.cov(z) - np.eye(len(z))) < limit).all()
        residual = (view.data[i] - x @ matrix.T) / np.sqrt(view.variance[i])
        chi2 = np.square(residual[:, ~view.mask[i]]).mean(axis=1)
        np.testing.assert_allclose(draws.chi2[i * n : (i + 1) * n], chi2, rtol=1e-2, atol=1e-4)


def test_gaussian_sources_need_no_chain(sources):
    view, _ = make_view()
    sampler = make_sampler({}, sources, sampler="ddim", n_steps=1)
    draws = sampler.draw(view, np.arange(2), iter, rows=make_rows(1, 2))
    assert draws.x.shape == (2, 2 * SIZE)
    assert torch.isfinite(draws.chi2).all()


@pytest.mark.parametrize("sampler", SAMPLERS.names())
def test_every_sampler_by_its_name(sources, sampler):
    view, _ = make_view()
    draws = make_sampler(sources, sources, sampler=sampler, n_steps=8).draw(
        view, np.arange(2), iter, rows=make_rows(1, 2)
    )
    assert draws.good.all()


def test_draws_come_in_the_order_of_the_index(sources):
    view, _ = make_view(5)
    index = np.array([4, 0, 0, 3, 2])
    sampler = make_sampler(sources, sources, batch_size=2)
    draws = sampler.draw(view, index, iter, rows=make_rows(1, 5))
    observation = sampler.observe(view, index)
    torch.testing.assert_close(observation.chi2(draws.x), draws.chi2)


class Astray:
    """Tells a source, whenever a round of draws begins, how far off it is."""

    def __init__(self, source, *offsets):
        self.source, self.offsets, self.rounds = source, list(offsets), 0

    def __call__(self, batches):
        self.source.offset = torch.full((SIZE,), float(self.offsets.pop(0)))
        self.rounds += 1
        return batches


@pytest.mark.parametrize("offset", [1e3, np.nan, np.inf])
def test_failed_chains_are_drawn_again(sources, offset):
    view, _ = make_view()
    track = Astray(sources["a"], offset, 0)
    sampler = make_sampler(sources, sources, n_redraws=3)
    draws = sampler.draw(view, np.arange(2), track, rows=make_rows(1, 2))
    assert track.rounds == 2  # the second was good
    assert draws.n_redrawn == 2
    assert draws.good.all()
    assert torch.isfinite(draws.x).all()


@pytest.mark.parametrize("offset", [1e3, np.nan])
def test_chains_that_fail_for_good_are_reported(sources, offset):
    view, _ = make_view()
    track = Astray(sources["a"], offset, offset, offset)
    sampler = make_sampler(sources, sources, n_redraws=2)
    draws = sampler.draw(view, np.arange(2), track, rows=make_rows(1, 2))
    assert track.rounds == 3
    assert draws.n_redrawn == 4
    assert not draws.good.any()


def test_a_worse_redraw_is_not_taken(sources):
    view, _ = make_view()
    once, twice = (make_sampler(sources, sources, n_redraws=n) for n in (0, 1))
    rows = make_rows(1, 2)
    kept = once.draw(view, np.arange(2), Astray(sources["a"], 1e2), rows=rows)
    draws = twice.draw(view, np.arange(2), Astray(sources["a"], 1e2, 1e4), rows=rows)
    assert torch.equal(draws.x, kept.x)
    assert torch.equal(draws.chi2, kept.chi2)
    assert draws.n_redrawn == 2


def test_vectors_are_repeated_where_they_are_few(sources):
    """So that products of matrices have as many rows; draws are those of a full batch."""
    view, _ = make_view()
    rows, index = make_rows(1, 40), np.arange(40) % 2
    full = make_sampler(sources, sources).draw(view, index, iter, rows=rows)
    for n in (1, 3):
        sampler = make_sampler(sources, sources, batch_size=n)
        few = sampler.draw(view, index[:n], iter, rows=rows[:n])
        assert len(few.x) == len(few.chi2) == n
        assert torch.equal(few.x, full.x[:n])


class Told:
    """A posterior method and its observations, told the chi-squared of every round of draws.

    A draw is the number of its round.
    """

    sources, y = ("a", "b"), torch.zeros(1)
    source_shapes = MappingProxyType({"a": (1, 1, 2), "b": (1, 1, 1)})

    def __init__(self, *rounds, continued=True):
        self.rounds = [torch.as_tensor(chi2).float() for chi2 in rounds]
        self.starts, self.continued = [], continued

    def draw(self, index, *, rows, first=None, **options):
        return draw_sources(
            self, None, self, index, rows, chains=Chains(**options),
            batch_size=len(index), track=iter, first=first,
        )  # fmt: skip

    def n_valid(self, index):
        return make_view()[0].n_valid(index)

    def observe(self, _index):
        return self

    def serves(self, _priors, _loader, index):
        return np.ones(len(index), dtype=bool)

    def approximates(self, _priors, _sources):
        return True

    def continues(self, _priors, _sources):
        return self.continued

    def run(self, _priors, _observation, rows, *, chains, start, first):  # noqa: ARG002
        self.starts.append((len(rows), first is None, start))
        return torch.full((len(rows), 1), float(len(self.starts) - 1))

    def chi2(self, x):
        return self.rounds[int(x[0, 0])].clone()


def test_the_limit_allows_for_the_noise_of_few_pixels():
    """Below max_chi2 or noise all is well: 1 + 6 sqrt(2 / n), with n = 2 and 3 valid pixels."""
    limit = np.array([1 + 6, 1 + 6 * np.sqrt(2 / 3)])
    for max_chi2, expected in ((2.0, limit), (6.5, [7.0, 6.5]), (50.0, [50.0, 50.0])):
        for factor, good in ((0.999, True), (1.001, False)):
            chi2 = np.array(expected) * factor
            draws = Told(chi2).draw(
                np.arange(2), rows=make_rows(1, 2), max_chi2=max_chi2, n_redraws=0
            )
            assert (draws.good == good).all()


# --- one of several candidates ----------------------------------------


def told_draws(rounds, n, row=1, n_redraws=0):
    """Draws of a row, of 3 valid pixels (row 0: 2), and the numbers of the rounds they are of."""
    told = Told(*(np.full(n, chi2) for chi2 in rounds))
    draws = told.draw(
        np.full(n, row), rows=make_rows(6, n), max_chi2=100.0,
        n_candidates=len(rounds) - n_redraws, n_redraws=n_redraws,
    )  # fmt: skip
    return draws, draws.x[:, 0].long().numpy()


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize(
    "rounds",
    [(0.1, 0.5, 1.0, 2.5), (1.0, 4.0), (4.0, 1.0), (6.0, 3.0, 5.0, 2.0), (9.0, 9.0, 20.0)],
)
def test_candidates_are_kept_by_their_weights(rounds, row):
    """What noise explains counts alike, more counts for less; to five standard deviations."""
    n, valid = 20_000, [2, 3][row]
    draws, kept = told_draws(rounds, n, row)
    weights = np.exp(-valid / 2 * np.maximum(np.array(rounds) - 1 - 2 * np.sqrt(2 / valid), 0))
    expected = weights / weights.sum()
    found = np.bincount(kept, minlength=len(rounds)) / n
    assert (np.abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / n) + 1e-9).all()
    np.testing.assert_array_equal(draws.chi2, np.float32(rounds)[kept])


@pytest.mark.parametrize(
    ("rounds", "best"),
    [
        ((1e3, 500.0, 2e3), 1),
        ((np.inf, 1e30, np.inf), 1),
        ((1e4, 1.0, 1e5), 1),
        ((1e4, 1e5, 1.0), 2),
        ((np.nan, 1e3), 1),
        ((np.nan, np.nan, 1.0), 2),
        ((np.inf, 1.0, np.nan), 1),
        ((1.0, np.nan, np.nan), 0),
        ((np.nan, 1.0, np.nan), 1),
    ],
)
def test_the_least_bad_candidate(rounds, best):
    draws, kept = told_draws(rounds, n=50)
    assert (kept == best).all()
    assert (draws.chi2 == np.float32(rounds[best])).all()


@pytest.mark.parametrize("n_redraws", [0, 1], ids=["candidate", "redraw"])
@pytest.mark.parametrize("rounds", [(1e3, np.nan), (np.inf, np.nan)])
def test_no_failed_chain_wins(rounds, n_redraws):
    draws, kept = told_draws(rounds, n=50, n_redraws=n_redraws)
    assert (kept == 0).all()
    assert not draws.good.any()


@pytest.mark.parametrize(("continued", "restart"), [(True, 1.0), (False, 0.4)])
def test_only_what_contradicts_is_drawn_again(continued, restart):
    """After all candidates; from the top of the schedule where first draws may be what failed."""
    told = Told([1.0, 500.0], [1.0, 600.0], [550.0], [2.0], continued=continued)
    draws = told.draw(
        np.arange(2), rows=make_rows(1, 2), first=torch.zeros(2, 1), start=0.4, max_chi2=100.0,
        n_candidates=2, n_redraws=3,
    )  # fmt: skip
    assert told.starts == [(2, False, 0.4), (2, False, 0.4)] + 2 * [(1, True, restart)]
    assert draws.n_redrawn == 2
    assert draws.good.all()
    assert (draws.x[1] == 3).all()


def test_chains_continue_unless_mixtures_know_the_branch(sources):
    mixtures = {name: mixture_of(source) for name, source in sources.items()}
    for held, continued in (({}, True), ({"a": mixtures["a"]}, True), (mixtures, False)):
        drawing = make_sampler(sources, sources, held)
        assert drawing.method.continues(drawing.priors, ("a", "b")) is continued


class Undecided(Astray):
    """Sends every chain on a branch of its own, half of them on a wrong one."""

    def __call__(self, batches):
        self.source.offset = 30.0 * (torch.rand(self.offsets[0], 1) < 0.5)
        self.rounds += 1
        return batches


def test_candidates_find_the_right_branch(sources):
    """Chains on a wrong branch tell by their residuals; of eight, one is right as good as always.

    Right ones are kept as they are: residuals of the last have the median of those of the first,
    within five standard deviations.
    """
    n, view = 2000, make_view()[0]
    index = np.repeat([0, 1], n // 2)
    fraction, median = {}, {}
    for n_candidates in (1, 8):
        sampler = make_sampler(
            sources, sources, n_steps=16, batch_size=n, n_candidates=n_candidates, max_chi2=10.0
        )
        track = Undecided(sources["a"], n)
        with seeded(7, device=CPU):
            draws = sampler.draw(view, index, track, rows=make_rows(7, n), start=0.6)
        assert track.rounds == n_candidates
        fraction[n_candidates] = float(draws.good.float().mean())
        median[n_candidates] = float(draws.chi2[draws.good].median())
    assert 0.4 < fraction[1] < 0.6
    assert fraction[8] > 0.988  # 1 - 1 / 256, less five standard deviations
    assert median[8] == pytest.approx(median[1], abs=0.15)


# --- mixtures ----------------------------------------


def mixture_of(source):
    """A Gaussian source as a mixture, whose two components are one and the same."""
    means, covariances = np.tile(source.mean, (2, 1)), np.tile(source.covariance, (2, 1, 1))
    return GaussianMixture(*map(torch.tensor, (np.array([0.3, 0.7]), means, covariances)))


def make_mixture(seed, spread):
    """Four components of a source of three features, apart by ``spread``."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(4, SIZE, SIZE))
    means = spread * rng.normal(size=(4, SIZE))
    weights = np.array([0.4, 0.3, 0.2, 0.1])
    return GaussianMixture(*map(torch.tensor, (weights, means, factors @ factors.swapaxes(1, 2))))


def simulate(mixtures, n, n_rows, seed=8, masked=True):
    """Sums of draws from mixtures in noise of 0.5, each seen through matrices of its own."""
    rng = np.random.default_rng(seed)
    with seeded(seed, device=CPU):
        x = {
            name: mixture.sample(make_rows(k, n)).numpy()
            for k, (name, mixture) in enumerate(mixtures.items(), seed)
        }
    A = {name: rng.normal(size=(n, n_rows, SIZE)) for name in mixtures}
    y = sum(np.einsum("nij,nj->ni", A[name], x[name]) for name in mixtures)
    mask = rng.random(y.shape) < (0.3 if masked else 0.0)
    mask[:, 0] = False
    view = {
        "data": y + rng.normal(0, 0.5, y.shape),
        "variance": 0.25,
        "mask": mask,
        "mixing": A,
    }
    view = MultiViewDataset.from_arrays({"view": view})["view"]
    return view, np.concatenate(list(x.values()), axis=1), np.concatenate(list(A.values()), axis=2)


@pytest.mark.parametrize("spread", [1.0, 10.0])
def test_draws_from_mixtures_are_exact(sources, spread):
    """Truth and draws cannot be told apart: the rank of one among the others is uniform.

    Residuals of draws are noise, of reduced chi-squared one, within five standard deviations; ranks
    of each feature and of a random direction pass a chi-squared test at 1e-3.
    """
    n, n_draws = 1500, 9
    mixtures = {name: make_mixture(k, spread) for k, name in enumerate("ab")}
    view, truth, A = simulate(mixtures, n, 4)
    sampler = make_sampler({}, sources, mixtures)
    rows = make_rows(9, n * n_draws)
    draws = sampler.draw(view, np.repeat(np.arange(n), n_draws), iter, rows=rows)
    assert draws.good.all()
    assert draws.n_redrawn == 0
    x = draws.x.view(n, n_draws, -1).double().numpy()
    residual = (view.data[:, None] - np.einsum("nij,nqj->nqi", A, x)) / 0.5
    chi2 = np.square(residual[:, 0][~view.mask])
    assert chi2.mean() == pytest.approx(1, abs=5 * np.sqrt(2 / chi2.size))
    valid = (~view.mask).sum(axis=1)
    np.testing.assert_allclose(
        draws.chi2.view(n, n_draws)[:, 0],
        np.where(view.mask, 0, residual[:, 0] ** 2).sum(axis=1) / valid, rtol=1e-2, atol=1e-3,
    )  # fmt: skip
    directions = np.concatenate([np.eye(2 * SIZE), np.ones((1, 2 * SIZE))])
    for direction in directions:
        rank = (x @ direction < (truth @ direction)[:, None]).sum(axis=1)
        assert chisquare(np.bincount(rank, minlength=n_draws + 1)).pvalue > 1e-3


@pytest.mark.parametrize("start", [0.35, 0.5])
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_chains_of_silent_networks_agree_with_exact_draws(sources, spread, start):
    """They begin from exact draws, at noise scales of the order of the components' widths.

    Tolerance: five standard deviations of the sampling error of both.
    """
    n, view = 1500, make_view()[0]
    mixtures = {name: make_mixture(k, spread) for k, name in enumerate("ab")}
    denoisers = {
        name: MixtureResidualDenoiser(Silent(), SCHEDULE, 2.0, mixture).requires_grad_(False)
        for name, mixture in mixtures.items()
    }
    index = np.repeat([0, 1], n)
    exact = make_sampler({}, sources, mixtures).draw(view, index, iter, rows=make_rows(10, 2 * n))
    sampler = make_sampler(denoisers, sources, mixtures, n_steps=48)
    chains = sampler.draw(view, index, iter, rows=make_rows(11, 2 * n), start=start)
    assert not torch.equal(chains.x, exact.x)
    for x, y in zip(chains.x.view(2, n, -1), exact.x.view(2, n, -1), strict=True):
        std = y.std(dim=0)
        assert ((x.mean(dim=0) - y.mean(dim=0)).abs() < 5 * (2 / n) ** 0.5 * std).all()
        kurtosis = ((y - y.mean(dim=0)) / std).pow(4).mean(dim=0)
        error = 5 * ((kurtosis - 1) / 2 / n).sqrt()
        assert ((x.std(dim=0) / std - 1).abs() < error).all()


class Silent(nn.Module):
    """A network that has learned nothing."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, features, _):
        return self.weight * features[:, 0]


class Unused(Denoiser):
    """A denoiser that no chain may ask."""

    def forward(self, _x_t, _t):
        raise AssertionError


def test_mixtures_need_all_sources(sources):
    """Where one source has a mixture and the other none, the Gaussians of both are meant."""
    view, _ = make_view()
    far = GaussianMixture(torch.ones(1), torch.full((1, SIZE), 1e3), torch.eye(SIZE)[None])
    index = np.repeat([0, 1], 2000)
    rows = make_rows(11, len(index))
    draws = make_sampler({}, sources, {"a": far}).draw(view, index, iter, rows=rows)
    expected = make_sampler({}, sources).draw(view, index, iter, rows=rows)
    assert torch.equal(draws.x, expected.x)


@pytest.mark.parametrize("learned", ["a", "b"])
def test_mixtures_are_exact_until_all_networks_are_learned(sources, learned):
    """A network beside a mixture that has none waits: no chain is run, no candidate compared."""
    view, _ = make_view()
    mixtures = {name: make_mixture(k, 3.0) for k, name in enumerate("ab")}
    waiting = make_sampler({learned: Unused()}, sources, mixtures, n_candidates=4, n_redraws=2)
    rows, exact = make_rows(12, 2), make_sampler({}, sources, mixtures)
    draws = waiting.draw(view, np.arange(2), iter, rows=rows)
    expected = exact.draw(view, np.arange(2), iter, rows=rows)
    assert torch.equal(draws.x, expected.x)
    assert draws.n_redrawn == 0


def test_draws_from_mixtures_come_in_the_order_of_the_index(sources):
    view, _ = make_view(5)
    index = np.array([4, 0, 0, 3, 2])
    sampler = make_sampler({}, sources, {k: mixture_of(s) for k, s in sources.items()},
                           batch_size=3)  # fmt: skip
    draws = sampler.draw(view, index, iter, rows=make_rows(1, 5))
    torch.testing.assert_close(sampler.observe(view, index).chi2(draws.x), draws.chi2)
    assert not torch.equal(draws.x[1], draws.x[2])


class Exact(MomentMatching):
    """Chains that are perfect: they stay at their first draws, which are exact."""

    def begin(self, priors, observation, rows, *, start, first=None):
        priors = replace(priors, denoisers={})
        return super().begin(priors, observation, rows, start=start, first=first)


def test_candidates_do_not_overfit(sources):
    """Where every chain is right, choosing among sixteen leaves residuals and spread of the draws.

    Weights exp(-chi2 / 2) would have brought the reduced chi-squared of eight pixels from one to
    less than 0.7. Weights for what noise does not explain take away the tail of its distribution,
    and no more: as much as when numpy draws from the exact posterior and chooses.
    """
    n, n_candidates, n_rows = 3000, 16, 8
    mixtures = {name: mixture_of(source) for name, source in sources.items()}
    view, _, A = simulate(mixtures, n, n_rows, masked=False)
    found = {}
    for k in (1, n_candidates):
        sampler = make_sampler(sources, sources, mixtures, kind=Exact, n_candidates=k, batch_size=n)
        found[k] = sampler.draw(view, np.arange(n), iter, rows=make_rows(13, n))
    error = 5 * np.sqrt(2 / n_rows / n)
    assert found[1].chi2.mean() == pytest.approx(1, abs=error)

    rng = np.random.default_rng(14)
    mean = np.concatenate([s.mean for s in sources.values()])
    precision = np.linalg.inv(block_diag(*(s.covariance for s in sources.values())))
    posterior = np.linalg.inv(precision + A.swapaxes(1, 2) @ A / 0.25)
    shift = np.einsum("nij,njk,nk->ni", posterior, A.swapaxes(1, 2), (view.data - A @ mean) / 0.25)
    factor = np.linalg.cholesky(posterior)
    z = rng.normal(size=(n, n_candidates, 2 * SIZE))
    x = mean + shift[:, None] + np.einsum("nij,nqj->nqi", factor, z)
    residual = (view.data[:, None] - np.einsum("nij,nqj->nqi", A, x)) / 0.5
    chi2 = np.square(residual).mean(axis=2)
    excess = np.maximum(chi2 - 1 - 2 * np.sqrt(2 / n_rows), 0)
    tempered, double = np.exp(-n_rows / 2 * excess), np.exp(-n_rows / 2 * chi2)
    expected = np.mean((tempered * chi2).sum(axis=1) / tempered.sum(axis=1))
    overfitted = np.mean((double * chi2).sum(axis=1) / double.sum(axis=1))
    assert overfitted < 0.7
    assert found[n_candidates].chi2.mean() == pytest.approx(expected, abs=error)
    assert expected > 0.85
    kept = found[n_candidates].x.double().numpy() - mean - shift
    kept = np.linalg.solve(factor, kept[..., None])[..., 0]
    assert (np.abs(kept.mean(axis=0)) < 5 / np.sqrt(n)).all()
    assert (kept.var(axis=0) > 0.9).all()


# --- observations that a method does not serve ----------------------------------------


class Partial(Told):
    """Serves the observations of even number; the others are left to another."""

    def __init__(self, otherwise, *rounds):
        super().__init__(*rounds)
        self.otherwise = otherwise

    def serves(self, _priors, _loader, index):
        return index % 2 == 0


def test_others_draw_what_a_method_does_not_serve(caplog):
    """In the order of the index, with random numbers, first draws and redraws of their own."""
    other = Told([500.0, 1.0], [2.0])
    told = Partial(other, [1.0, 1.0])
    loader = SimpleNamespace(
        sources=("a", "b"),
        source_shapes=Told.source_shapes,
        n_valid=lambda index: np.full(len(index), 3),
        observe=lambda index: told if (index % 2 == 0).all() else other,
    )
    first = torch.arange(4.0)[:, None]
    with caplog.at_level("INFO"):
        draws = draw_sources(
            told, None, loader, np.array([1, 0, 2, 3]), make_rows(1, 4),
            chains=Chains(max_chi2=100.0), batch_size=4, track=iter, first=first,
        )  # fmt: skip
    assert "2 of 4 draws are of observations" in caplog.text
    assert draws.chi2.tolist() == [2.0, 1.0, 1.0, 1.0]
    assert draws.x[:, 0].tolist() == [1.0, 0.0, 0.0, 0.0]  # the second round of the other's first
    assert draws.good.all()
    assert draws.n_redrawn == 1
    assert told.starts == [(2, False, 0.7)]
    assert other.starts == [(2, False, 0.7), (1, True, 1.0)]
