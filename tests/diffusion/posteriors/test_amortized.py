"""The amortized joint posterior against dense algebra, and trained where the answer is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import VESchedule
from scipy.linalg import block_diag
from scipy.ndimage import uniform_filter
from torch import nn

from astro_ddprism.diffusion.learning.data import Turns
from astro_ddprism.diffusion.learning.training import Trainer, Training
from astro_ddprism.diffusion.networks.mlp import MLP
from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.diffusion.parallel import Execution
from astro_ddprism.diffusion.posteriors.amortized import Amortized, AmortizedPosterior
from astro_ddprism.diffusion.posteriors.base import Priors
from astro_ddprism.diffusion.priors.schedule import NoiseSchedule
from astro_ddprism.diffusion.random import Rows, seeded
from astro_ddprism.diffusion.sampling.chains import Chains, draw_sources
from astro_ddprism.diffusion.variety import Variety
from astro_ddprism.errors import InputError
from astro_ddprism.mixing import Amplitude
from astro_ddprism.separator.loader import ViewLoader
from astro_ddprism.views.dataset import MultiViewDataset

SCHEDULE = VESchedule(0.1, 1000.0)
CPU = torch.device("cpu")
DATA_SCALE = 3.0


class Told(nn.Module):
    """A backbone that answers what it was told, by default nothing."""

    def __init__(self, answer=0.0):
        super().__init__()
        self.weight, self.answer = nn.Parameter(torch.ones(())), answer

    def forward(self, features, log_sigma):
        self.features, self.log_sigma = features, log_sigma
        return self.weight * self.answer + torch.zeros_like(features[:, 0])


def make_posterior(backbone=None, schedule=SCHEDULE, dtype=torch.float64):
    backbone = Told() if backbone is None else backbone
    return AmortizedPosterior(backbone, schedule, DATA_SCALE).to(dtype).requires_grad_(False)


class Problem:
    """Two observations of sources times amplitudes: masked pixels, a variance for each pixel.

    Attributes
    ----------
    A : ndarray, shape (M, D)
        Mixing of the joint vector of all sources.
    """

    def __init__(
        self, amplitudes, bands=1, brightness=1.0, *, size=(3, 4), light=None, masked=0.2, seed=0
    ):
        rng = np.random.default_rng(seed)
        self.shape = (bands, *size)
        full = (2, *self.shape)
        variance = rng.uniform(0.5, 2.0, full).astype(np.float32)
        mask = rng.uniform(size=full) < masked
        data = brightness * rng.normal(size=full)
        if light is not None:
            data = light.reshape(full) + np.sqrt(variance) * rng.normal(size=full)
        self.view = MultiViewDataset.from_arrays(
            {
                "view": {
                    "data": np.where(mask, np.nan, data).astype(np.float32),
                    "variance": variance,
                    "mask": mask,
                    "mixing": {
                        name: Amplitude(a, self.shape)
                        for name, a in zip("abc", amplitudes, strict=False)
                    },
                }
            }
        )["view"]
        self.source_shapes = dict.fromkeys(self.view.sources, self.shape)
        self.A = np.concatenate([a * np.eye(int(np.prod(self.shape))) for a in amplitudes], axis=1)

    def observation(self, index=(0, 1), dtype=torch.float64):
        return JointObservation(self.view.batch(np.array(index), dtype=dtype), self.source_shapes)

    @property
    def weights(self):
        return np.where(self.view.mask, 0, 1 / self.view.variance).reshape(2, -1)

    def dense(self, i, power, x_t, sigma):
        """Mean and covariance given x_t and an observation, for independent Gaussian pixels."""
        w, y = self.weights[i], np.nan_to_num(self.view.data[i].ravel())
        precision = np.diag(1 / power + 1 / sigma**2) + (self.A.T * w) @ self.A
        covariance = np.linalg.inv(precision)
        return covariance @ (x_t / sigma**2 + self.A.T @ (w * y)), covariance

    def random(self, seed=1):
        rng = np.random.default_rng(seed)
        return 5 * rng.normal(size=(2, self.A.shape[1]))


AMPLITUDES = [(1.0,), (-0.7,), (1.0, 1.0), (0.3, 2.0), (-1.0, -2.0), (1.0, -0.5), (0.5, -1.5, 1.0)]


def time_of(sigma):
    low, high = SCHEDULE.sigma_min, SCHEDULE.sigma_max
    return torch.tensor(np.log(sigma / low) / np.log(high / low))


# --- without the network ----------------------------------------


@pytest.mark.parametrize("bands", [1, 2])
@pytest.mark.parametrize("amplitudes", AMPLITUDES, ids=str)
def test_faint_pixels_are_gaussian(amplitudes, bands):
    """A network that adds nothing leaves the mean of independent pixels of the data scale.

    To the precision of float32, in which views are kept: at noise scales from far below to far
    above the data.
    """
    problem = Problem(amplitudes, bands, brightness=1e-3)
    given, x_t = make_posterior().given(problem.observation()), problem.random()
    power = np.full(x_t.shape[1], DATA_SCALE**2)
    for sigma in (0.1, 2.0, 800.0):
        found = given(torch.tensor(x_t), time_of(sigma)).mean
        for i in range(2):
            expected, _ = problem.dense(i, power, x_t[i], sigma)
            np.testing.assert_allclose(found[i], expected, rtol=1e-6, atol=1e-6)


def test_every_chain_may_have_its_own_noise_scale():
    problem = Problem((1.0, 2.0), brightness=30.0)
    given, x_t = make_posterior().given(problem.observation()), torch.tensor(problem.random())
    times = time_of(np.array([0.5, 20.0]))
    together = given(x_t, times).mean
    for i, t in enumerate(times):
        torch.testing.assert_close(together[i], given(x_t, t).mean[i])


@pytest.mark.parametrize("amplitudes", AMPLITUDES, ids=str)
def test_bright_pixels_have_the_power_that_is_seen(amplitudes):
    """m^2 by its formula, each source alone; of masked pixels the mean of those seen around."""
    problem = Problem(amplitudes, 2, brightness=30.0, size=(9, 11))
    given = make_posterior().given(problem.observation())
    seen = ~problem.view.mask
    y = np.where(seen, problem.view.data, 0)
    bright = (np.abs(y) / np.sqrt(problem.view.variance) / 4) ** 4
    around = [uniform_filter(1.0 * seen[i, b], 7, mode="constant") for i in (0, 1) for b in (0, 1)]
    around = np.reshape(around, y.shape)
    for k, amplitude in enumerate(amplitudes):
        power = np.where(seen, (y / amplitude) ** 2 * bright / (1 + bright), 0)
        box = [uniform_filter(power[i, b], 7, mode="constant") for i in (0, 1) for b in (0, 1)]
        expected = np.where(seen, power, np.reshape(box, y.shape) / around) + DATA_SCALE**2
        np.testing.assert_allclose(given.power[:, k], expected, rtol=1e-6)


def test_nothing_seen_around():
    """Pixels without any that are seen in reach, and observations of nothing but zeros."""
    masked = np.arange(30) < 20
    problem = Problem((1.0, 1.0), brightness=0.0, size=(3, 30), masked=np.where(masked, 1.0, 0.0))
    posterior = make_posterior()
    given = posterior.given(problem.observation())
    assert (given.power == DATA_SCALE**2).all()
    assert torch.isfinite(given(torch.tensor(problem.random()), time_of(1.0)).mean).all()
    assert torch.isfinite(posterior.backbone.features).all()


@pytest.mark.parametrize("brightness", [1.0, 100.0])
@pytest.mark.parametrize("amplitudes", AMPLITUDES, ids=str)
def test_output_is_in_units_of_the_posterior(amplitudes, brightness):
    """What white outputs add has the covariance of the posterior, by dense algebra."""
    problem = Problem(amplitudes, 2, brightness)
    given, x_t, sigma = make_posterior().given(problem.observation()), problem.random(), 2.0
    n = x_t.shape[1]
    estimate = given.precondition(torch.tensor(x_t), torch.tensor([sigma]).double())
    columns = [
        estimate.add(given.stack(e.expand(2, -1))) - estimate.mean
        for e in torch.eye(n, dtype=torch.float64)
    ]
    root = torch.stack(columns, dim=-1).flatten(1, 4).numpy()
    for i in range(2):
        power = given.power[i].flatten().numpy()
        mean, covariance = problem.dense(i, power, x_t[i], sigma)
        np.testing.assert_allclose(root[i] @ root[i].T, covariance, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(estimate.mean[i].flatten(), mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("amplitudes", AMPLITUDES, ids=str)
def test_remove_inverts_add(amplitudes):
    problem = Problem(amplitudes, 2, brightness=30.0)
    given = make_posterior().given(problem.observation())
    for sigma in (0.1, 5.0, 900.0):
        estimate = given.precondition(torch.tensor(problem.random()), torch.tensor([sigma]))
        output = given.stack(torch.tensor(problem.random(2)))
        torch.testing.assert_close(estimate.remove(estimate.add(output)), output)


def outputs(posterior, observation, x, t, z):
    """The outputs that give the truth, and directions of the sum, (2, S, *shape)."""
    sigma = SCHEDULE.sigma(t)
    given = posterior.given(observation)
    output = given.precondition(x + sigma[:, None] * z, sigma).remove(given.stack(x))
    sigma2 = sigma.view(2, 1, 1, 1, 1) ** 2
    u = given.sign * (given.information / (1 / given.power + 1 / sigma2)).sqrt()
    return output, u / u.norm(dim=1, keepdim=True).clip(min=1e-30)


def test_loss_is_the_error_of_the_output():
    """Nothing for the output that gives the truth.

    Else what is missing of it along the sum, and across it as a part of what there is.
    """
    problem, t = Problem((1.0, -2.0), 2, brightness=30.0), torch.tensor([0.2, 0.6]).double()
    observation, posterior = problem.observation(), make_posterior()
    x, z = torch.tensor(problem.random()), torch.tensor(problem.random(2)) / 5
    answer, direction = outputs(posterior, observation, x, t, z)
    along, power = powers(answer, direction)
    posterior.across[[3, 9]] = power  # of 16 bins of time
    torch.testing.assert_close(posterior.loss(x, t, z, observation), along + 1)

    posterior.backbone.answer = answer.flatten(1, 2) / 2
    torch.testing.assert_close(posterior.loss(x, t, z, observation), (along + 1) / 4)
    posterior.backbone.answer = answer.flatten(1, 2)
    torch.testing.assert_close(posterior.loss(x, t, z, observation), torch.zeros(2).double())
    sigma = SCHEDULE.sigma(t)
    given = posterior.given(observation)
    torch.testing.assert_close(given(x + sigma[:, None] * z, t).mean, x)


def powers(output, direction):
    """Mean squares along the direction, and of the rest, (2,) each."""
    along = (output * direction).sum(dim=1).square()
    rest = output.square().sum(dim=1) - along
    return along.mean(dim=(1, 2, 3)), rest.mean(dim=(1, 2, 3))


def test_loss_weighs_by_the_mean_power_of_simulations():
    """Those of two views, with different light, by turns; the loss then stays what it is."""
    problem, posterior = Problem((1.0, 1.0), 1, brightness=30.0), make_posterior()
    observation, found = problem.observation(), []
    z = torch.tensor(problem.random(2)) / 5
    for bright in (1.0, 3.0):
        x = bright * torch.tensor(problem.random())
        every = torch.arange(64) % 2

        def draw(n, x=x, every=every):
            assert n == len(every)
            return x[every], observation[every]

        found.append(draw)
    with seeded(1, device=torch.device("cpu")):
        posterior.weigh(Turns(found, [1, 1]))
    assert "across" not in posterior.state_dict()
    t, rest = torch.tensor([0.53, 0.53]).double(), []
    with seeded(2, device=torch.device("cpu")):
        for _ in range(200):
            for draw in found:
                x, t = draw(64)[0][:2], (8 + torch.rand(2).double()) / 16
                z = torch.randn_like(x)
                answer, direction = outputs(posterior, observation, x, t, z)
                along, power = powers(answer, direction)
                rest.append(power)
    rest = torch.cat(rest)
    # 128 draws in a bin against 800: five standard deviations of the difference.
    error = 5 * rest.std() * (1 / 128 + 1 / 800) ** 0.5
    assert (posterior.across[8] - rest.mean()).abs() < error < 0.5 * rest.mean()
    expected = along + power / posterior.across[8]
    for _ in range(2):
        torch.testing.assert_close(
            posterior.loss(x, t, z, observation), expected, check_dtype=False, rtol=1e-5, atol=0
        )


def test_loss_of_one_source():
    """There is nothing to share: but for masked pixels, the loss is that of the sum."""
    problem, posterior = Problem((2.0,), 1, brightness=30.0, masked=0.0), make_posterior()
    observation, t = problem.observation(), torch.tensor([0.1, 0.9]).double()
    x, z = torch.tensor(problem.random()), torch.tensor(problem.random(2)) / 5
    answer, _ = outputs(posterior, observation, x, t, z)
    expected = answer.square().flatten(1).mean(dim=1)
    torch.testing.assert_close(posterior.loss(x, t, z, observation), expected)


def test_features_are_of_order_one():
    """From faint to a million times the noise, at every noise scale, in float32."""
    for brightness in (1e-3, 1.0, 1e3, 1e6):
        problem = Problem((1.0, 1.0), 2, brightness)
        posterior = make_posterior(dtype=torch.float32)
        given = posterior.given(problem.observation(dtype=torch.float32))
        for sigma in (0.1, 10.0, 1000.0):
            mean = given(torch.tensor(problem.random()).float(), time_of(sigma).float()).mean
            features = posterior.backbone.features
            assert mean.dtype == features.dtype == torch.float32
            assert features.shape == (2, AmortizedPosterior.n_features, 4, 3, 4)
            assert features.abs().max() < 30  # asinh(1e6) = 15; linear ones by the data scale
            torch.testing.assert_close(posterior.backbone.log_sigma.exp(), torch.tensor([sigma]))


# --- draws ----------------------------------------


def draw(problem, posterior, n, seed=3):
    """n draws of each observation, (2, n, D), and what is said of them."""
    rows = Rows.of(seed, ids=range(2 * n), device=CPU)
    draws = draw_sources(
        Amortized(),
        Priors(NoiseSchedule(), learned={problem.view.sources: posterior}),
        ViewLoader(problem.view, 1.0, CPU),
        np.repeat([0, 1], n),
        rows,
        chains=Chains(n_redraws=0),
        batch_size=1000,
        track=iter,
    )
    return draws.x.double().unflatten(0, (2, n)).numpy(), draws


def assert_moments(x, mean, covariance, bias):
    """Whitened draws are white, to five standard deviations of the sampling error and a bias."""
    n = len(x)
    z = np.linalg.solve(np.linalg.cholesky(covariance), (x - mean).T)
    assert np.abs(z.mean(axis=1)).max() < 5 / np.sqrt(n) + bias
    limit = 5 * np.sqrt((1 + np.eye(len(z))) / n) + bias
    assert (np.abs(np.cov(z) - np.eye(len(z))) < limit).all()


@pytest.mark.parametrize("amplitudes", [(1.0, 1.0), (1.0, -0.5), (0.5, -1.5, 1.0)], ids=str)
def test_draws_of_independent_pixels_are_exact(amplitudes):
    """With the network at zero, chains draw from the Gaussian that it stands on.

    Bright pixels, and masked ones beside them, which keep the prior of their surroundings. The last
    noise scale, 0.1, and 24 steps leave a bias of a few per cent.
    """
    problem = Problem(amplitudes, brightness=20.0)
    posterior = make_posterior(dtype=torch.float32)
    power = posterior.given(problem.observation(dtype=torch.float32)).power
    assert power[:, 0].flatten(1).quantile(0.9) > 10 * DATA_SCALE**2
    x, draws = draw(problem, posterior, n=2000)
    assert draws.good.all()
    for i in range(2):
        prior = power[i].flatten().double().numpy()
        mean, covariance = problem.dense(i, prior, 0.0, np.inf)
        assert_moments(x[i], mean, covariance, bias=0.06)


def test_pixels_far_above_every_noise_scale():
    """Their light is explained to the noise although no chain begins as far out."""
    problem = Problem((1.0, 1.0), brightness=1e6)
    x, draws = draw(problem, make_posterior(dtype=torch.float32), n=50)
    assert np.isfinite(x).all()
    # float32 holds numbers of a million to 0.06, a tenth of the noise.
    assert 0.5 < draws.chi2.median() < 1.5
    assert draws.good.all()


class Exact(Denoiser):
    """The exact denoiser of a Gaussian posterior of one observation."""

    schedule = SCHEDULE

    def __init__(self, observation, mean, covariance):
        super().__init__()
        self.observation = observation
        self.values, self.vectors = torch.linalg.eigh(torch.as_tensor(covariance))
        self.mean = torch.as_tensor(mean)

    def forward(self, x_t, t, **kwargs):  # noqa: ARG002
        gain = self.values / (self.values + self.schedule.sigma(t).double() ** 2)
        x = ((x_t.double() - self.mean) @ self.vectors * gain) @ self.vectors.T + self.mean
        return DiracPosterior(mean=x.to(x_t))


class Given:
    """In place of a trained network."""

    def __init__(self, mean, covariance):
        self.moments = mean, covariance

    def given(self, observation):
        return Exact(observation, *self.moments)


def known_problem(size, masked=0.05):
    """A template times a normal amplitude and a smooth Gaussian, where the noise is about 1.

    Returns the problem and the covariances of the two sources, whose means are 0.
    """
    y, x = (axis.ravel() for axis in np.mgrid[:size, :size] - (size - 1) / 2)
    template = np.exp(-(x**2 + y**2) * 10 / size**2)
    distance2 = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2
    covariances = [25 * np.outer(template, template), 4 * np.exp(-distance2)]
    b = np.random.default_rng(5).multivariate_normal(np.zeros(size**2), covariances[1], size=2)
    light = np.outer([7.0, -4.0], template) + b
    return Problem((1.0, 1.0), size=(size, size), light=light, masked=masked), covariances


def exact_posterior(problem, covariances, i):
    """Of the joint vector of both sources, in the form that singular priors allow."""
    prior = block_diag(*covariances)
    seen = problem.weights[i] > 0
    A, y = problem.A[seen], problem.view.data[i].ravel()[seen]
    gain = prior @ A.T @ np.linalg.inv(A @ prior @ A.T + np.diag(1 / problem.weights[i][seen]))
    return gain @ y, prior - gain @ A @ prior


def test_steps_leave_the_posterior_as_it_is():
    """Chains of the exact denoiser have the exact moments: what is missing is the network's."""
    problem, covariances = known_problem(8)
    mean, covariance = exact_posterior(problem, covariances, 0)
    x, draws = draw(problem, Given(mean, covariance), n=2000)
    values, vectors = np.linalg.eigh(covariance)
    wide = values > 0.1  # beside the last noise scale of 0.1
    z = (x[0] - mean) @ vectors[:, wide] / np.sqrt(values[wide])
    n, bias = len(z), 0.04
    assert wide.sum() > 5
    assert np.abs(z.mean(axis=0)).max() < 5 / np.sqrt(n) + bias
    limit = 5 * np.sqrt((1 + np.eye(wide.sum())) / n) + bias
    assert (np.abs(np.cov(z.T) - np.eye(wide.sum())) < limit).all()
    assert draws.good[:n].all()


