"""Stretched light against automatic differentiation and dense algebra, and what judges draws."""

import numpy as np
import pytest
import torch
from azula.denoise import Denoiser, DiracPosterior, GaussianDenoiser
from azula.linalg.covariance import FullCovariance
from azula.noise import VESchedule
from scipy.stats import kstest

from astro_ddprism import View
from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.diffusion.posteriors.moment_matching import JointPosteriorDenoiser
from astro_ddprism.diffusion.posteriors.solvers import GMRES, Dense
from astro_ddprism.diffusion.random import seeded
from astro_ddprism.mixing import DenseMatrix, Identity
from benchmarks.dynamic_range import study as dynamic_range
from benchmarks.dynamic_range.pictures import draw_fluxes
from benchmarks.dynamic_range.problem import LIGHT, SIZE, Light, brightest_pixels, observe
from benchmarks.dynamic_range.stretched import Stretch, StretchedPosteriorDenoiser, Tangent
from benchmarks.dynamic_range.summary import summarise

SHAPE, SIZES = (1, 2, 3), (6, 6)
TIME = torch.tensor(0.4, dtype=torch.float64)


class GaussianSource(Denoiser):
    """A Gaussian source in units of ``scale``, and its noise schedule too."""

    def __init__(self, seed, scale=1.0):
        super().__init__()
        rng = np.random.default_rng(seed)
        Q, L = np.linalg.qr(rng.normal(size=(6, 6)))[0], np.geomspace(0.2, 2, 6) ** 2
        self.covariance = (Q * L) @ Q.T / scale**2
        self.mean = rng.normal(size=6) / scale
        self.schedule = VESchedule(0.05 / scale, 50 / scale)
        full = FullCovariance(torch.tensor(Q), torch.tensor(L / scale**2))
        self.flat = GaussianDenoiser(torch.tensor(self.mean), full, self.schedule)

    def forward(self, x_t, t):
        return DiracPosterior(mean=self.flat(x_t.flatten(1), t).mean.unflatten(1, SHAPE))


@pytest.fixture(scope="module")
def observation():
    """Of two sources of six pixels through matrices, five numbers each."""
    rng = np.random.default_rng(0)
    mixing = {s: DenseMatrix(rng.normal(size=(3, 5, 6)), SHAPE, (5,)) for s in ("a", "b")}
    view = View(rng.normal(0, 20, (3, 5)), variance=rng.uniform(0.5, 2, (3, 5)), mixing=mixing)
    return JointObservation(view.batch(dtype=torch.float64), view.source_shapes)


def matrix(observation):
    eye = torch.eye(12, dtype=torch.float64)
    columns = [observation.forward(column.expand(3, -1)) for column in eye]
    return torch.stack(columns, dim=-1).numpy()


