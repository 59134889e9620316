r"""Work that a GPU does again and again without a word from the host: CUDA graphs.

A step of a small network is a thousand operations of a few microseconds, whose starts take the
host longer than the work takes the GPU. A *captured* step is started as a whole. It must not ask
the host anything, nor depend on numbers that the host knows: whatever changes from step to step is
in tensors that stay where they are. Random numbers are, by torch's own doing: those of a captured
step are the ones that it would draw otherwise.

Where there is no CUDA, or a step cannot be captured, the same step runs operation by operation.
"""

__all__ = ["CapturedDenoiser", "captured"]

import logging
from collections.abc import Callable

import torch
from azula.denoise import Denoiser, DiracPosterior
from torch import Tensor

from .priors.schedule import host_time, known

logger = logging.getLogger(__name__)

# Steps that come before a capture, so that libraries have chosen and set up what they need.
WARM_UP = 4
# Fewest evaluations of a denoiser that are worth a capture, which takes as long as six of them.
MANY = 12
# Largest difference between what captured and other steps leave in a tensor, as a part of its norm:
# first steps of an optimizer magnify rounding.
TOLERANCE = 0.02


def captured(
    step: Callable[[], None],
    state: Callable[[], list[Tensor]],
    device: torch.device,
    label: str,
    n_before: int = WARM_UP,
) -> Callable[[], None]:
    """A step as a CUDA graph, where the device and the step allow it.

    The graph is used if two steps of it leave the state as two steps of the function do. All of
    this leaves the state, and random numbers to come, as they were.

    Parameters
    ----------
    step : callable
        Changes tensors in place.
    state : callable
        Returns all tensors that a step changes and the next one reads, once there are any.
    device : torch.device
        Where they are.
    label : str
        What the log calls it.
    n_before : int
        Steps that come before the capture.

    Returns
    -------
    callable
        Does the same.
    """
    if device.type != "cuda":
        return step
    with torch.cuda.device(device):
        try:
            return _capture(step, state, device, n_before)
        except RuntimeError as error:
            torch.cuda.synchronize(device)
            reason = str(error).partition("\n")[0]
            logger.warning("%s: runs step by step, as it cannot be captured: %s", label, reason)
            return step


def _capture(step, state, device, n_before):
    before, random = [tensor.clone() for tensor in state()], torch.cuda.get_rng_state(device)

    def rewind():
        with torch.no_grad():
            after = state()
            torch._foreach_zero_(after)  # what the first step made began with zeros
            torch._foreach_copy_(after[: len(before)], before)
        torch.cuda.set_rng_state(random, device)

    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(stream):
            for _ in range(n_before):
                step()
            rewind()
            for _ in range(2):
                step()
            expected = [tensor.clone() for tensor in state()]
            rewind()
        torch.cuda.current_stream(device).wait_stream(stream)
        torch.cuda.synchronize(device)
        with torch.cuda.graph(graph, stream=stream):
            step()
        for _ in range(2):
            graph.replay()
        torch.cuda.synchronize(device)
        for found, value in zip(state(), expected, strict=True):
            error = (found - value).double().norm()
            if not error <= TOLERANCE * value.double().norm():
                raise RuntimeError("found another result of the captured step")
    finally:
        torch.cuda.synchronize(device)
        rewind()
    return graph.replay


class CapturedDenoiser(Denoiser):
    """A denoiser whose evaluations are CUDA graphs: that of a batch of chains.

    Where chains have several phases, as those of an
    `~astro_ddprism.diffusion.priors.denoiser.ExtendedDenoiser`, each is a graph of its own.

    Parameters
    ----------
    denoiser : azula.denoise.Denoiser
        Asks the host for nothing but which phase a time is of.
    """

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser
        self._graphs = {}

    @classmethod
    def of(cls, denoiser: Denoiser, n_evaluations: int, device: torch.device) -> Denoiser:
        """The denoiser itself, or on a GPU and for many evaluations its captured one."""
        return cls(denoiser) if device.type == "cuda" and n_evaluations >= MANY else denoiser

    @property
    def schedule(self):
        """The noise schedule."""
        return self.denoiser.schedule

    @torch.no_grad()
    def forward(self, x_t: Tensor, t: Tensor, **kwargs) -> DiracPosterior:  # noqa: ARG002
        """Estimate the clean sources of ``x_t``, as the denoiser does."""
        key = (tuple(x_t.shape), *(part.phase(t) for part in self._phased))
        if key not in self._graphs:
            self._graphs[key] = _Evaluation(self.denoiser, x_t, t)
        return DiracPosterior(mean=self._graphs[key](x_t, t))

    @property
    def _phased(self):
        return [part for part in self.denoiser.modules() if hasattr(part, "phase")]


class _Evaluation:
    """An evaluation of a denoiser at a vector and a time that stay in one place."""

    def __init__(self, denoiser, x_t: Tensor, t: Tensor):
        self.x, self.t = x_t.clone(), known(t.clone(), host_time(t))
        self.mean = torch.zeros_like(x_t)

        def evaluate():
            self.mean.copy_(denoiser(self.x, self.t).mean)

        label = "an evaluation of chains"
        self._run = captured(evaluate, lambda: [self.mean], x_t.device, label, n_before=1)

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.x.copy_(x_t)
        known(self.t.copy_(t), host_time(t))
        self._run()
        return self.mean.clone()
