"""Training steps and chains ask the host for nothing: what passes here can be a CUDA graph."""

import sys

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord
from azula.noise import VESchedule
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from astro_ddprism.diffusion import ranks
from astro_ddprism.diffusion.learning.data import Simulations, images
from astro_ddprism.diffusion.learning.training import Training, TrainingStep
from astro_ddprism.diffusion.networks import MLP, UNet
from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.diffusion.parallel import Execution
from astro_ddprism.diffusion.posteriors.amortized import Amortized
from astro_ddprism.diffusion.posteriors.base import Priors
from astro_ddprism.diffusion.posteriors.moment_matching import MomentMatching
from astro_ddprism.diffusion.posteriors.solvers import CG, GMRES, Dense
from astro_ddprism.diffusion.priors.build import build_denoiser
from astro_ddprism.diffusion.priors.denoiser import ExtendedDenoiser
from astro_ddprism.diffusion.priors.gaussian import GaussianPrior, ScaleMixtureDenoiser
from astro_ddprism.diffusion.priors.mixture import GaussianMixture
from astro_ddprism.diffusion.priors.schedule import NoiseSchedule, host_time, time_of
from astro_ddprism.diffusion.random import Rows, seeded
from astro_ddprism.diffusion.sampling.chains import Chains
from astro_ddprism.diffusion.sampling.samplers import (
    DDIM,
    AdamsBashforth,
    Ancestral,
    Heun,
    PredictorCorrector,
)
from astro_ddprism.diffusion.variety import Variety
from astro_ddprism.frame.frame import SourceFrame
from astro_ddprism.mixing import (
    Convolution,
    CorrelatedNoise,
    DenseMatrix,
    DiagonalNoise,
    LowRankNoise,
    PhotonNoise,
    Resampling,
)
from astro_ddprism.psf import GaussianPSF
from astro_ddprism.separator.loader import ViewLoader
from astro_ddprism.views.multi import MultiInstrumentView
from astro_ddprism.views.view import View

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)
VARIETY = Variety(depth=(0.7, 2.0), seeing=(2.0, 4.0), masks=0.5, shapes=True)
AUTOCORRELATION = [[0.05, 0.1, 0.05], [0.2, 1.0, 0.2], [0.05, 0.1, 0.05]]
# Numbers on the host, shapes that depend on values, and factorizations that report their failure.
ASKING = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "nonzero_numpy", "argwhere",
    "masked_select", "unique_dim", "_unique2", "unique_consecutive", "bincount", "histc",
    "repeat_interleave", "_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "linalg_eig",
}  # fmt: skip


class Silent:
    """Fails where the host would wait for a device, or copy to or from it.

    Operations tell of values that are asked for; but of a copy to the host there is nothing to see
    where tensors are on the host already, so calls are watched too. Vectors in double precision
    that come from NumPy are the host's own: the times of a chain.
    """

    def __enter__(self):
        self.modes = [_Operations(), _Calls()]
        for mode in self.modes:
            mode.__enter__()

    def __exit__(self, *error):
        for mode in self.modes[::-1]:
            mode.__exit__(*error)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ASKING, f"{function}: the host asks for values"
        if name in {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}:
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"{function}: how many elements a mask picks, values decide"
        return function(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if (
            sys._getframe(1).f_globals["__name__"].startswith("torch.")
        ):  # it knows where tensors are
            return function(*args, **kwargs)
        name = getattr(function, "__name__", "")
        asks = name in {"cpu", "cuda", "numpy", "__array__", "item", "pin_memory"}
        if name == "tolist":
            asks = args[0].dtype != torch.float64 or args[0].ndim != 1
        if name == "to":
            asks = any(isinstance(a, str | torch.device) for a in (*args[1:], *kwargs.values()))
        if function in (torch.tensor, torch.as_tensor):
            asks = not isinstance(args[0], torch.Tensor)
        assert not asks, f"{name}: copies from the host, or to it"
        return function(*args, **kwargs)


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: float(x.sum()),
        lambda x: bool(x[0] > 0),
        lambda x: x[x > 0],
        torch.nonzero,
        lambda x: x.index_put_((x > 0,), torch.zeros(())),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x + torch.as_tensor(np.ones(3)),
        lambda x: torch.repeat_interleave(x, torch.tensor(2).expand(3)),
        lambda x: x + torch.tensor([1.0, 2.0, 3.0]),
        lambda x: torch.linalg.cholesky(torch.diag(x.abs())),
    ],
)
def test_the_mode_sees_what_asks(ask):
    x = torch.tensor([1.0, -2.0, 3.0])
    with pytest.raises(AssertionError, match=r"asks|decide|copies"), Silent():
        ask(x)


