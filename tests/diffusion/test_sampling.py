"""Joint draws of Gaussian sources against their exact posterior; chains that go astray."""

import numpy as np
import pytest
import torch
from azula.denoise import Denoiser, DiracPosterior, GaussianDenoiser
from azula.linalg.covariance import FullCovariance
from azula.noise import VESchedule
from scipy.linalg import block_diag

from astro_ddprism.dataset import MultiViewDataset
from astro_ddprism.diffusion.gaussian import GaussianPrior
from astro_ddprism.diffusion.random import seeded
from astro_ddprism.diffusion.sampling import SAMPLERS, JointSampler, sample_prior
from astro_ddprism.diffusion.solvers import Dense

# Chains end in the mean given the last noise scale, which must be small beside the posterior: 0.1.
SCHEDULE = VESchedule(0.01, 100.0)
CPU = torch.device("cpu")
SIZE = 3


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


def make_sampler(denoisers, sources, **options):
    return JointSampler(
        denoisers,
        {name: source.prior for name, source in sources.items()},
        **{
            "schedule": SCHEDULE,
            "source_shapes": dict.fromkeys(sources, (SIZE,)),
            "scale": lambda _: 1.0,
            "device": CPU,
            "sampler": "adams-bashforth",
            "n_steps": 64,
            "solver": Dense(),
            "batch_size": 1000,
            "max_chi2": 100.0,
            "n_redraws": 0,
            **options,
        },
    )


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
    with seeded(1, device=CPU):
        draws = sampler.draw(view, index, iter)
        if first:  # chains that begin from the draws of the last time
            draws = sampler.draw(view, index, iter, first=draws.x, start=start)
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
    with seeded(1, device=CPU):
        sampler = make_sampler({}, sources, sampler="ddim", n_steps=1)
        draws = sampler.draw(view, np.arange(2), iter)
    assert draws.x.shape == (2, 2 * SIZE)
    assert torch.isfinite(draws.chi2).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_by_its_name(sources, sampler):
    view, _ = make_view()
    with seeded(1, device=CPU):
        draws = make_sampler(sources, sources, sampler=sampler, n_steps=8).draw(
            view, np.arange(2), iter
        )
    assert draws.good.all()


def test_draws_depend_on_the_batch_size_only_through_random_numbers(sources):
    """Rows come back in the order of the index, however many are worked on at a time."""
    view, _ = make_view(5)
    index = np.array([4, 0, 0, 3, 2])
    sampler = make_sampler(sources, sources, batch_size=2)
    with seeded(1, device=CPU):
        draws = sampler.draw(view, index, iter)
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
    with seeded(1, device=CPU):
        sampler = make_sampler(sources, sources, n_redraws=3)
        draws = sampler.draw(view, np.arange(2), track)
    assert track.rounds == 2  # the second was good
    assert draws.n_redrawn == 2
    assert draws.good.all()
    assert torch.isfinite(draws.x).all()


@pytest.mark.parametrize("offset", [1e3, np.nan])
def test_chains_that_fail_for_good_are_reported(sources, offset):
    view, _ = make_view()
    track = Astray(sources["a"], offset, offset, offset)
    with seeded(1, device=CPU):
        sampler = make_sampler(sources, sources, n_redraws=2)
        draws = sampler.draw(view, np.arange(2), track)
    assert track.rounds == 3
    assert draws.n_redrawn == 4
    assert not draws.good.any()


def test_a_worse_redraw_is_not_taken(sources):
    view, _ = make_view()
    once, twice = (make_sampler(sources, sources, n_redraws=n) for n in (0, 1))
    with seeded(1, device=CPU):
        kept = once.draw(view, np.arange(2), Astray(sources["a"], 1e2))
    with seeded(1, device=CPU):
        draws = twice.draw(view, np.arange(2), Astray(sources["a"], 1e2, 1e4))
    assert torch.equal(draws.x, kept.x)
    assert torch.equal(draws.chi2, kept.chi2)
    assert draws.n_redrawn == 2


def test_the_limit_allows_for_the_noise_of_few_pixels(sources):
    """Below max_chi2 + noise all is well: 1 + 6 sqrt(2 / n), with n = 2 and 3 valid pixels."""
    view, _ = make_view()
    sampler = make_sampler(sources, sources, max_chi2=2.0)
    limit = sampler._limit(view, np.arange(2))
    np.testing.assert_allclose(limit, [1 + 6, 1 + 6 * np.sqrt(2 / 3)], rtol=1e-6)


def test_prior_draws_have_the_moments_of_the_prior(sources):
    """Tolerance as above."""
    n, bias, source = 4000, 0.04, sources["a"]
    with seeded(5, device=CPU):
        x = sample_prior(
            source, source.prior, (SIZE,), n,
            sampler="adams-bashforth", n_steps=128, batch_size=1500, track=iter,
        )  # fmt: skip
    assert x.shape == (n, SIZE)
    z = np.linalg.solve(np.linalg.cholesky(source.covariance), (x.double().numpy() - source.mean).T)
    assert np.abs(z.mean(axis=1)).max() < 5 / np.sqrt(n) + bias
    assert (np.abs(np.cov(z) - np.eye(SIZE)) < 5 * np.sqrt((1 + np.eye(SIZE)) / n) + bias).all()
