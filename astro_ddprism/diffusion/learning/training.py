r"""The M-step: training a denoiser on drawn samples.

A prior's denoiser is trained on the draws of its source; the posterior's
(`~astro_ddprism.diffusion.posteriors.amortized`) on draws of all sources and what would be observed
of them.

Every noise scale counts alike: the time is uniform, and so the logarithm of the noise scale. The
weights that are kept are an exponential moving average over the last twentieth of the training: at
its end, or where draws that are held out of it (`~astro_ddprism.diffusion.learning.held_out`) were
denoised best.
"""

__all__ = ["Trainer", "Training", "TrainingStep"]

import itertools
import logging
import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...registry import Part, option
from .. import ranks
from ..capture import captured
from ..parallel import Execution
from .data import Turns
from .held_out import Losses, Watch
from .optimizer import Optimizer, weights_of

# Steps between two looks at the loss, each of which waits for the device.
STEPS_UNSEEN = 100
# Fewest steps that are worth a capture, which takes as long as a few of them.
WORTHWHILE = 200
# Numbers to whose multiples weights are aligned.
ALIGNED = 32
# A loss on what is held out that is larger than on other draws by this factor is told.
PARTED = 1.1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training(Part):
    """How much, and how, the networks of priors are trained.

    Parameters
    ----------
    n_first_images, n_images : int
        Images, repeats included, in a network's first and in each later M-step.
    batch_size : int
        Images in a step.
    learning_rate : float
        Peak learning rate; it rises over the first twentieth of the steps and falls linearly to
        zero.
    n_observations : int, optional
        Observations of each view that an E-step draws, but for the first and the last of a stage;
        they take turns, and an M-step trains on the draws of its own iteration. By default all.
    held_out : float
        Part of the observations whose draws no network is trained on: all in a region of the sky.
        The loss on them is found beside that on others, both are in the history of a fit, and the
        weights that are kept are those for which it was least.
    """

    n_first_images: int = option(40_000, least=1)
    n_images: int = option(16_000, least=1)
    batch_size: int = option(32, least=1)
    learning_rate: float = option(3e-3, above=0)
    n_observations: int | None = option(None, least=1)
    held_out: float = option(0.0, least=0, most=0.5)