def a_view(kind, n=12):
    """A view of two sources of a kind: its noise, its operators, its number of instruments."""
    rng = np.random.default_rng(0)
    kernel = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
    variance = torch.as_tensor(rng.uniform(0.5, 2, size=(n, *SHAPE)))
    mask = torch.as_tensor(rng.random((n, *SHAPE)) < 0.05)
    mixing = dict.fromkeys("ab", Convolution(kernel, SHAPE))
    if kind == "kernels":
        mixing = dict.fromkeys("ab", Convolution(np.tile(kernel, (n, 1, 1, 1)), SHAPE))
    elif kind == "resampling":
        place, image = SkyCoord(150.1, 2.2, unit="deg"), SourceFrame(0.25 * u.arcsec, SHAPE)
        resampling = Resampling.from_wcs(
            [image.wcs(place)] * n,
            SHAPE,
            frame=SourceFrame(0.2 * u.arcsec, SHAPE),
            coordinates=place,
            psf=GaussianPSF(0.7 * u.arcsec),
        )
        mixing = dict.fromkeys("ab", resampling)
    noise = DiagonalNoise(variance, mask)
    if kind == "correlated":
        noise = CorrelatedNoise(variance, AUTOCORRELATION, mask)
    elif kind == "photon":
        noise = PhotonNoise(noise, 2.0)
    elif kind == "both":
        noise = PhotonNoise(CorrelatedNoise(variance, AUTOCORRELATION, mask), 2.0)
    elif kind == "patterns":
        noise = LowRankNoise(noise, torch.as_tensor(rng.normal(size=(2, *SHAPE))))

    def view():
        data = rng.normal(size=(n, *SHAPE)) * 3
        return View(data, noise=noise, mixing=mixing)

    if kind == "instruments":
        return MultiInstrumentView({"one": view(), "two": view()})
    return view()


KINDS = [
    "diagonal",
    "kernels",
    "resampling",
    "correlated",
    "photon",
    "both",
    "patterns",
    "instruments",
]


def a_loader(kind):
    view = a_view(kind)
    return ViewLoader(view, 1.3, CPU)


def a_draw(loader):
    g = torch.Generator().manual_seed(0)
    simulations = Simulations(
        {source: 3 * torch.randn(9, *SHAPE, generator=g) for source in "ab"},
        [loader],
        symmetries={"a": ("rotations", "flips"), "b": ("flips",)},
        schedule=VESchedule(0.1, 100.0),
        learning=["a"],
        light=None,
        seeing={source: torch.full((9,), 2.5) for source in "ab"},
    )
    return simulations, simulations.draws({"a": (0.2, 4.0)}, ("b",), VARIETY).draws[0]


def check(step, *arguments):
    """Twice before, as memory is made at first, then silently."""
    for _ in range(2):
        step(*arguments)
    with Silent():
        step(*arguments)


def train(denoiser, draw, precision="float32"):
    execution = Execution("cpu", precision)
    step = TrainingStep(denoiser, Training(batch_size=4), execution, 100)
    step.rate.fill_(1e-3)
    check(step, draw)
    assert torch.isfinite(step.loss)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [SHAPE, (3,)])
def test_training_of_priors(shape, precision):
    with seeded(1, device=CPU):
        network = UNet((4,), (1,)) if len(shape) == 3 else MLP(width=8)
        mixture = None
        if len(shape) == 1:
            mixture = GaussianMixture(
                torch.ones(2) / 2, torch.randn(2, 3), torch.eye(3).expand(2, 3, 3)
            )
        denoiser = build_denoiser(network, shape, VESchedule(0.1, 100.0), 3.0, mixture)
        symmetries = ("rotations", "flips") if len(shape) == 3 else ()
        train(denoiser, images(torch.randn(9, *shape), symmetries, CPU), precision)


@pytest.mark.parametrize(
    ("kind", "precision"), [*((kind, "float32") for kind in KINDS), ("diagonal", "bfloat16")]
)
def test_training_of_amortized_posteriors(kind, precision):
    with seeded(1, device=CPU):
        simulations, draw = a_draw(a_loader(kind))
        method = Amortized(UNet((4,), (1,)), variety=VARIETY)
        execution = Execution("cpu", precision)
        posterior = method.build(simulations.source_shapes, 3.0, simulations.schedule, execution)
        train(posterior, draw, precision)


@pytest.mark.parametrize("kind", ["diagonal", "both"])
def test_training_of_a_share_of_the_images(kind, monkeypatch):
    """What one of three processes does before and after they add up their gradients."""
    monkeypatch.setattr(ranks, "n_ranks", lambda: 3)
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    with seeded(1, device=CPU):
        simulations, draw = a_draw(a_loader(kind))
        method = Amortized(UNet((4,), (1,)), variety=VARIETY)
        execution = Execution("cpu")
        posterior = method.build(simulations.source_shapes, 3.0, simulations.schedule, execution)
        step = TrainingStep(posterior, Training(batch_size=7), execution, 100)
        step.rate.fill_(1e-3)
        check(step._find, draw)
        check(step._move)
    assert torch.isfinite(step.loss)


