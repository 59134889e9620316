"""What a package of its own may add, in a few lines each, and use by name.

Every extension stands between two marks, and the documentation shows it as it is here.
"""

import re
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.wcs import WCS
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import VESchedule
from torch import nn

from astro_ddprism import DiffusionSourceSeparator, InputError, MultiViewDataset
from astro_ddprism.cli import main
from astro_ddprism.cli.arguments import parse_arguments
from astro_ddprism.diffusion.networks import NETWORKS, Network
from astro_ddprism.diffusion.posteriors.base import POSTERIORS, PosteriorMethod
from astro_ddprism.diffusion.random import Rows
from astro_ddprism.diffusion.sampling.chains import Chains, Draws
from astro_ddprism.diffusion.sampling.samplers import SAMPLERS, Sampler
from astro_ddprism.mixing import MixingOperator, operator_from_state
from astro_ddprism.registry import option
from astro_ddprism.separator import SEPARATORS, SourceSeparator
from astro_ddprism.survey import read_image
from astro_ddprism.survey.formats import FORMATS, RawImage


# [sampler]
@SAMPLERS.register("two-stage")
@dataclass(frozen=True)
class TwoStage(Sampler):
    """The probability flow by a Runge-Kutta method of second order.

    Parameters
    ----------
    at : float
        Where in a step its second evaluation is; at 1 it is Heun's method.
    """

    at: float = option(2 / 3, above=0, most=1)

    def run(self, denoiser, x, rows, *, start, steps):  # noqa: ARG002
        times = torch.linspace(start, 0, steps + 1, device=x.device)
        for t, s in pairwise(times):
            between = t + self.at * (s - t)
            (_, sigma_t), (_, sigma), (_, sigma_s) = map(denoiser.schedule, (t, between, s))
            first = (x - denoiser(x, t).mean) / sigma_t
            middle = x + (sigma - sigma_t) * first
            second = (middle - denoiser(middle, between).mean) / sigma
            weight = (sigma_s - sigma_t) / (sigma - sigma_t) / 2
            x = x + (sigma_s - sigma_t) * torch.lerp(first, second, weight)
        return x


# [end]
# [network]
@NETWORKS.register("convolutions")
@dataclass(frozen=True)
class Convolutions(Network):
    """Plain convolutions, to which the noise scale is one more feature.

    Parameters
    ----------
    channels, depth : int
        Channels and number of the hidden layers.
    """

    channels: int = option(16, least=1)
    depth: int = option(2, least=1)

    def build(self, shape, n_features):
        return ConvolutionsBackbone(self, shape[0], n_features)


class ConvolutionsBackbone(nn.Module):
    def __init__(self, options, n_bands, n_features):
        super().__init__()
        widths = [n_features * n_bands + 1, *[options.channels] * options.depth, n_bands]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))

    def forward(self, features, log_sigma):
        h = features.flatten(1, 2)
        noise = log_sigma[:, None, None, None].expand(len(h), 1, *h.shape[2:])
        h = torch.cat([h, noise], dim=1)
        for layer in self.layers[:-1]:
            h = nn.functional.silu(layer(h))
        return self.layers[-1](h)


# [end]
# [posterior]
@POSTERIORS.register("linear")
@dataclass(frozen=True)
class Linear(PosteriorMethod):
    """Every prior as the Gaussian of its moments, for sources of a few numbers.

    Parameters
    ----------
    floor : float
        Least variance of a prior, in units of that of the noise.
    """

    floor: float = option(1e-4, above=0)

    def denoiser(self, priors, observation):
        sources = tuple(observation.source_shapes)
        found = [priors.gaussians[source] for source in sources]
        covariance = torch.block_diag(*(prior.factor @ prior.factor.T for prior in found))
        prior = torch.linalg.inv(covariance + self.floor * torch.eye(len(covariance)))
        one = torch.eye(observation.y.shape[1])
        rows = [observation.adjoint(row.expand_as(observation.y)) for row in one]
        A = torch.stack(rows, dim=1)
        shift = prior @ torch.cat([each.mean for each in found]) + observation.adjoint(
            observation.y
        )
        return LinearDenoiser(prior + A.mT @ A, shift, priors.schedule(*sources))


