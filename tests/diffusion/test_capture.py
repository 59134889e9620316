"""How a step is captured, on a processor in the place of a GPU: graphs that call what they hold."""

import logging
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from azula.noise import VESchedule

from astro_ddprism.diffusion import capture
from astro_ddprism.diffusion.learning.data import Simulations, images
from astro_ddprism.diffusion.learning.training import Training, TrainingStep
from astro_ddprism.diffusion.networks import MLP, UNet
from astro_ddprism.diffusion.parallel import Execution
from astro_ddprism.diffusion.posteriors.amortized import Amortized
from astro_ddprism.diffusion.priors.build import build_denoiser
from astro_ddprism.diffusion.priors.denoiser import ExtendedDenoiser
from astro_ddprism.diffusion.priors.gaussian import GaussianPrior, ScaleMixtureDenoiser
from astro_ddprism.diffusion.priors.schedule import time_of
from astro_ddprism.diffusion.random import Rows, seeded
from astro_ddprism.diffusion.sampling.samplers import Heun
from astro_ddprism.diffusion.variety import Variety
from astro_ddprism.mixing import Identity
from astro_ddprism.separator.loader import ViewLoader
from astro_ddprism.views.view import View

SCHEDULE, SHAPE = VESchedule(0.1, 100.0), (1, 8, 8)
CPU, GPU = torch.device("cpu"), SimpleNamespace(type="cuda")


@pytest.fixture
def graphs(monkeypatch):
    """What `torch.cuda` would do. Set ``replay`` to let graphs do something else."""
    made = SimpleNamespace(step=None, replay=lambda step: step(), refuses=False)

    class Graph:
        def replay(self):
            made.replay(made.step)

    @contextmanager
    def graph(_, stream):
        if made.refuses:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        state, random = [t.clone() for t in made.state()], torch.get_rng_state()
        yield
        # What is captured is not done.
        for tensor, value in zip(made.state(), state, strict=True):
            tensor.copy_(value)
        torch.set_rng_state(random)

    stream = SimpleNamespace(wait_stream=lambda *_: None)
    fakes = {
        "device": nullcontext,
        "stream": nullcontext,
        "Stream": lambda *_: stream,
        "current_stream": lambda *_: stream,
        "synchronize": lambda *_: None,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "CUDAGraph": Graph,
        "graph": graph,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return made


def learner(kind):
    """A denoiser, and what it is trained on."""
    if kind == "vectors":
        denoiser = build_denoiser(MLP(width=8), (3,), SCHEDULE, 3.0)
        return denoiser, images(torch.randn(50, 3), (), CPU)
    symmetries, network = ("rotations", "flips"), UNet((4,), (1,), embedding=8)
    x = 3 * torch.randn(9, *SHAPE)
    if kind == "images":
        return build_denoiser(network, SHAPE, SCHEDULE, 3.0), images(x, symmetries, CPU)
    mixing = dict.fromkeys("ab", Identity(SHAPE))
    view = View(np.zeros((6, *SHAPE)), variance=1.0, mixing=mixing)
    simulations = Simulations(
        {"a": x, "b": 2 * x},
        [ViewLoader(view, 1.0, CPU)],
        symmetries=dict.fromkeys("ab", symmetries),
        schedule=SCHEDULE,
        learning=["a"],
        light=None,
        seeing=dict.fromkeys("ab", torch.full((9,), torch.nan)),
    )
    shapes = simulations.source_shapes
    posterior = Amortized(network).build(shapes, 3.0, SCHEDULE, Execution("cpu"))
    return posterior, simulations.draws({"a": (0.2, 4.0)}, ("b",), Variety(masks=0.5)).draws[0]


def train(graphs, *, capturing, kind="vectors"):
    """Three steps; all that they leave, and the next random number."""
    with seeded(1, device=CPU):
        denoiser, draw = learner(kind)
        own = TrainingStep(denoiser, Training(batch_size=4), Execution("cpu"), 100)
        own.rate.fill_(1e-2)
        step = partial(own, draw)
        if capturing:
            graphs.step, graphs.state = step, own.state
            step = capture.captured(step, own.state, GPU, "this training")
        for _ in range(3):
            step()
        return [tensor.clone() for tensor in own.state()], torch.rand(1), step


@pytest.mark.parametrize("kind", ["vectors", "images", "amortized"])
def test_a_captured_step_leaves_what_another_does(graphs, kind):
    """Steps before the capture, and those that prove it, leave no trace."""
    expected, number, _ = train(graphs, capturing=False, kind=kind)
    found, same, step = train(graphs, capturing=True, kind=kind)
    assert step.__name__ == "replay"
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(same, number)


def stale(step):
    """A graph that draws the numbers of its first step again and again."""
    with seeded(2, device=CPU):
        step()


@pytest.mark.parametrize("fault", ["refuses", "stale"])
def test_what_cannot_be_captured_runs_as_it_is(graphs, fault, caplog):
    expected, number, _ = train(graphs, capturing=False)
    graphs.refuses = fault == "refuses"
    if fault == "stale":
        graphs.replay = stale
    with caplog.at_level(logging.WARNING):
        found, same, step = train(graphs, capturing=True)
    reason = {"refuses": "operation not permitted when stream is capturing", "stale": "another"}
    (record,) = caplog.records
    assert "this training: runs step by step" in record.message
    assert reason[fault] in record.message
    assert "more" not in record.message
    assert isinstance(step, partial)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(same, number)


def test_without_cuda_a_step_is_itself():
    step = partial(print)
    assert capture.captured(step, list, CPU, "this") is step


def test_chains_of_captured_evaluations(monkeypatch):
    """One graph for each phase, whose inputs stay in place; draws are those of the denoiser."""
    made = []

    def fake(step, state, device, label, n_before):
        step()
        assert (device, n_before) == (CPU, 1)
        assert torch.isfinite(state()[0]).all()
        made.append(step)
        return step

    monkeypatch.setattr(capture, "captured", fake)
    with seeded(1, device=CPU):
        own = build_denoiser(MLP(width=8), (3,), VESchedule(0.1, 100.0), 3.0)
        prior = GaussianPrior(torch.zeros(3), torch.randn(3, 2))
        x = 300 * torch.randn(5, 3)
    top = ScaleMixtureDenoiser(prior, torch.ones(5), VESchedule(0.1, 300.0))
    denoiser = ExtendedDenoiser(own, top)
    assert capture.CapturedDenoiser.of(denoiser, 99, CPU) is denoiser
    assert capture.CapturedDenoiser.of(denoiser, 2, GPU) is denoiser
    graph = capture.CapturedDenoiser.of(denoiser, 99, GPU)
    rows = Rows(torch.arange(10).view(5, 2))
    expected, found = (
        Heun().run(each, x, rows[:], start=1.0, steps=20) for each in (denoiser, graph)
    )
    assert torch.equal(found, expected)
    assert len(made) == 2
    graph(x[:2], time_of(0.5, CPU))
    assert len(made) == 3
    kept = graph(x, time_of(0.5, CPU)).mean
    before = kept.clone()
    graph(x + 1, time_of(0.4, CPU))
    assert torch.equal(kept, before)