def points(seed, scale=1.0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(3, 12, generator=rng, dtype=torch.float64) / scale


def test_stretch():
    stretch = Stretch(2.0, faintest=-1.0, brightest=1000.0)
    x = torch.tensor([-0.5, 0.0, 1.0, 999.0], dtype=torch.float64)
    u = stretch(x).requires_grad_()
    torch.testing.assert_close(stretch.inverse(u), x)
    (slope,) = torch.autograd.grad(stretch.inverse(u).sum(), u)
    torch.testing.assert_close(stretch.slope(u), slope)
    out = stretch.inverse(stretch.clip(torch.tensor([-50.0, 0.3, 50.0], dtype=torch.float64)))
    torch.testing.assert_close(out, torch.tensor([-1, 2 * np.sinh(0.3), 1000]).double())


def test_tangent_is_the_jacobian(observation):
    stretch, u = Stretch(0.7), points(1)
    tangent = Tangent(observation, stretch.slope(u))

    def light(u):
        return observation.forward(stretch.inverse(u))

    v, r = points(2), points(3)[:, :5]
    close = {"rtol": 1e-10, "atol": 1e-10}
    _, forward = torch.autograd.functional.jvp(light, u, v)
    torch.testing.assert_close(tangent.forward(v), forward, **close)
    _, adjoint = torch.autograd.functional.vjp(light, u, r)
    torch.testing.assert_close(tangent.adjoint(r), adjoint, **close)
    step = 1e-5
    difference = (light(u + step * v) - light(u - step * v)) / (2 * step)
    torch.testing.assert_close(tangent.forward(v), difference, rtol=1e-6, atol=1e-6)


def moments(sources, u_t, sigma):
    """Prior means and covariance of both sources, given perturbed ones."""
    V = np.zeros((12, 12))
    mean = np.zeros((3, 12))
    for k, source in enumerate(sources):
        part = slice(6 * k, 6 * k + 6)
        gain = source.covariance @ np.linalg.inv(source.covariance + sigma**2 * np.eye(6))
        mean[:, part] = source.mean + (u_t[:, part] - source.mean) @ gain.T
        V[part, part] = sigma**2 * gain
    return mean, V


@pytest.mark.parametrize("solver", [Dense(), GMRES(5)], ids=["dense", "gmres"])
def test_one_step_is_the_linearized_posterior(observation, solver):
    sources, stretch, u_t = [GaussianSource(1), GaussianSource(2)], Stretch(3.0), points(4)
    joint = StretchedPosteriorDenoiser(sources, observation, solver, stretch)
    mean, V = moments(sources, u_t.numpy(), float(joint.schedule(TIME)[1]))
    A = matrix(observation) * (3 * np.cosh(mean))[:, None, :]
    M = np.eye(5) + A @ V @ A.transpose(0, 2, 1)
    residual = observation.y - observation.forward(torch.tensor(3 * np.sinh(mean)))
    z = np.linalg.solve(M, residual.numpy()[..., None])
    expected = mean + (V @ A.transpose(0, 2, 1) @ z)[..., 0]
    np.testing.assert_allclose(joint(u_t, TIME).mean.numpy(), expected, rtol=1e-8, atol=1e-8)


def test_steps_lead_to_the_mode(observation):
    """Where many of them end, prior and likelihood pull alike."""
    sources, stretch, u_t = [GaussianSource(1), GaussianSource(2)], Stretch(3.0), points(4)
    time = torch.tensor(0.05, dtype=torch.float64)

    def pull(n_linearizations):
        joint = StretchedPosteriorDenoiser(sources, observation, Dense(), stretch, n_linearizations)
        u = joint(u_t, time).mean
        mean, V = moments(sources, u_t.numpy(), float(joint.schedule(time)[1]))
        residual = observation.y - observation.forward(stretch.inverse(u))
        likelihood = stretch.slope(u) * observation.adjoint(residual)
        prior = np.linalg.solve(V, (u.numpy() - mean).T).T
        return abs(likelihood.numpy() - prior).max() / abs(prior).max()

    assert pull(40) < 1e-6
    assert pull(1) > 1e-2


@pytest.mark.parametrize("n_linearizations", [1, 3])
def test_little_stretched_light_is_linear(observation, n_linearizations):
    scale, x_t = 1e5, points(5)
    linear = JointPosteriorDenoiser(
        [GaussianSource(1), GaussianSource(2)], observation, GMRES(2)
    )(x_t, TIME).mean  # fmt: skip
    joint = StretchedPosteriorDenoiser(
        [GaussianSource(1, scale), GaussianSource(2, scale)],
        observation,
        GMRES(2),
        Stretch(scale),
        n_linearizations,
    )
    stretched = scale * joint(x_t / scale, TIME).mean
    # What a cubic term can do to light of less than 100.
    torch.testing.assert_close(stretched, linear, rtol=1e-6, atol=1e-4)


def test_light():
    limits = (0.5, 3000.0)
    light = Light(n_shapes=20, peaks=limits, n_los=1.5, los_slope=0.5, seed=1)
    with seeded(1, device=torch.device("cpu")):
        galaxies, los = (light.draw(source, 4000) for source in LIGHT)
        view = observe({"galaxy": galaxies[:50]}, degraded=True)
        pair = observe({"galaxy": galaxies[:50], "los": los[:50]}, degraded=False)
    assert galaxies.shape == los.shape == (4000, 1, SIZE, SIZE)
    peak = galaxies.amax(dim=(1, 2, 3)).log().numpy()
    low, high = np.log(limits)
    assert kstest((peak - low) / (high - low), "uniform").pvalue > 1e-3
    # Centres are uniform over two pixels about the image's centre, brightest pixels near them.
    y, x = np.divmod(galaxies.flatten(1).argmax(dim=1).numpy(), SIZE)
    assert (abs(np.stack([y, x]) - (SIZE - 1) / 2) < 1.6).all()
    empty = (los.amax(dim=(1, 2, 3)) == 0).float().mean()
    assert empty == pytest.approx(np.exp(-1.5), abs=5 * np.sqrt(0.22 * 0.78 / 4000))
    assert view.mask.mean() == pytest.approx(0.1 + 0.9 * 2 / SIZE, abs=0.01)
    noise = pair.data - (galaxies + los)[:50].numpy()
    assert noise.std() == pytest.approx(1, abs=5 / np.sqrt(2 * noise.size))


def test_line_of_sight_counts():
    """Brightest pixels follow their power law."""
    with seeded(2, device=torch.device("cpu")):
        peaks = brightest_pixels(4000, (0.5, 3000.0), 0.4).numpy()
    low, high = 0.5**-0.4, 3000**-0.4
    assert kstest((low - peaks**-0.4) / (low - high), "uniform").pvalue > 1e-3


def test_summary_tells_calibrated_draws():
    """Draws from the exact posterior of bright flat images under a Gaussian prior, and others."""
    rng = np.random.default_rng(0)
    n, n_draws, prior, shape = 300, 9, 4.0, (SIZE, SIZE)
    truth = 50 + np.sqrt(prior) * rng.normal(size=(n, *shape))
    data = truth + rng.normal(size=truth.shape)
    gain = prior / (prior + 1)
    mean = 50 + gain * (data - 50)
    draws = mean + np.sqrt(gain) * rng.normal(size=(n_draws, *truth.shape))
    view = View(data[:, None], variance=1.0, mixing={"galaxy": Identity((1, *shape))})
    chi2 = np.square(draws - data).mean(axis=(2, 3))
    row = summarise(view, truth, draws, chi2)
    assert row["flux_68"] == pytest.approx(0.68, abs=5 * np.sqrt(0.68 * 0.32 / n))
    assert row["pixels_95"] == pytest.approx(0.95, abs=5 * np.sqrt(0.05 * 0.95 / truth.size))
    scatter = np.sqrt(gain * (1 + 1 / n_draws)) / (50 * SIZE)
    assert row["scatter"] == pytest.approx(scatter, rel=0.3)
    assert abs(row["bias"]) < 5 * scatter / np.sqrt(n)
    assert row["rms_error"] == pytest.approx(np.sqrt(gain * (1 + 1 / n_draws)), rel=0.02)
    assert row["failed"] == 0
    assert [decade["peaks"] for decade in row["decades"]] == ["30 to 300"]
    wrong = summarise(view, truth, 1.2 * draws, chi2 + 9)
    assert wrong["bias"] == pytest.approx(0.2, abs=1e-3)
    assert wrong["flux_95"] == 0
    assert wrong["failed"] == 1
    lost = summarise(view, truth, draws * np.nan, chi2 * np.nan)
    assert lost["failed"] == 1
    assert lost["bias"] == -1


def test_study_runs_and_keeps_its_networks(tmp_path):
    configuration = dynamic_range.QUICK | {
        "light": dynamic_range.QUICK["light"] | {"n_shapes": 20},
        "n_images": 80,
        "n_posterior_images": 80,
        "batch_size": 4,
        "n_steps": 2,
        "amortized_steps": 2,
        "n_settle": 4,
        "n_observations": 8,
        "n_prior": 8,
    }
    figures = dynamic_range.Study(configuration, tmp_path).run()
    ways = ("linear", "linear, deeper", "stretched")
    assert [row["way"] for row in figures["settings"]] == ["linear"] * 2 + ["stretched"] * 2
    assert figures["chosen"] in configuration["stretched"]
    found = [(row["problem"], row["way"], row["source"]) for row in figures["results"]]
    both = [("galaxy + line of sight", way) for way in (*ways, "amortized")]
    assert found == [
        *((problem, way, "galaxy") for problem in ("galaxy", "galaxy, degraded")
          for way in ways),
        *((*row, source) for row in both for source in LIGHT),
    ]  # fmt: skip
    assert len(figures["networks"]) == len(list(tmp_path.iterdir())) == 6
    sigma_max = {row["network"]: row["sigma_max"] for row in figures["networks"]}
    assert sigma_max["los-linear-0.1"] == sigma_max["galaxy-linear-0.1"]  # one schedule for all
    draw_fluxes(tmp_path / "picture.png", figures["results"])
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    again = dynamic_range.Study(configuration, tmp_path)
    assert again.settle() == figures["settings"]
    assert again.networks.rows == figures["networks"][:3]