def assert_calibrated(x, mean, covariance):
    """What is asked of a network of seconds: half a standard deviation, half of it, and 0.1."""
    n = len(mean) // 2
    template = covariance[:n, :n].diagonal() ** 0.5  # the first source's shape, as it has no other
    zeros, shape, ones = np.zeros(n), template / np.linalg.norm(template), np.ones(n)
    directions = np.stack([
        np.concatenate([shape, zeros]),  # the amplitude of the first source
        np.concatenate([zeros, shape]),  # what the second has of the same shape
        np.concatenate([zeros, ones]),
        np.concatenate([shape, shape]),  # what is seen
    ])  # fmt: skip
    found, spread = x @ directions.T, directions @ covariance @ directions.T
    error = np.sqrt(spread.diagonal())
    assert np.abs((found.mean(axis=0) - directions @ mean) / error).max() < 0.5
    assert np.abs(np.log(found.std(axis=0) / error)).max() < np.log(3 / 2)
    shared = np.corrcoef(found.T)[0, 1], spread[0, 1] / error[0] / error[1]
    assert abs(shared[0] - shared[1]) < 0.1
    pixels = np.log(x.std(axis=0) / np.sqrt(covariance.diagonal()))[n:]
    assert np.sqrt(np.mean(pixels**2)) < 0.25


