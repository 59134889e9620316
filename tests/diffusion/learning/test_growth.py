"""Mixtures grown on curves seen in part, beside other curves, and on what has no structure."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from astro_ddprism.diffusion.learning import growth as module
from astro_ddprism.diffusion.learning.growth import MixtureWarmStart, is_small
from astro_ddprism.diffusion.posteriors.components import Designed
from astro_ddprism.diffusion.priors.mixture import GaussianMixture
from astro_ddprism.diffusion.random import Rows, seeded

CPU = torch.device("cpu")
FLOOR = 0.1


# --- which views ----------------------------------------


@pytest.mark.parametrize(
    ("data", "shapes", "small"),
    [
        ((3,), {"a": (5,)}, True),
        ((16,), {"a": (32,), "b": (1,)}, True),
        ((17,), {"a": (2,)}, False),
        ((3,), {"a": (33,)}, False),
        ((3,), {"a": (2,), "b": (33,)}, False),
        ((1, 4, 4), {"a": (16,)}, True),  # however the observation is shaped
        ((1, 3, 3), {"a": (1, 3, 3)}, False),  # images
        ((1, 3, 3), {"a": (2,), "b": (1, 3, 3)}, False),
        ((4,), {"a": (1, 4)}, False),
    ],
)
def test_small_views(data, shapes, small):
    loader = SimpleNamespace(n_observed=math.prod(data), source_shapes=shapes)
    assert is_small(loader) is small


# --- curves ----------------------------------------


class Circle:
    """A circle of a given radius, in a random plane."""

    def __init__(self, seed, radius, size=3):
        Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]
        self.plane, self.radius, self.size = Q[:, :2], radius, size

    def draw(self, rng, n):
        phase = rng.uniform(0, 2 * np.pi, n)
        return self.radius * np.stack([np.cos(phase), np.sin(phase)], axis=1) @ self.plane.T

    def distance(self, x):
        """Root mean square distance of vectors from the circle."""
        inside = x @ self.plane
        across = np.linalg.norm(x - inside @ self.plane.T, axis=1)
        return np.sqrt(np.mean((np.hypot(*inside.T) - self.radius) ** 2 + across**2))


class Gaussian:
    """What has no structure to unfold."""

    def __init__(self, seed, size=3):
        rng = np.random.default_rng(seed)
        Q = np.linalg.qr(rng.normal(size=(size, size)))[0]
        self.factor, self.mean, self.size = Q * np.geomspace(9, 4, size), np.arange(size), size

    def draw(self, rng, n):
        return self.mean + rng.normal(size=(n, self.size)) @ self.factor.T


def observe(rng, n, n_rows, parts):
    """Sums of sources seen through random rows of unit length, in noise of 1."""
    size = next(iter(parts.values()))[1].size
    A = rng.normal(size=(n, n_rows, size))
    A /= np.linalg.norm(A, axis=2, keepdims=True)
    y, designs = rng.normal(size=(n, n_rows)), {}
    for source, (amplitude, curve) in parts.items():
        y += amplitude * np.einsum("nij,nj->ni", A, curve.draw(rng, n))
        designs[source] = torch.tensor(amplitude * A).float()
    return Designed(torch.tensor(y).float(), designs)


def grow(views, sizes, known=None, n_components=32, seed=1, floor=FLOOR):
    """A warm start that has been fitted; its progress is in ``seen``."""
    warm_start = MixtureWarmStart(known or {}, sizes, n_components=n_components, floor=floor)
    with seeded(seed, device=CPU):
        warm_start.seen = [(n, warm_start.log_evidence) for n in warm_start.fit(views)]
    return warm_start


def sample(mixture, n=2000):
    return mixture.sample(Rows.of(2, ids=range(n), device=CPU)).numpy()


def log_evidence_of(mixture, designed):
    """Mean log-evidence of observations of one source, by scipy."""
    values = []
    (designs,) = designed.designs.values()
    for y, A in zip(designed.y.double().numpy(), designs.double().numpy(), strict=True):
        log_p = [
            multivariate_normal.logpdf(y, A @ m, np.eye(len(y)) + A @ c @ A.T)
            for m, c in zip(mixture.means.numpy(), mixture.covariances.numpy(), strict=True)
        ]
        values.append(logsumexp(log_p, b=mixture.weights.numpy()))
    return np.mean(values)


@pytest.fixture(scope="module")
def circle():
    """A circle twenty times as wide as the noise, of which each observation sees two directions."""
    curve = Circle(1, 20.0)
    views = [observe(np.random.default_rng(0), 2000, 2, {"a": (1.0, curve)})]
    return SimpleNamespace(curve=curve, views=views, learned=grow(views, {"a": 3}))


def test_a_curve_is_followed(circle):
    """Draws lie within the noise of the circle; those of the Gaussian miss it by half a radius."""
    mixture = circle.learned.mixtures["a"]
    assert 8 <= len(mixture) <= 32
    assert circle.curve.distance(sample(mixture)) < 1.5
    gaussian = grow(circle.views, {"a": 3}, n_components=1).mixtures["a"]
    assert circle.curve.distance(sample(gaussian)) > 7
    # All of the circle, and no place of it twice as often as another: a tenth has 200 of 2000.
    phase = np.arctan2(*(sample(mixture) @ circle.curve.plane).T)
    counts = np.histogram(phase, bins=10, range=(-np.pi, np.pi))[0]
    assert (counts > 130).all()
    assert (counts < 270).all()


def test_new_observations_are_explained(circle):
    """Observations that no fit has seen: a gain of one nat over the Gaussian, as of the held out.

    The mean log-evidence of 200, new or held out, has a sampling error of 0.07.
    """
    new = observe(np.random.default_rng(7), 200, 2, {"a": (1.0, circle.curve)})
    mixture, gaussian = circle.learned, grow(circle.views, {"a": 3}, n_components=1)
    found = {w: log_evidence_of(w.mixtures["a"], new) for w in (mixture, gaussian)}
    assert found[mixture] > found[gaussian] + 0.8
    for warm_start, expected in found.items():
        assert warm_start.log_evidence == pytest.approx(expected, abs=0.3)


def test_the_evidence_is_that_of_what_is_learned(circle):
    """Of every tenth observation, to 5e-3 nats."""
    (view,) = circle.views
    found = log_evidence_of(circle.learned.mixtures["a"], view[::10])
    assert circle.learned.log_evidence == pytest.approx(found, abs=5e-3)


def test_an_iteration_for_the_worse_is_taken_back(circle, monkeypatch):
    """Of two components, and again of those when all observations are used at last."""
    told = iter([-9.0, -8.0, -7.9999, -7.0, -6.0, -6.5, -6.25])
    monkeypatch.setattr(MixtureWarmStart, "_evaluate", lambda *_: next(told))
    warm_start = MixtureWarmStart({}, {"a": 3}, n_components=2, floor=FLOOR)
    with seeded(5, device=CPU):
        seen = [(n, warm_start.mixtures["a"]) for n in warm_start.fit(circle.views)]
    assert [n for n, _ in seen] == [1, 1, 1, 2, 2, 2, 2]
    assert next(told, None) is None
    assert warm_start.mixtures["a"] is seen[4][1]
    assert warm_start.log_evidence == -6.0


def test_finer_mixtures_must_be_worth_it(circle, monkeypatch):
    """A gain of less than a hundredth of a nat is none, and growth ends after two of them."""
    told = iter([-9.0, -9.0, -8.0, -8.0, -7.995, -7.995, -7.9951, -7.9951, -8.0])
    monkeypatch.setattr(MixtureWarmStart, "_evaluate", lambda *_: next(told))
    warm_start = MixtureWarmStart({}, {"a": 3}, n_components=64, floor=FLOOR)
    with seeded(5, device=CPU):
        sizes = list(warm_start.fit(circle.views))
    assert sizes == [1, 1, 2, 2, 4, 4, 8, 8, 2]
    assert len(warm_start.mixtures["a"]) == 2
    assert warm_start.log_evidence == -8.0


def test_one_fruitless_step_is_not_the_end(circle, monkeypatch):
    """Two components may say no more than one where four say much more."""
    told = iter([-9.0, -9.0, -9.0, -9.0, -8.0, -8.0, -8.0])
    monkeypatch.setattr(MixtureWarmStart, "_evaluate", lambda *_: next(told))
    warm_start = MixtureWarmStart({}, {"a": 3}, n_components=4, floor=FLOOR)
    with seeded(5, device=CPU):
        sizes = list(warm_start.fit(circle.views))
    assert sizes == [1, 1, 2, 2, 4, 4, 4]
    assert len(warm_start.mixtures["a"]) == 4


def expected_iteration(mixture, designed):
    """One EM iteration with the exact probabilities of the components, by dense algebra."""
    (designs,) = designed.designs.values()
    w, mu, C = (getattr(mixture, name).numpy() for name in ("weights", "means", "covariances"))
    sums = [np.zeros_like(part) for part in (w, mu, C)]
    for y, A in zip(designed.y.double().numpy(), designs.double().numpy(), strict=True):
        predicted = [np.eye(len(y)) + A @ c @ A.T for c in C]
        log_r = np.log(w) + [
            multivariate_normal.logpdf(y, A @ m, p) for m, p in zip(mu, predicted, strict=True)
        ]
        r = np.exp(log_r - logsumexp(log_r))
        for k, (m, c, p) in enumerate(zip(mu, C, predicted, strict=True)):
            gain = c @ A.T @ np.linalg.inv(p)
            mean = m + gain @ (y - A @ m)
            parts = 1, mean, c - gain @ A @ c + np.outer(mean, mean)
            for total, part in zip(sums, parts, strict=True):
                total[k] += r[k] * part
    weight, first, second = sums
    mean = first / weight[:, None]
    second = second / weight[:, None, None] - mean[:, :, None] * mean[:, None, :]
    return weight / weight.sum(), mean, second


@pytest.mark.parametrize("n_components", [1, 4])
def test_an_iteration_is_that_of_exact_em(monkeypatch, n_components):
    """On top of it, only the randomness of 400 draws, and the old mixture with their weight of one.

    Tolerance: 1e-3 of the scale of the mixture for one component, whose choice is no choice; else
    3 %.
    """
    monkeypatch.setattr(module, "_N_DRAWS", 400)
    rng = np.random.default_rng(10)
    designed = observe(rng, 150, 2, {"a": (1.0, Circle(1, 5.0))})
    factors = 2 * rng.normal(size=(n_components, 3, 3))
    mixture = GaussianMixture(
        torch.full((n_components,), 1 / n_components, dtype=torch.float64),
        torch.tensor(3 * rng.normal(size=(n_components, 3))),
        torch.tensor(factors @ factors.swapaxes(1, 2)),
    )
    warm_start = MixtureWarmStart({}, {"a": 3}, n_components=4, floor=1e-3)
    warm_start.mixtures = {"a": mixture}
    with seeded(3, device=CPU):
        found = warm_start._iterate([designed[:100], designed[100:]])["a"]
    tolerance = 1e-3 if n_components == 1 else 0.03
    weights, means, covariances = expected_iteration(mixture, designed)
    np.testing.assert_allclose(found.weights, weights, atol=tolerance)
    np.testing.assert_allclose(found.means, means, atol=5 * tolerance)
    np.testing.assert_allclose(found.covariances, covariances, atol=25 * tolerance)


def test_variances_that_fall_do_so_faster():
    """By the third power of what EM says, those that grow by what it says, and no further down."""
    designed = observe(np.random.default_rng(13), 200, 3, {"a": (1.0, Circle(1, 5.0))})
    mixture = GaussianMixture(
        torch.ones(1, dtype=torch.float64),
        torch.zeros(1, 3, dtype=torch.float64),
        torch.diag_embed(torch.tensor([[4.0, 4.0, 4.0]], dtype=torch.float64)),
    )
    warm_start = MixtureWarmStart({}, {"a": 3}, n_components=1, floor=1e-3)
    warm_start.mixtures = {"a": mixture}
    em, relaxed = (warm_start._iterate([designed], power)["a"] for power in (1.0, 3.0))
    values, vectors = torch.linalg.eigh(em.covariances[0])
    expected = values * (values / 4).clip(min=0.2, max=1) ** 2
    found = vectors.mT @ relaxed.covariances[0] @ vectors
    assert values[0] < 4 < values[-1]
    torch.testing.assert_close(found, torch.diag(expected))
    torch.testing.assert_close(relaxed.means, em.means)


def test_components_without_observations_stay_as_they_are():
    designed = observe(np.random.default_rng(11), 100, 3, {"a": (1.0, Circle(1, 5.0))})
    mixture = GaussianMixture(
        torch.tensor([0.5, 0.5], dtype=torch.float64),
        torch.tensor([[0.0, 0.0, 0.0], [1e4, 0.0, 0.0]], dtype=torch.float64),
        torch.diag_embed(torch.tensor([[30.0, 20.0, 10.0], [3.0, 2.0, 1.0]], dtype=torch.float64)),
    )
    warm_start = MixtureWarmStart({}, {"a": 3}, n_components=2, floor=FLOOR)
    warm_start.mixtures = {"a": mixture}
    with seeded(4, device=CPU):
        found = warm_start._iterate([designed])["a"]
    assert 0 < found.weights[1] < 0.01
    torch.testing.assert_close(found.means[1], mixture.means[1])
    torch.testing.assert_close(found.covariances[1], mixture.covariances[1])
    assert not torch.equal(found.means[0], mixture.means[0])


def test_growth(circle):
    """Sizes double, each until it has converged, and every size explains more than the last."""
    sizes = [n for n, _ in circle.learned.seen]
    assert sizes[0] == 1
    unique = sorted(set(sizes))
    assert unique == [2**k for k in range(len(unique))]
    assert all(b >= a for a, b in itertools.pairwise(sizes) if b != sizes[-1])
    best = {n: max(e for m, e in circle.learned.seen if m == n) for n in unique}
    learned = len(circle.learned.mixtures["a"])
    gains = np.diff([best[n] for n in unique if n <= learned])
    assert (gains > 0).all()
    assert circle.learned.log_evidence >= best[learned] - 1e-9
    assert all(sizes.count(n) <= 2 * module._MAX_ITERATIONS for n in unique)


def test_the_mixture_is_a_mixture(circle):
    mixture = circle.learned.mixtures["a"]
    assert mixture.weights.dtype == mixture.means.dtype == torch.float64
    assert (mixture.weights > 0).all()
    assert float(mixture.weights.sum()) == pytest.approx(1)
    assert np.linalg.eigvalsh(mixture.covariances).min() > FLOOR**2 * (1 - 1e-6)
    # Siblings lie side by side.
    pairs = mixture.means.unflatten(0, (-1, 2))
    apart = torch.cdist(mixture.means, mixture.means)
    assert (pairs[:, 0] - pairs[:, 1]).norm(dim=1).median() < apart.median() / 3


def test_a_seed_repeats_a_run(circle):
    again = grow(circle.views, {"a": 3})
    assert again.seen == circle.learned.seen
    mixture = circle.learned.mixtures["a"]
    for name in ("weights", "means", "covariances"):
        assert torch.equal(getattr(again.mixtures["a"], name), getattr(mixture, name))
    other = grow(circle.views, {"a": 3}, n_components=2, seed=2)
    same = grow(circle.views, {"a": 3}, n_components=2)
    assert not torch.equal(other.mixtures["a"].means, same.mixtures["a"].means)


def test_a_helix_in_five_dimensions():
    """Not flat, not closed, seen in three of its five dimensions."""
    rng = np.random.default_rng(3)
    Q = np.linalg.qr(rng.normal(size=(5, 5)))[0][:, :3]

    def helix(t):
        return np.stack([15 * np.cos(t), 15 * np.sin(t), 10 * (t - 4)], axis=1) @ Q.T

    helix_source = SimpleNamespace(size=5, draw=lambda rng, n: helix(rng.uniform(0, 8, n)))
    views = [observe(rng, 1500, 3, {"a": (1.0, helix_source)})]
    learned = grow(views, {"a": 5})
    curve = helix(np.linspace(0, 8, 1000))

    def distance(mixture):
        apart = torch.cdist(torch.tensor(sample(mixture)), torch.tensor(curve))
        return float(apart.amin(dim=1).square().mean().sqrt())

    gaussian = grow(views, {"a": 5}, n_components=1)
    assert distance(learned.mixtures["a"]) < 2
    assert distance(gaussian.mixtures["a"]) > 6
    assert learned.log_evidence > gaussian.log_evidence + 1


def test_a_second_curve_beside_a_known_one(circle):
    """The known prior stays as it is; the new one follows a circle of half the size."""
    known = circle.learned.mixtures
    before = {name: getattr(known["a"], name).clone() for name in ("weights", "means")}
    curve = Circle(2, 10.0)
    rng = np.random.default_rng(4)
    views = [observe(rng, 1000, 3, {"a": (1.0, circle.curve), "b": (1.0, curve)})]
    learned = grow(views, {"b": 3}, known, n_components=16)
    assert list(learned.mixtures) == ["b"]
    assert all(torch.equal(getattr(known["a"], name), value) for name, value in before.items())
    gaussian = grow(views, {"b": 3}, known, n_components=1)
    assert curve.distance(sample(learned.mixtures["b"])) < 2.2
    assert curve.distance(sample(gaussian.mixtures["b"])) > 3.5
    assert learned.log_evidence > gaussian.log_evidence + 0.3


def test_two_curves_in_two_mixed_views():
    """Both at once, from views that hold a fifth of the other."""
    rng = np.random.default_rng(5)
    curves = {"a": Circle(1, 20.0), "b": Circle(2, 10.0)}
    views = [
        observe(rng, 1000, 3, {"a": (1.0, curves["a"]), "b": (0.2, curves["b"])}),
        observe(rng, 1000, 3, {"a": (0.2, curves["a"]), "b": (1.0, curves["b"])}),
    ]
    learned = grow(views, {"a": 3, "b": 3}, n_components=8)
    gaussian = grow(views, {"a": 3, "b": 3}, n_components=1)
    for source, limit in (("a", 3.0), ("b", 2.0)):
        assert len(learned.mixtures[source]) == 8
        assert curves[source].distance(sample(learned.mixtures[source])) < limit
        assert curves[source].distance(sample(gaussian.mixtures[source])) > 2 * limit - 0.5
    assert learned.log_evidence > gaussian.log_evidence + 0.5


# --- where there is no curve ----------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_gaussian_data_need_no_mixture(seed):
    """A few components at most; together they have the moments of the data.

    Tolerance: five standard deviations of the sampling error of 2000 vectors, of which two thirds
    are seen.
    """
    source, n = Gaussian(3), 2000
    views = [observe(np.random.default_rng(seed), n, 2, {"a": (1.0, source)})]
    learned = grow(views, {"a": 3})
    assert len(learned.mixtures["a"]) <= 2
    prior = learned.mixtures["a"].gaussian()
    covariance = source.factor @ source.factor.T
    std = np.sqrt(covariance.diagonal())
    assert (np.abs(prior.mean.numpy() - source.mean) < 5 * np.sqrt(1.5 / n) * std).all()
    error = 5 * np.sqrt(1.5 * (np.outer(std, std) ** 2 + covariance**2) / n)
    assert (np.abs((prior.factor @ prior.factor.T).numpy() - covariance) < error).all()


@pytest.mark.parametrize(("n", "most"), [(30, 1), (40, 2), (100, 4), (300, 16)])
def test_no_more_components_than_observations_allow(n, most):
    """One for each 16 of the nine tenths that are trained on, on a curve that would take more."""
    views = [observe(np.random.default_rng(6), n, 3, {"a": (1.0, Circle(1, 100.0))})]
    learned = grow(views, {"a": 3}, n_components=128)
    assert len(learned.mixtures["a"]) <= most
    assert max(size for size, _ in learned.seen) <= most
    assert len(learned.mixtures["a"]) >= most / 2  # and the bound is what bounds them


@pytest.mark.parametrize("n_components", [1, 3, 8])
def test_no_more_components_than_asked_for(circle, n_components):
    """Sizes are powers of 2."""
    learned = grow(circle.views, {"a": 3}, n_components=n_components)
    assert len(learned.mixtures["a"]) == 2 ** int(math.log2(n_components))


@pytest.mark.parametrize("n", [1, 2, 9, 10, 11])
def test_a_handful_of_observations(n):
    """None can be spared, then one is held out; their Gaussian explains them."""
    rng = np.random.default_rng(8)
    x = 30 + rng.normal(size=(n, 2))
    learned = grow([Designed(torch.tensor(x).float(), {"a": torch.eye(2).repeat(n, 1, 1)})],
                   {"a": 2})  # fmt: skip
    mixture = learned.mixtures["a"]
    assert len(mixture) == 1
    np.testing.assert_allclose(mixture.means[0], 30, atol=3)
    assert np.linalg.eigvalsh(mixture.covariances).min() > FLOOR**2 * (1 - 1e-6)
    assert math.isfinite(learned.log_evidence)


@pytest.mark.parametrize("floor", [0.1, 2.0])
def test_no_component_is_thinner_than_the_floor(floor):
    """Points on a line, without any width."""
    x = np.random.default_rng(9).uniform(-50, 50, 400)[:, None] * np.array([0.6, 0.8])
    designed = Designed(torch.tensor(x).float(), {"a": torch.eye(2).repeat(400, 1, 1)})
    learned = grow([designed], {"a": 2}, n_components=8, floor=floor)
    values = np.linalg.eigvalsh(learned.mixtures["a"].covariances)
    assert floor**2 * (1 - 1e-6) < values.min() < floor**2 + 0.1  # which EM approaches slowly
    assert values.max() > 10


def test_nothing_is_learned_from_nothing():
    """A source that no observation shows keeps a component as thin as the floor, not a crash."""
    nothing = Designed(torch.zeros(50, 2), {"a": torch.zeros(50, 2, 3)})
    learned = grow([nothing], {"a": 3})
    for name in ("weights", "means", "covariances"):
        assert torch.isfinite(getattr(learned.mixtures["a"], name)).all()