def run_chains(method, priors, loader, chains):
    index, start = torch.tensor([3, 1, 1]), chains.start
    first = torch.zeros(3, sum(np.prod(s) for s in loader.source_shapes.values()).item())
    sampler, n_steps = method.steps(chains)

    def draw(index, first):
        rows = Rows(torch.arange(6).view(3, 2)).fork(2)
        observation = loader.observe(index)
        begun = method.begin(priors, observation, rows, start=start, first=first)
        x = sampler.run(begun.denoiser, begun.x, rows, start=begun.start, steps=n_steps)
        x = begun.denoiser(x, time_of(0.0, CPU)).mean
        return x, observation.chi2(x)

    with torch.no_grad():
        check(draw, index, first)
        return draw(index, first)


@pytest.mark.parametrize(
    ("kind", "precision"), [*((kind, "float32") for kind in KINDS), ("diagonal", "bfloat16")]
)
def test_chains_of_amortized_posteriors(kind, precision):
    with seeded(1, device=CPU):
        loader, execution = a_loader(kind), Execution("cpu", precision)
        method = Amortized(UNet((4,), (1,)), n_steps=3)
        posterior = method.build(loader.source_shapes, 3.0, VESchedule(0.1, 100.0), execution)
    priors = Priors(NoiseSchedule(), learned={("a", "b"): posterior})
    x, chi2 = run_chains(method, priors, loader, Chains())
    assert torch.isfinite(torch.cat([x, chi2[:, None]], dim=1)).all()


SAMPLERS = [Ancestral(), DDIM(), DDIM(0.5), PredictorCorrector(), Heun(), AdamsBashforth(3)]


def image_priors():
    """One source with a network whose schedule ends early, one with a Gaussian alone."""
    priors = Priors(NoiseSchedule(), sigma_max={"a": 100.0, "b": 300.0})
    for k, source in enumerate("ab"):
        factor = torch.randn(64, 5) * (1 + k)
        priors.gaussians[source] = GaussianPrior(torch.zeros(64), factor, torch.tensor([0.1, 0.3]))
    priors.denoisers["a"] = build_denoiser(
        UNet((4,), (1,)), SHAPE, priors.schedule("a"), 3.0
    ).requires_grad_(False)
    return priors


@pytest.mark.parametrize("kind", KINDS)
def test_chains_of_moment_matching(kind):
    with seeded(1, device=CPU):
        priors = image_priors()
    x, chi2 = run_chains(MomentMatching(GMRES(2)), priors, a_loader(kind), Chains(n_steps=3))
    assert torch.isfinite(torch.cat([x, chi2[:, None]], dim=1)).all()


@pytest.mark.parametrize("solver", [CG(2), GMRES(2), Dense()])
def test_chains_of_moment_matching_of_vectors(solver):
    """Two sources of three numbers, each observation of four of which is a product of its own."""
    rng = np.random.default_rng(2)
    mixing = {source: DenseMatrix(rng.normal(size=(12, 4, 3))) for source in "ab"}
    view = View(rng.normal(size=(12, 4)), variance=0.5, mixing=mixing)
    priors = Priors(NoiseSchedule())
    with seeded(1, device=CPU):
        for source in "ab":
            priors.gaussians[source] = GaussianPrior(torch.zeros(3), torch.randn(3, 3))
            denoiser = build_denoiser(MLP(width=8), (3,), priors.schedule(source), 3.0)
            priors.denoisers[source] = denoiser.requires_grad_(False)
    loader = ViewLoader(view, 1.0, CPU)
    x, chi2 = run_chains(MomentMatching(solver), priors, loader, Chains(n_steps=3))
    assert torch.isfinite(torch.cat([x, chi2[:, None]], dim=1)).all()


@pytest.mark.parametrize("solver", [CG(2), Dense()])
def test_solvers(solver):
    with seeded(1, device=CPU):
        priors = image_priors()
    x, _ = run_chains(MomentMatching(solver), priors, a_loader("diagonal"), Chains(n_steps=1))
    assert torch.isfinite(x).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_of_priors(sampler):
    with seeded(1, device=CPU):
        denoiser = image_priors().denoisers["a"]
    rows = Rows(torch.arange(6).view(3, 2))

    def draw():
        x = 100 * rows.normal(*SHAPE)
        return sampler.run(denoiser, x, rows, start=1.0, steps=3)

    with torch.no_grad():
        check(draw)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_of_priors_of_vectors(sampler):
    """Networks beside mixtures of Gaussians, under a Gaussian where their noise ends."""
    with seeded(1, device=CPU):
        mixture = GaussianMixture(
            torch.ones(2) / 2, torch.randn(2, 3), torch.eye(3).expand(2, 3, 3)
        )
        own = build_denoiser(MLP(width=8), (3,), VESchedule(0.1, 100.0), 3.0, mixture)
        prior = GaussianPrior(torch.zeros(3), torch.randn(3, 2))
    top = ScaleMixtureDenoiser(prior, torch.ones(3), VESchedule(0.1, 300.0))
    denoiser, rows = (
        ExtendedDenoiser(own.requires_grad_(False), top),
        Rows(torch.arange(6).view(3, 2)),
    )

    def draw():
        return sampler.run(denoiser, 300 * rows.normal(3), rows, start=1.0, steps=4)

    with torch.no_grad():
        check(draw)