def lost_at_random(n, shape, device):
    """A part of the pixels from none to 0.4."""
    return torch.rand(n, *shape, device=device) < 0.4 * torch.rand(n, 1, 1, 1, device=device)


@pytest.mark.parametrize("masked", [0.05, 0.3])
def test_a_trained_network_is_calibrated(masked):
    """Draws of a network trained for seconds, against the exact posterior of two Gaussian sources.

    They compete for the same light: the correlation of what they have of it is -0.93. The network
    alone knows; without it, the same draws are far off. Or each lacks some pixels, and the network
    has learned of others that lacked others.
    """
    problem, covariances = known_problem(4, masked)
    learns = masked > 0.1
    assert problem.view.mask.sum() > 5 or not learns
    whole, _ = known_problem(4, 0.0)
    data = (whole if learns else problem).view
    loader = ViewLoader(data, 1.0, CPU)
    roots = [
        torch.tensor(np.linalg.cholesky(c + 1e-9 * np.eye(16)), dtype=torch.float32)
        for c in covariances
    ]

    def simulations(n):
        parts = [(torch.randn(n, 16) @ L.T).view(n, *problem.shape) for L in roots]
        index = torch.randint(2, (n,)).numpy()
        x = torch.cat([part.flatten(1) for part in parts], dim=1)
        observation = loader.observe(index)
        if learns:
            observation = observation.masked(lost_at_random)
        return x, observation.simulated(x)

    with seeded(4, device=CPU):
        backbone = MLP(width=128, depth=2, embedding=32).build(
            (2, 4, 4), AmortizedPosterior.n_features
        )
        posterior = make_posterior(backbone, VESchedule(0.1, 300.0), torch.float32)
        posterior.requires_grad_(True)
        training = Training(batch_size=128, learning_rate=3e-3)
        trainer = Trainer(training, Execution("cpu"), lambda steps, _: steps)
        trainer.train(posterior, simulations, 250_000 if learns else 150_000)
    x, draws = draw(problem, posterior.requires_grad_(False), n=1000)
    assert draws.good.double().mean() > 0.99
    idle, _ = draw(problem, make_posterior(dtype=torch.float32), n=1000)
    for i in range(2):
        mean, covariance = exact_posterior(problem, covariances, i)
        assert_calibrated(x[i], mean, covariance)
        with pytest.raises(AssertionError):
            assert_calibrated(idle[i], mean, covariance)


