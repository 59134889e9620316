"""Posteriors of components against dense algebra and enumeration of all of them."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.diffusion.posteriors import components as module
from astro_ddprism.diffusion.posteriors.components import Designed, mixture_draws
from astro_ddprism.diffusion.priors.mixture import GaussianMixture
from astro_ddprism.diffusion.random import Rows, seeded
from astro_ddprism.mixing import Amplitude, DenseMatrix, DiagonalNoise, PhotonNoise
from astro_ddprism.separator.loader import ViewLoader
from astro_ddprism.views.base import Batch
from astro_ddprism.views.dataset import MultiViewDataset

CPU = torch.device("cpu")


def make_rows(seed, n):
    """Random numbers of n rows."""
    return Rows.of(seed, ids=range(n), device=CPU)


NUMBERS = [(1,), (8,), (1, 1), (4, 4), (1, 8), (8, 2), (4, 1, 2), (2, 2, 4)]


@pytest.mark.parametrize("n_rows", [1, 3, 6])
@pytest.mark.parametrize("numbers", NUMBERS, ids=str)
def test_log_evidence_of_all_combinations(mixtures, numbers, n_rows):
    """Single precision: to 1e-3 nats."""
    observed = mixtures.observed(numbers, n_rows=n_rows)
    posterior = observed.posterior(beam=len(observed.combinations))
    constant = n_rows / 2 * math.log(2 * math.pi)
    for i in range(5):
        found = posterior.components[i].numpy()
        assert sorted(map(tuple, found)) == sorted(map(tuple, observed.combinations))
        where = np.ravel_multi_index(found.T, numbers)
        expected = observed.log_evidence(i)
        np.testing.assert_allclose(posterior.log_evidence[i] - constant, expected[where], atol=1e-3)
        total = posterior.total_log_evidence[i]
        np.testing.assert_allclose(total, logsumexp(expected), atol=1e-3)


def test_masked_rows_say_nothing(mixtures):
    """An observation with a masked row is one without the row, but for the constant."""
    observed = mixtures.observed((4, 2), n=1)
    with_row = observed.posterior(beam=8)
    assert (observed.y[:, 0] == 0).all()
    observed.y = observed.y[:, 1:]
    observed.designs = [A[:, 1:] for A in observed.designs]
    without = observed.posterior(beam=8)
    change = without.total_log_evidence - with_row.total_log_evidence
    np.testing.assert_allclose(change, 0.5 * math.log(2 * math.pi), atol=1e-4)
    assert torch.equal(with_row.components, without.components)
    for first, second in zip(
        with_row.moments(with_row.components), without.moments(without.components), strict=True
    ):
        torch.testing.assert_close(first, second)


def test_nothing_observed_leaves_the_prior(mixtures):
    observed = mixtures.observed((4, 2), n=1)
    observed.y, observed.designs = observed.y * 0, [A * 0 for A in observed.designs]
    samples = observed.posterior(beam=8).sample(20_000, make_rows(1, 1))
    for x, mixture in zip(samples, observed.mixtures, strict=True):
        mixtures.assert_moments(x[0], *mixtures.moments(*mixtures.arrays(mixture)))


def test_components_are_chosen_by_their_evidence(mixtures):
    """Tolerance: five standard deviations of the sampling error."""
    n, observed = 20_000, mixtures.observed((4, 2), n_rows=1)
    with seeded(2, device=CPU):
        chosen = observed.posterior().choose(torch.rand(5, n, dtype=torch.float64))
    assert chosen.shape == (5, n, 2)
    for i in range(5):
        log_evidence = observed.log_evidence(i)
        expected = np.exp(log_evidence - logsumexp(log_evidence))
        counts = np.bincount(np.ravel_multi_index(chosen[i].numpy().T, (4, 2)), minlength=8)
        error = 5 * np.sqrt(expected * (1 - expected) / n) + 1e-4
        assert (np.abs(counts / n - expected) < error).all()


@pytest.mark.parametrize("numbers", [(4,), (4, 1), (2, 4), (2, 1, 2)], ids=str)
def test_moments_given_components(mixtures, numbers):
    observed = mixtures.observed(numbers)
    chosen = torch.tensor(observed.combinations).expand(5, -1, -1)
    found = observed.posterior().moments(chosen)
    assert len(found) == len(numbers)
    for i, (k, combination) in itertools.product(range(5), enumerate(observed.combinations)):
        mean, covariance = observed.conditional(i, combination)
        begin = 0
        for means, covariances in found:
            part = slice(begin, begin := begin + means.shape[-1])
            np.testing.assert_allclose(means[i, k], mean[part], atol=1e-5)
            np.testing.assert_allclose(covariances[i, k], covariance[part, part], atol=1e-5)


@pytest.mark.parametrize("numbers", [(1,), (8,), (4, 4), (2, 1, 4)], ids=str)
def test_samples_have_the_moments_of_the_posterior(mixtures, numbers):
    """Of all sources together, so that what one holds the other does not."""
    observed = mixtures.observed(numbers, n=3)
    posterior = observed.posterior(beam=len(observed.combinations))
    samples = torch.cat(posterior.sample(20_000, make_rows(3, 3)), dim=-1)
    for i in range(3):
        mixtures.assert_moments(samples[i], *observed.moments(i))


def test_thin_and_long_priors_stay_exact(mixtures):
    """A prior a thousand times as long as the noise is wide, in more rows than it has features.

    Both are differences of numbers of 1e6, in float64: to 1e-2 of a variance of order one.
    """
    covariance = torch.tensor([[1e6, 0.99e6], [0.99e6, 1e6]], dtype=torch.float64)
    prior = GaussianMixture(torch.ones(1).double(), torch.zeros(1, 2).double(), covariance[None])
    observed = mixtures.Observed([prior], n=4, masked=False)
    # What the posterior knows is rounded by the single precision of y and A.
    observed.y = observed.y.astype(np.float32).astype(float)
    observed.designs = [A.astype(np.float32).astype(float) for A in observed.designs]
    posterior = observed.posterior()
    ((means, covariances),) = posterior.moments(posterior.components)
    for i in range(4):
        mean, covariance = observed.conditional(i, (0,))
        np.testing.assert_allclose(means[i, 0], mean, atol=1e-3)
        np.testing.assert_allclose(covariances[i, 0], covariance, atol=1e-2)
    (x,) = posterior.sample(20_000, make_rows(4, 4))
    mixtures.assert_moments(x[0], *observed.conditional(0, (0,)))


def test_repeated_observations(mixtures):
    posterior = mixtures.observed((4, 2)).posterior()
    index = torch.tensor([3, 0, 0, 4])
    some = posterior[index]
    assert torch.equal(some.components, posterior.components[index])
    assert torch.equal(some.total_log_evidence, posterior.total_log_evidence[index])
    expected = posterior.moments(posterior.components)
    for found, reference in zip(some.moments(some.components), expected, strict=True):
        for part, whole in zip(found, reference, strict=True):
            torch.testing.assert_close(part, whole[index])
    assert [x.shape for x in some.sample(7, make_rows(1, 4))] == [(4, 7, 2), (4, 7, 3)]
    assert len(posterior.y) == 5  # as it was


# --- the search ----------------------------------------


def log_evidence_of_all(observed):
    """Log-evidence of every combination, ``(n, Q)``, in float64."""
    mixtures, combinations = observed.mixtures, torch.tensor(observed.combinations)
    rows = []
    for i, y in enumerate(torch.tensor(observed.y)):
        mean, covariance, log_weight = 0, torch.eye(len(y), dtype=y.dtype), 0
        for A, mixture, k in zip(observed.designs, mixtures, combinations.T, strict=True):
            A = torch.tensor(A[i])
            mean = mean + (mixture.means @ A.T)[k]
            covariance = covariance + (A @ mixture.covariances @ A.T)[k]
            log_weight = log_weight + mixture.weights.log()[k]
        normal = torch.distributions.MultivariateNormal(mean, covariance, validate_args=False)
        rows.append(log_weight + normal.log_prob(y))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("numbers", "radius"), [((32,), 50), ((128,), 100), ((64, 64), 100), ((32, 4), 50),
                            ((16, 16, 16), 50)], ids=str,
)  # fmt: skip
def test_search_finds_what_enumeration_finds(mixtures, numbers, radius):
    """Curves of up to 4096 combinations of components, far more than the beam is wide.

    The best is always among those kept, and all that are not hold less than 1 % of the evidence.
    """
    curves = [mixtures.curve(k, n, radius=radius) for k, n in enumerate(numbers)]
    observed = mixtures.Observed(curves, n=60, seed=11, masked=False)
    expected = log_evidence_of_all(observed)
    best = torch.tensor(observed.combinations)[expected.argmax(dim=1)]
    posterior = observed.posterior()
    assert posterior.components.shape[1] < len(observed.combinations)
    kept = (posterior.components == best[:, None]).all(dim=2).any(dim=1)
    assert kept.all()
    lost = expected.logsumexp(dim=1) - posterior.total_log_evidence
    assert lost.max() < 0.01
    assert lost.min() > -1e-3  # of rounding


def test_search_needs_its_beam(mixtures):
    """One combination at a time is not enough: the test above tests something."""
    observed = mixtures.Observed(
        [mixtures.curve(k, 16) for k in range(3)], n=60, seed=11, masked=False
    )
    best = torch.tensor(observed.combinations)[log_evidence_of_all(observed).argmax(dim=1)]
    kept = (observed.posterior(beam=1).components == best[:, None]).all(dim=2).any(dim=1)
    assert 0.3 < kept.float().mean() < 0.95


def test_search_does_not_depend_on_how_many_go_at_a_time(mixtures, monkeypatch):
    observed = mixtures.Observed([mixtures.curve(k, 32) for k in range(2)], n=20, seed=5)
    whole = observed.posterior()
    monkeypatch.setattr(module, "_CHUNK", 1)
    single = observed.posterior()
    assert torch.equal(single.components, whole.components)
    torch.testing.assert_close(single.log_evidence, whole.log_evidence, rtol=0, atol=1e-3)


# --- operators as matrices ----------------------------------------


def whitened(problem):
    """Matrices and observations of a `LinearProblem`, by numpy."""
    root = np.sqrt(problem.weights)
    return root[..., None] * problem.matrices, root * problem.y


@pytest.mark.parametrize("psf", [False, True])
@pytest.mark.parametrize("n_sources", [1, 3])
def test_matrices_are_the_operators(linear_problem, n_sources, psf):
    """Dense matrices, one for each observation, and a PSF shared by all; with masked pixels."""
    problem = linear_problem(n_sources, psf)
    designed = Designed.gather([problem.observation(dtype=torch.float32)])
    matrices, y = whitened(problem)
    assert list(designed.designs) == list(problem.source_shapes)
    assert len(designed) == 2
    found = np.concatenate([d.numpy() for d in designed.designs.values()], axis=-1)
    np.testing.assert_allclose(found, matrices, atol=1e-6)
    np.testing.assert_allclose(designed.y, y, atol=1e-5)
    assert (found[problem.mask] == 0).all()
    assert (designed.y.numpy()[problem.mask] == 0).all()


def test_diagonal_operators():
    rng = np.random.default_rng(1)
    amplitude, variance = rng.uniform(1, 2, 4), rng.uniform(0.2, 1, (4, 3))
    mixing = {"a": Amplitude(amplitude, (3,)), "b": Amplitude(0.5, (3,))}
    view = {"data": rng.normal(size=(4, 3)), "variance": variance, "mixing": mixing}
    view = MultiViewDataset.from_arrays({"view": view})["view"]
    shapes = {"a": (3,), "b": (3,)}
    designed = Designed.gather([JointObservation(view.batch(slice(None)), shapes)])
    eye, sigma = np.eye(3), np.sqrt(view.variance)[:, :, None]
    np.testing.assert_allclose(
        designed.designs["a"], amplitude[:, None, None] * eye / sigma, rtol=1e-5
    )
    np.testing.assert_allclose(designed.designs["b"], 0.5 * eye / sigma, rtol=1e-5)


def test_batches_are_joined_and_cut(linear_problem):
    problem = linear_problem(2, psf=False)
    once, twice = (problem.observation(n, dtype=torch.float32) for n in (1, 2))
    designed = Designed.gather(iter([once, twice]))
    rows = [0, 1, 0, 0, 1, 1]
    matrices, y = whitened(problem)
    np.testing.assert_allclose(designed.y, y[rows], atol=1e-5)
    np.testing.assert_allclose(designed.designs["b"], matrices[rows, :, 12:], atol=1e-6)
    parts = list(designed.batches(4))
    assert [len(part) for part in parts] == [4, 2]
    assert torch.equal(torch.cat([part.y for part in parts]), designed.y)
    assert torch.equal(torch.cat([part.designs["a"] for part in parts]), designed.designs["a"])
    some = designed[torch.tensor([5, 0])]
    assert torch.equal(some.y, designed.y[[5, 0]])
    assert torch.equal(some.designs["b"], designed.designs["b"][[5, 0]])


# --- draws ----------------------------------------


@pytest.mark.parametrize("numbers", [(4,), (2, 4)], ids=str)
def test_draws_are_exact(mixtures, numbers):
    """Of observations that are repeated, whose components are searched for once."""
    observed, n = mixtures.observed(numbers, n=3, masked=False), 8000
    names = "ab"[: len(numbers)]
    view = {
        "data": observed.y,
        "variance": 1.0,
        "mixing": dict(zip(names, observed.designs, strict=True)),
    }
    loader = ViewLoader(MultiViewDataset.from_arrays({"view": view})["view"], 1.0, CPU)
    observation = loader.observe(np.repeat([2, 0, 1], n))
    assert len(observation.distinct[0]) == 3
    priors = dict(zip(names, observed.mixtures, strict=True))
    x = mixture_draws(priors, observation, make_rows(5, 3 * n)).unflatten(0, (3, n))
    for i, draws in zip([2, 0, 1], x, strict=True):
        mixtures.assert_moments(draws, *observed.moments(i))


def test_draws_under_their_own_photon_noise():
    """A flux, of a broad prior: truth and draw are both within the noise that the light makes."""
    rng, n, gain = np.random.default_rng(0), 400, 2.0
    y, x = np.mgrid[:7, :7] - 3
    profile = np.exp(-np.hypot(x, y) / 1.2).ravel()
    flux = 200 + 50 * rng.normal(size=(n, 1))
    light = flux * profile
    images = rng.poisson(gain * light.clip(min=0)) / gain + rng.normal(size=light.shape)
    prior = GaussianMixture(torch.ones(1), torch.tensor([[200.0]]), torch.tensor([[[2500.0]]]))
    background = DiagonalNoise(torch.ones(n, 49))
    error = ((profile**2 / (1 + light / gain)).sum(1) + 50.0**-2) ** -0.5

    def pulls(noise):
        """Of draws about the truth, and about each other."""
        index = np.repeat(np.arange(n), 2)
        batch = Batch(
            torch.tensor(images[index]).float(), {"a": DenseMatrix(profile[:, None])}, noise[index]
        )
        observation = JointObservation(batch, {"a": (1,)})
        draws = mixture_draws({"a": prior}, observation, make_rows(6, 2 * n)).view(n, 2).numpy()
        return (draws[:, 0] - flux[:, 0]) / error / 2**0.5, np.diff(draws)[:, 0] / error / 2**0.5

    # 400 pulls: 0.05 and 0.035.
    for found in pulls(PhotonNoise(background, gain)):
        assert found.mean() == pytest.approx(0, abs=0.15)
        assert found.std() == pytest.approx(1, abs=0.12)
    assert pulls(background)[1].std() < 0.7  # draws that know of no photons are too sure