@dataclass(frozen=True)
class Trainer:
    """Trains networks in place.

    Parameters
    ----------
    training : Training
        How.
    execution : Execution
        Where, and in which precision.
    track : callable
        Called with an iterable and a description; returns the iterable in a progress bar.
    title : str
        The description.
    label : str
        What errors call the network.
    """

    training: Training
    execution: Execution
    track: Callable
    title: str = "training"
    label: str = "the network"

    def titled(self, title: str, label: str) -> "Trainer":
        """The same for another network."""
        return replace(self, title=title, label=label)

    def n_images(self, *, first: bool) -> int:
        """Images of an M-step."""
        return self.training.n_first_images if first else self.training.n_images

    def train(self, denoiser: nn.Module, draw, n_images: int, held_out=None) -> Losses:
        """Train a denoiser in place.

        Parameters
        ----------
        denoiser : torch.nn.Module
            The denoiser, on its device, with a ``loss``.
        draw : callable, or `~astro_ddprism.diffusion.learning.data.Turns` of several
            Called with a number of images; returns clean images ``x`` and whatever is given
            besides, with which ``denoiser.loss(x, t, z, *given)`` is the loss of each.
        n_images : int
            Number of images to train on, repeats included.
        held_out : callable, or Turns, optional
            Like ``draw``, of what the denoiser is not trained on.

        Returns
        -------
        Losses

        Raises
        ------
        InputError
            If the loss or the weights are not finite.
        """
        n_steps = max(n_images // self.training.batch_size, 20)
        draws = Turns.of(draw)
        step = TrainingStep(denoiser, self.training, self.execution, n_steps)
        watch = None if held_out is None else Watch(step, draws, Turns.of(held_out), n_images)
        steps = iter(self.track(range(n_steps), self.title))
        last_quarter = 3 * n_steps // 4  # whose losses count
        for k in self._taken(steps, step, draws, last_quarter):
            if watch is not None and watch.due(k) and watch.look():
                break
        for _ in steps:  # to the end of the bar
            pass
        mean = float(step.total / (k + 1 - (last_quarter if k >= last_quarter else 0)))
        if watch is None:
            step.finish()
            return Losses(mean)
        watch.keep()
        step.finish()
        if watch.held_out > PARTED * watch.seen:
            logger.warning(
                "%s: the loss on observations that it was not trained on is %.3g, on others %.3g: "
                "it knows these by heart; more observations would help, or fewer images",
                self.label, watch.held_out, watch.seen,
            )  # fmt: skip
        return Losses(mean, watch.seen, watch.held_out)

    def _taken(self, steps, step: "TrainingStep", draws: Turns, last_quarter: int):
        """Take the steps of a training; the number of each, when it has been taken."""
        n_steps = step.n_steps
        for n in draws.phases(n_steps, self.training.batch_size):
            own = [partial(step, each) for each in draws.draws]
            step.rate.fill_(step.rate_of(0))
            if n > WORTHWHILE:
                own = [step.captured(each, f"training of {self.label}") for each in draws.draws]
            for k in itertools.islice(steps, n):
                step.rate.fill_(step.rate_of(k))
                if k == last_quarter:
                    step.total.zero_()
                own[draws.next()]()
                # What is not finite once stays so: weights do not recover.
                if (k + 1) % STEPS_UNSEEN == 0 or k + 1 == n_steps:
                    self._check_finite(step, k + 1)
                yield k
            own.clear()  # graphs, and what they hold

    def _check_finite(self, step: "TrainingStep", n_steps: int):
        loss = float(step.loss)
        if not math.isfinite(loss):
            found = f"a loss of {loss} after {n_steps} steps"
        elif not step.average.isfinite().all():
            found = f"weights that are not finite after {n_steps} steps"
        else:
            return
        raise InputError(
            f"{self.label}: found {found}, expected finite numbers (a lower learning_rate may help)"
        )


class TrainingStep:
    """A step of training, which asks the host for nothing.

    All weights are parts of one tensor, and their gradients of another, so that what is done to all
    of them is one operation. Several processes share out the images of a step, and add up their
    gradients.

    Parameters
    ----------
    denoiser : torch.nn.Module
        The denoiser, on its device, with a ``loss``.
    training : Training
        How.
    execution : Execution
        Where, and in which precision.
    n_steps : int
        All steps of the training.

    Attributes
    ----------
    rate : torch.Tensor
        The learning rate, of shape ``()``.
    loss, total : torch.Tensor
        The last loss, and the sum of all, of shape ``()``.
    average : torch.Tensor
        The moving average of the weights.
    """

    def __init__(self, denoiser: nn.Module, training: Training, execution, n_steps: int):
        self.denoiser, self.training, self.n_steps = denoiser, training, n_steps
        self.device = execution.torch_device
        precision = execution.dtype_of(getattr(denoiser, "backbone", None))
        device, n = self.device, training.batch_size
        if n < ranks.n_ranks():
            raise InputError(
                f"Training.batch_size: found {n} with {ranks.n_ranks()} processes, expected an "
                "image or more for each"
            )
        matrices, others = weights_of(denoiser)
        self._parameters = [*matrices, *others]
        self._weights, parts = _flattened(self._parameters)
        # The last of the sums is the loss.
        self._sums = self._weights.new_zeros(len(self._weights) + 1)
        self._gradient, self.loss = self._sums[:-1], self._sums[-1]
        pairs = list(zip(parts, _parts(self._gradient, self._parameters), strict=True))
        for weight, (own, gradient) in zip(self._parameters, pairs, strict=True):
            weight.data, weight.grad = own, gradient
        self.average = self._weights.clone()
        self.rate = torch.zeros((), device=device)
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self._strata = torch.arange(n, device=device)
        # Every so many, so that all of them see all noise scales.
        self._own = self._strata[ranks.rank() :: ranks.n_ranks()]
        self._optimizer = Optimizer(pairs[: len(matrices)], pairs[len(matrices) :], self.rate)
        self._autocast = partial(
            torch.autocast,
            device.type,
            dtype=precision,
            enabled=precision != torch.float32,
            cache_enabled=False,  # a cast must not outlive its step
        )

    def __call__(self, draw):
        """Train on a batch of ``draw``."""
        self._find(draw)
        ranks.sum_(self._sums)
        self._move()

    def captured(self, draw, label: str) -> Callable[[], None]:
        """The step on batches of ``draw``, as CUDA graphs where there is CUDA."""
        if ranks.n_ranks() == 1:
            return captured(partial(self, draw), self.state, self.device, label)
        find = captured(partial(self._find, draw), self.state, self.device, label)
        move = captured(self._move, self.state, self.device, label)

        def step():
            find()
            ranks.sum_(self._sums)
            move()

        return step

    def _find(self, draw):
        """Find the gradient of this process's share of a batch."""
        n = self.training.batch_size
        x, *given = draw(n)
        t = self.times()
        z = torch.randn_like(x)
        if len(self._own) < n:
            x, t, z, *given = (part[self._own] for part in (x, t, z, *given))
        with self._autocast():
            loss = self.denoiser.loss(x, t, z, *given).sum() / n
        self._gradient.zero_()
        loss.backward()
        with torch.no_grad():
            self.loss.copy_(loss)

    def times(self) -> Tensor:
        """Times of a batch, one in each of as many equal parts of all."""
        n = len(self._strata)
        return (self._strata + torch.rand(n, device=self.device)) / n

    @torch.no_grad()
    def loss_of(self, batch, t: Tensor, z: Tensor) -> Tensor:
        """Mean loss of a batch, of shape ``()``, with given times and noise."""
        x, *given = batch
        with self._autocast():
            return self.denoiser.loss(x, t, z, *given).mean()

    @contextmanager
    def averaged(self):
        """For the duration of a block, the network has the averages of its weights."""
        with torch.no_grad():
            weights = self._weights.clone()
            self._weights.copy_(self.average)
            yield
            self._weights.copy_(weights)

    @torch.no_grad()
    def _move(self):
        """Take a step against the gradient, no longer than of norm 1."""
        self._gradient.mul_((1 / (self._gradient.norm() + 1e-6)).clip(max=1))
        self._optimizer.step()
        self.average.lerp_(self._weights, 20 / self.n_steps)
        self.total.add_(self.loss)

    def rate_of(self, k: int) -> float:
        """The learning rate of step ``k``."""
        rise = min(1.0, 20 * (k + 1) / self.n_steps)
        return self.training.learning_rate * rise * (1 - k / self.n_steps)

    def state(self) -> list[Tensor]:
        """All tensors that a step changes; those that the first step makes come last."""
        own = [self._weights, self.average, *self.denoiser.buffers(), self._sums, self.total]
        return [*own, *self._optimizer.state()]

    @torch.no_grad()
    def finish(self):
        """Give the network the average of its weights, each a tensor of its own again."""
        ranks.agree([self.average])
        averages = _parts(self.average, self._parameters)
        for weight, average in zip(self._parameters, averages, strict=True):
            weight.data, weight.grad = average.clone(), None


def _flattened(tensors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """A copy of tensors in one tensor, and its parts."""
    flat = tensors[0].new_zeros(sum(map(_room, tensors)))
    parts = _parts(flat, tensors)
    with torch.no_grad():
        for part, tensor in zip(parts, tensors, strict=True):
            part.copy_(tensor)
    return flat, parts


def _parts(flat: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Parts of a tensor with the shapes, and the order in memory, of others."""
    starts = [0, *itertools.accumulate(map(_room, like))]
    return [
        flat.as_strided(tensor.shape, tensor.stride(), start)
        for tensor, start in zip(like, starts, strict=False)
    ]


def _room(tensor: Tensor) -> int:
    """Numbers that a tensor takes, up to where fast operations like the next one to begin."""
    return -(-tensor.numel() // ALIGNED) * ALIGNED