# --- which observations ----------------------------------------


@pytest.mark.parametrize(
    ("shapes", "handled"),
    [
        ({"a": (1, 4, 4), "b": (1, 4, 4)}, True),
        ({"a": (1, 4, 4)}, False),
        ({"a": (1, 4, 4), "b": (1, 4, 5)}, False),
        ({"a": (16,), "b": (16,)}, False),
    ],
)
def test_several_images_of_one_shape(shapes, handled):
    method = Amortized()
    assert method.handles(shapes) is handled
    assert method.method_for(shapes) is (method if handled else method.otherwise)


def test_until_it_has_learned_others_draw():
    method, shapes = Amortized(), {"a": (1, 4, 4), "b": (1, 4, 4)}
    priors = Priors(NoiseSchedule())
    assert method.method_for(shapes, priors) is method.otherwise
    priors.learned["a", "b"] = make_posterior()
    assert method.method_for(shapes, priors) is method


def test_what_is_built():
    """One network for all sources, on a schedule that begins far above any light."""
    shapes = {"a": (2, 4, 4), "b": (2, 4, 4)}
    method = Amortized(network=MLP(width=8, depth=1, embedding=4))
    built = method.build(shapes, 5.0, VESchedule(0.1, 200.0), Execution("cpu", "bfloat16"))
    assert built.backbone.shape == (4, 4, 4)
    assert (built.schedule.sigma_min, built.schedule.sigma_max) == (0.1, 2000.0)
    assert built.data_scale == 5
    assert built.precision == torch.bfloat16