class LinearDenoiser(Denoiser):
    def __init__(self, precision, shift, schedule):
        super().__init__()
        self.precision, self.shift, self.schedule = precision, shift, schedule

    def forward(self, x_t, t, **kwargs):  # noqa: ARG002
        _, sigma = self.schedule(t)
        precision = self.precision + torch.eye(x_t.shape[1]) / sigma**2
        return DiracPosterior(mean=torch.linalg.solve(precision, self.shift + x_t / sigma**2))


# [end]
# [separator]
@SEPARATORS.register("least-squares")
@dataclass(eq=False)
class LeastSquares(SourceSeparator):
    """What the noise allows around the least squares, and where it allows all, the mean source.

    Parameters
    ----------
    ridge : float
        Weight of the mean, in units of that of an observed number.
    """

    ridge: float = option(1e-6, above=0)

    def _fit(self, task):
        sums = {source: [0.0, 0] for source in task.source_shapes}
        for loader in task.track(task.loaders.values(), "least squares"):
            observation = loader.observe(np.arange(len(loader)))
            mean, _ = self._solve(observation, 0.0)
            for source, x in zip(loader.sources, observation.split(mean), strict=True):
                sums[source] = [sums[source][0] + x.sum(dim=0), sums[source][1] + len(x)]
        return {source: total / n for source, (total, n) in sums.items()}

    def _draw(self, state, loader, index, rows, track):
        x, chi2, size = [], [], self.execution.n_at_a_time
        start = torch.cat([state[source].flatten() for source in loader.sources])
        for i in track(range(0, len(index), size)):
            observation = loader.observe(index[i : i + size])
            mean, root = self._solve(observation, start)
            z = rows[i : i + size].normal(mean.shape[1])[..., None]
            x.append(mean + torch.linalg.solve_triangular(root.mT, z, upper=True)[..., 0])
            chi2.append(observation.chi2(x[-1]))
        chi2 = torch.cat(chi2)
        return Draws(torch.cat(x), chi2, torch.isfinite(chi2), n_redrawn=0)

    def _solve(self, observation, start):
        """The most likely sources, and a root of their precision."""
        rows = [
            observation.adjoint(e.expand_as(observation.y))
            for e in torch.eye(observation.y.shape[1])
        ]
        A = torch.stack(rows, dim=1)
        root = torch.linalg.cholesky(A.mT @ A + self.ridge * torch.eye(A.shape[2]))
        shift = observation.adjoint(observation.y) + self.ridge * start
        return torch.cholesky_solve(shift[..., None], root)[..., 0], root

    def _state_tree(self, state, *, draws):  # noqa: ARG002
        return {source: mean.numpy() for source, mean in state.items()}

    def _from_tree(self, tree, source_shapes):
        return {source: torch.tensor(tree[source]) for source in source_shapes}