def test_the_host_knows_its_times():
    assert host_time(time_of(0.3, CPU)) == 0.3
    assert host_time(torch.tensor(0.25)) == 0.25


@pytest.mark.parametrize("kind", KINDS)
def test_rows_on_the_device_are_those_of_the_host(kind):
    """Batches that the device picks from the whole view, against those of the view itself."""
    loader, view = a_loader(kind), a_view(kind)
    assert loader.is_whole
    index = np.array([7, 2, 2, 11])
    expected = JointObservation(
        view.batch(index, scale=1.3, dtype=torch.float32), view.source_shapes
    )
    x = torch.as_tensor(np.random.default_rng(1).normal(size=(4, 128)), dtype=torch.float32)
    for found in (loader.observe(index), loader.observe(torch.as_tensor(index))):
        for name in ("y", "n_valid"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name))
        torch.testing.assert_close(found.forward(x), expected.forward(x))
        torch.testing.assert_close(found.adjoint(found.y), expected.adjoint(expected.y))
        torch.testing.assert_close(found.chi2(x), expected.chi2(x))
        for one, other in zip(found.information, expected.information, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_batch(kind):
    """Of one as it is, and of one with other light."""
    loader, rows = a_loader(kind), torch.tensor([3, 1])
    x = torch.as_tensor(np.random.default_rng(1).normal(size=(4, 128)), dtype=torch.float32)
    whole = loader.observe(torch.tensor([7, 2, 2, 11]))
    with seeded(5, device=CPU):
        simulated = whole.simulated(x)
    for found, expected in (
        (whole[rows], loader.observe(torch.tensor([11, 2]))),
        (whole.at(x)[rows], loader.observe(torch.tensor([11, 2])).at(x[rows])),
        (simulated[rows], simulated),
    ):
        own = slice(None) if len(expected) == 2 else rows
        assert len(found) == 2
        for name in ("y", "n_valid"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name)[own])
        for one, other in zip(found.information, expected.information, strict=True):
            torch.testing.assert_close(one, other[own])
        light = torch.zeros(len(expected), 128)
        light[own] = x[rows]
        torch.testing.assert_close(found.forward(x[rows]), expected.forward(light)[own])
        back = torch.zeros_like(expected.y)
        back[own] = found.y
        torch.testing.assert_close(found.adjoint(found.y), expected.adjoint(back)[own])


@pytest.mark.parametrize("kind", KINDS)
def test_views_that_do_not_fit_come_from_the_host(kind, monkeypatch):
    whole = a_loader(kind)
    x = torch.ones(3, 128)
    index = torch.tensor([4, 0, 4])
    expected = whole.observe(index)
    monkeypatch.setattr("astro_ddprism.separator.loader.MOST_BYTES", 1000)
    loader = a_loader(kind)
    assert not loader.is_whole
    found = loader.observe(index)
    torch.testing.assert_close(found.y, expected.y)
    torch.testing.assert_close(found.forward(x), expected.forward(x))
    for one, other in zip(found.information, expected.information, strict=True):
        torch.testing.assert_close(one, other)


def test_simulated_observations_have_the_noise_of_real_ones():
    """Mean and covariance of whitened simulations, for noise that is white and that is not."""
    for kind in ("diagonal", "correlated", "photon"):
        loader, n = a_loader(kind), 20_000
        observation = loader.observe(torch.full((n,), 5))
        x = torch.full((1, 128), 2.0).expand(n, -1)
        with seeded(3, device=CPU):
            simulated = observation.simulated(x).at(x)
        residual = simulated.y - simulated.forward(x)
        valid = simulated.n_valid[0].item()
        covariance = residual.T @ residual / n
        assert covariance.diagonal().sum() == pytest.approx(valid, rel=0.01)
        seen = covariance.diagonal() > 0.5
        assert seen.sum() == valid
        expected = torch.diag(seen.float())
        # 5 standard deviations of an estimate from n draws, for the largest of 4,096.
        assert (covariance - expected).abs().max() < 6 * np.sqrt(2 / n)
        assert residual.mean(dim=0).abs().max() < 5 / np.sqrt(n)