def test_flux_factors_in_order():
    with pytest.raises(InputError, match=r"flux_factors\['b'\]: found 3, 2, expected two numbers"):
        Amortized(flux_factors={"a": (1, 2), "b": (3, 2)})


def test_masked_targets_are_left_to_moment_matching():
    """A pixel within eight of the target, or more than one in twenty anywhere else."""
    size, y, x = 24, *np.mgrid[:24, :24]
    far = np.hypot(y - 12, x - 12) > 8
    mask = np.zeros((6, 1, size, size), dtype=bool)
    mask[1, 0, 12, 12] = mask[2, 0, 12, 4] = True  # at the target, and at eight pixels
    mask[3, 0, 12, 3] = True  # beyond
    mask[4, 0][far & (np.cumsum(far).reshape(far.shape) <= 28)] = True  # of 576: 4.9 %
    mask[5, 0][far & (np.cumsum(far).reshape(far.shape) <= 29)] = True  # 5.03 %
    loader = SimpleNamespace(
        sources=("a", "b"), n_observed=size**2, masked=lambda index: mask[index], independent=True
    )
    method, priors = Amortized(), Priors(NoiseSchedule(), denoisers={"a": None, "b": None})
    expected = [True, False, False, True, True, False]
    np.testing.assert_array_equal(method.serves(priors, loader, np.arange(6)), expected)
    assert method.serves(Priors(NoiseSchedule()), loader, np.arange(6)).all()  # nothing else can
    method = Amortized(
        variety=Variety(masks=0.3)
    )  # which has seen what lacks up to 0.4 of the pixels
    mask[5, 0].flat[: int(0.4 * size**2)] = True
    mask[4, 0].flat[: int(0.4 * size**2) + 2] = True
    loader.independent = True
    expected = [True, True, True, True, False, True]
    np.testing.assert_array_equal(method.serves(priors, loader, np.arange(6)), expected)
    loader.independent = False
    expected = [True, False, False, True, False, False]
    np.testing.assert_array_equal(method.serves(priors, loader, np.arange(6)), expected)
    several = SimpleNamespace(sources=("a", "b"), n_observed=1, masked=lambda _: None)
    assert method.serves(priors, several, np.arange(6)).all()