# [end]
# [format]
def read_zipped(path, *, unit="nJy"):
    """Arrays ``flux`` and ``sigma``, and the pixels' ``scale`` in degrees, in one file of NumPy."""
    with np.load(path) as arrays:
        flux, sigma, scale = arrays["flux"], arrays["sigma"], float(arrays["scale"])
    wcs = WCS({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CDELT1": -scale, "CDELT2": scale})
    return RawImage(
        data=flux, header={"FILTER": "r"}, unit=u.Unit(unit), wcs=wcs, label=str(path),
        noise=sigma, noise_kind="uncertainty", noise_label=f"{path}, sigma", file=Path(path).name,
    )  # fmt: skip


def is_zipped(origin, path, *args, **kwargs):
    return path is not None and path.endswith(".npz")


FORMATS.register_reader("zipped", RawImage, read_zipped)
FORMATS.register_identifier("zipped", RawImage, is_zipped)


# [end]
# [operator]
class Grism(MixingOperator):
    """A slitless spectrograph: bands beside each other, in one image.

    Parameters
    ----------
    shape : tuple of int
        Of a source, ``(bands, ny, nx)``.
    step : int
        Pixels in x from one band to the next.
    """

    n_observations = None  # one map for all

    def __init__(self, shape, step):
        n_bands, ny, nx = shape
        self.step = int(step)
        self.source_shape = (n_bands, ny, nx)
        self.observation_shape = (1, ny, nx + (n_bands - 1) * self.step)

    def _places(self):
        n_bands, _, nx = self.source_shape
        return [(band, slice(band * self.step, band * self.step + nx)) for band in range(n_bands)]

    def _apply(self, x):
        y = x.new_zeros(len(x), *self.observation_shape)
        for band, place in self._places():
            y[:, 0, :, place] += x[:, band]
        return y

    def _apply_adjoint(self, y):
        return torch.stack([y[:, 0, :, place] for _, place in self._places()], dim=1)

    def state(self):
        return {"operator": "Grism", "shape": list(self.source_shape), "step": self.step}


# [end]

CPU = torch.device("cpu")
MEAN, SPREAD = np.array([5.0, 0.0]), np.array([3.0, 6.0])
TOP = torch.tensor(100.0)


class Gaussian(Denoiser):
    """The exact denoiser of a Gaussian of independent numbers."""

    schedule = VESchedule(0.05, float(TOP))

    def forward(self, x_t, t, **kwargs):  # noqa: ARG002
        _, sigma = self.schedule(t)
        mean, variance = torch.tensor(MEAN).float(), torch.tensor(SPREAD).float() ** 2
        return DiracPosterior(mean=(variance * x_t + sigma**2 * mean) / (variance + sigma**2))


@pytest.fixture(scope="module")
def vectors():
    """Two numbers of known mean and spread, seen as they are with a noise of 1."""
    rng = np.random.default_rng(1)
    data = MEAN + SPREAD * rng.normal(size=(400, 2)) + rng.normal(size=(400, 2))
    mixing = {"a": np.eye(2)}
    return MultiViewDataset.from_arrays({"v": {"data": data, "variance": 1.0, "mixing": mixing}})


def test_each_is_short():
    text = Path(__file__).read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^# \[(\w+)\]\n(.*?)^# \[end\]$", text, re.DOTALL | re.MULTILINE))
    assert set(blocks) == {"sampler", "network", "posterior", "separator", "format", "operator"}
    lengths = {name: len(block.strip().splitlines()) for name, block in blocks.items()}
    assert {name: n for name, n in lengths.items() if not 5 < n < 60} == {}


@pytest.mark.parametrize("sampler", ["two-stage", {"name": "two-stage", "at": 0.9}])
def test_a_sampler_draws_the_moments_of_a_gaussian(sampler):
    chains = Chains(sampler=sampler, n_steps=40)
    assert SAMPLERS[chains.sampler.to_tree()["name"]] is type(chains.sampler) is TwoStage
    rows = Rows.of(0, ids=np.arange(20_000), device=CPU)
    x = torch.tensor(MEAN).float() + torch.tensor(SPREAD).float().hypot(TOP) * rows.normal(2)
    x = chains.sampler.run(Gaussian(), x, rows, start=1.0, steps=chains.n_steps)
    # 20,000 draws tell a spread to 0.5 %, and a mean to 0.7 % of it.
    np.testing.assert_allclose(x.std(dim=0).numpy(), SPREAD, rtol=0.025)
    np.testing.assert_allclose(x.mean(dim=0).numpy() / SPREAD, MEAN / SPREAD, atol=0.03)


CONFIG = """
device = "cpu"
progress = false
n_em_iterations = 0
{}
[training]
n_first_images = {}
batch_size = 32
"""


def test_a_sampler_and_a_posterior_method_from_a_file(vectors, tmp_path):
    """By ``ddprism fit --config``: draws are those of the Wiener filter, in mean and spread."""
    views, config, model = (tmp_path / name for name in ("v.asdf", "fit.toml", "m.asdf"))
    vectors.write(views)
    parts = 'posterior = {name = "linear", floor = 1e-3}\nchains.sampler = {name = "two-stage"}'
    config.write_text(CONFIG.format(parts, 640))
    assert main(["fit", str(views), "-o", str(model), "--config", str(config), "-q"]) == 0
    separator = SourceSeparator.read(model, "cpu", progress=False)
    assert separator.posterior == POSTERIORS["linear"](floor=1e-3)
    assert separator.chains.sampler == TwoStage()
    some = vectors["v"][:100]
    x = separator.sample(some, n_samples=64).samples["a"].value
    gain = SPREAD**2 / (SPREAD**2 + 1)
    # The prior is known from 400 observations, the mean from 64 draws: 0.12 of the noise.
    expected = MEAN + gain * (some.data - MEAN)
    assert np.sqrt(np.mean((x.mean(axis=0) - expected) ** 2)) < 0.2
    np.testing.assert_allclose(x.std(axis=0).mean(axis=0), np.sqrt(gain), rtol=0.03)

    own = DiffusionSourceSeparator(
        device="cpu",
        progress=False,
        n_em_iterations=0,
        posterior=Linear(floor=1e-3),
        chains=Chains(sampler=TwoStage()),
        training={"n_first_images": 640, "batch_size": 32},
    ).fit(vectors)
    assert own.config == {**separator.config, "execution": own.config["execution"]}
    again = own.sample(some, n_samples=64).samples["a"].value
    np.testing.assert_allclose(again, x, rtol=1e-5, atol=1e-5)


def test_a_network_learns_a_prior():
    rng = np.random.default_rng(2)
    data = 3 + rng.normal(size=(300, 1, 4, 4)) + rng.normal(0, 0.3, (300, 1, 4, 4))
    views = MultiViewDataset.from_arrays(
        {"v": {"data": data, "variance": 0.09, "mixing": {"a": 1.0}}}
    )
    text = CONFIG.format('network = {name = "convolutions", channels = 8}', 16_000)
    text += "learning_rate = 1e-2"
    separator = DiffusionSourceSeparator.from_config(tomllib.loads(text)).fit(views)
    assert separator.network == NETWORKS["convolutions"](channels=8)
    assert DiffusionSourceSeparator(network="convolutions").network == Convolutions(16)
    assert isinstance(separator.priors_["a"].backbone, ConvolutionsBackbone)
    # A short training; without any, prior draws would spread by more than 3.
    x = separator.sample(n_samples=200)["a"].value
    np.testing.assert_allclose([x.mean(), x.std()], [3, 1], atol=0.15)


@pytest.fixture(scope="module")
def toy():
    """Two sources of two numbers, in views of six and two numbers, with next to no noise."""
    rng = np.random.default_rng(3)
    truth = {source: rng.normal(size=(50, 2)) for source in ("a", "b")}
    A = {source: rng.normal(size=(50, 6, 2)) for source in truth}
    y = sum(np.einsum("nij,nj->ni", A[source], truth[source]) for source in truth)
    y += rng.normal(0, 1e-3, y.shape)
    views = {
        "both": {"data": y, "variance": 1e-6, "mixing": A},
        "alone": {"data": truth["a"], "variance": 1e-6, "mixing": {"a": np.eye(2)}},
    }
    return truth, MultiViewDataset.from_arrays(views)


def test_a_separator(toy, tmp_path):
    """From Python, from a table and by ``ddprism fit``: the toy's sources, as the noise allows."""
    truth, dataset = toy
    views, config, model = (tmp_path / name for name in ("v.asdf", "fit.toml", "m.asdf"))
    dataset.write(views)
    config.write_text('method = "least-squares"\nridge = 1e-5\ndevice = "cpu"\n')
    assert main(["fit", str(views), "-o", str(model), "--config", str(config), "-q"]) == 0
    read = SourceSeparator.read(model, "cpu", progress=False)
    table = SourceSeparator.from_config(tomllib.loads(config.read_text() + "progress = false"))
    assert type(read) is type(table) is SEPARATORS["least-squares"] is LeastSquares
    assert read.ridge == table.ridge == 1e-5
    own = LeastSquares(ridge=1e-5, device="cpu", progress=False).fit(dataset)
    one, two, three = (s.sample(dataset["both"], 40) for s in (read, table.fit(dataset), own))
    for source, x in truth.items():
        found = one.samples[source].value
        np.testing.assert_array_equal(found, two.samples[source].value)
        np.testing.assert_array_equal(found, three.samples[source].value)
        # Against the deviation of the draws themselves, which is that of the least squares.
        pull = (found.mean(axis=0) - x) / found.std(axis=0)
        assert 0.8 < np.sqrt(np.mean(pull**2)) < 1.25
        np.testing.assert_allclose(found.mean(axis=0), x, atol=0.02)
    with pytest.raises(InputError, match="least-squares: found a method without prior draws"):
        own.sample()


def test_a_survey_format(tmp_path):
    rng = np.random.default_rng(4)
    flux = rng.normal(0, 2, (80, 80))
    for y, x in rng.integers(12, 68, (8, 2)):
        flux += 200 * np.exp(-((np.arange(80)[:, None] - y) ** 2 + (np.arange(80) - x) ** 2) / 8)
    path = tmp_path / "tile.npz"
    np.savez(path, flux=flux, sigma=np.full(flux.shape, 2.0), scale=1e-4 / 3)
    image = read_image(path, format="zipped", unit="uJy")
    np.testing.assert_allclose(image.data[0], flux, rtol=1e-6)
    np.testing.assert_allclose(image.variance, 4)
    assert (image.unit, read_image(path).unit) == (u.uJy, u.nJy)

    options = {"size": 12, "n_random": 5, "psf_fwhm": 0.5}
    expected = MultiViewDataset.from_image(path, format="zipped", **options)
    config = tmp_path / "cutouts.toml"
    config.write_text('format = "zipped"\n')
    common = ["--size", "12", "--n-random", "5", "--psf-fwhm", "0.5", "--overwrite", "-q"]
    for i, by_name in enumerate((["--format", "zipped"], ["--config", str(config)])):
        out = tmp_path / f"views{i}.asdf"
        assert main(["cutouts", str(path), "-o", str(out), *common, *by_name]) == 0
        found = MultiViewDataset.read(out)["galaxy"]
        np.testing.assert_array_equal(found.data, expected["galaxy"].data)
        assert len(found) >= 4


GRISM = """
[slitless.mixing.star]
name = "Grism"
shape = [3, 4, 5]
step = 2
"""


def test_a_mixing_operator(tmp_path):
    """In a table of a file, in Python, and in a file of views."""
    x = np.random.default_rng(5).normal(size=(6, 3, 4, 5))
    expected = np.zeros((6, 1, 4, 9))
    for band, row, column in np.ndindex(3, 4, 5):
        expected[:, 0, row, column + 2 * band] += x[:, band, row, column]
    by_name = operator_from_state({"operator": "Grism", "shape": [3, 4, 5], "step": 2})
    np.testing.assert_allclose(by_name(torch.tensor(x)), expected, atol=1e-12)
    y = torch.tensor(np.random.default_rng(6).normal(size=expected.shape))
    products = (y * by_name(torch.tensor(x))).sum(), (by_name.adjoint(y) * torch.tensor(x)).sum()
    torch.testing.assert_close(*products)

    views = tomllib.loads(GRISM)
    views["slitless"] |= {"data": expected, "variance": 1.0}
    dataset = MultiViewDataset.from_arrays(views)
    dataset.write(tmp_path / "views.asdf")
    for found in (dataset, MultiViewDataset.read(tmp_path / "views.asdf")):
        operator = found["slitless"].mixing["star"]
        assert isinstance(operator, Grism)
        np.testing.assert_allclose(operator(torch.tensor(x)), expected, atol=1e-12)
    assert dataset.source_shapes == {"star": (3, 4, 5)}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "Grisn"}, r"\['star'\]: mixing operator: found 'Grisn', expected one of Amp"),
        ({"shape": [1, 1, 1]}, r"\['star'\]: found a table without a name, expected one of Amp"),
        ({"name": "Grism", "shape": [3, 4, 5], "stop": 1}, r"\['star'\]: Grism: .*'stop'"),
    ],
)
def test_tables_that_are_no_operators(table, message):
    view = {"data": np.zeros((2, 1, 4, 9)), "variance": 1.0, "mixing": {"star": table}}
    with pytest.raises(InputError, match=message):
        MultiViewDataset.from_arrays({"slitless": view})


def test_the_configurations_on_the_page_of_the_command_line(tmp_path):
    page = Path(__file__).parents[1] / "docs" / "command_line.rst"
    blocks = re.findall(r"code-block:: toml\n\n((?: {4}.*\n|\n)+)", page.read_text("utf-8"))
    cutouts, fit = (re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in blocks)
    config = tmp_path / "cutouts.toml"
    config.write_text(cutouts)
    arguments = parse_arguments(["cutouts", "a.fits", "-o", "b.asdf", "--config", str(config)])
    assert (arguments.size, arguments.estimate_noise) == (48, True)
    separator = SourceSeparator.from_config(tomllib.loads(fit))
    assert separator.posterior.otherwise.solver.iterations == 3
    assert separator.n_em_iterations == {"los": 4, "galaxy": 1}
