r"""The M-step: training a denoiser on drawn samples.

A prior's denoiser is trained on the draws of its source; the posterior's
(`~astro_ddprism.diffusion.posteriors.amortized`) on draws of all sources and what would be observed
of them.

Every noise scale counts alike: the time is uniform, and so the logarithm of the noise scale. The
weights that are kept are an exponential moving average over the last twentieth of the training.
"""

__all__ = ["Trainer", "Training", "TrainingStep"]

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ...errors import InputError
from ...registry import Part, option
from ..capture import captured
from ..parallel import Execution
from .data import Turns

# Steps between two looks at the loss, each of which waits for the device.
STEPS_UNSEEN = 100
# Fewest steps that are worth a capture, which takes as long as a few of them.
WORTHWHILE = 200


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
    """

    n_first_images: int = option(40_000, least=1)
    n_images: int = option(16_000, least=1)
    batch_size: int = option(32, least=1)
    learning_rate: float = option(3e-3, above=0)


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

    def train(self, denoiser: nn.Module, draw, n_images: int) -> float:
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

        Returns
        -------
        float
            Mean loss over the last quarter of the steps.

        Raises
        ------
        InputError
            If the loss or the weights are not finite.
        """
        n_steps = max(n_images // self.training.batch_size, 20)
        draws = draw if isinstance(draw, Turns) else Turns([draw], [1])
        step = TrainingStep(denoiser, self.training, self.execution, n_steps)
        own = [partial(step, each) for each in draws.draws]
        step.rate.fill_(step.rate_of(0))
        device, label = self.execution.torch_device, f"training of {self.label}"
        if n_steps > WORTHWHILE:
            own = [captured(each, step.state, device, label) for each in own]
        for k in self.track(range(n_steps), self.title):
            step.rate.fill_(step.rate_of(k))
            if k == 3 * n_steps // 4:
                step.total.zero_()
            own[draws.next()]()
            # What is not finite once stays so: weights do not recover.
            if (k + 1) % STEPS_UNSEEN == 0 or k + 1 == n_steps:
                self._check_finite(step, k + 1)
        step.finish()
        return float(step.total / (n_steps - 3 * n_steps // 4))

    def _check_finite(self, step: "TrainingStep", n_steps: int):
        loss = float(step.loss)
        if not math.isfinite(loss):
            found = f"a loss of {loss} after {n_steps} steps"
        elif not torch.stack([p.isfinite().all() for p in step.average]).all():
            found = f"weights that are not finite after {n_steps} steps"
        else:
            return
        raise InputError(
            f"{self.label}: found {found}, expected finite numbers (a lower learning_rate may help)"
        )


class TrainingStep:
    """A step of training, which asks the host for nothing.

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
    average : list of torch.Tensor
        The moving average of the weights.
    """

    def __init__(self, denoiser: nn.Module, training: Training, execution, n_steps: int):
        self.denoiser, self.training, self.n_steps = denoiser, training, n_steps
        device, precision = execution.torch_device, execution.dtype
        self.weights = [weight for weight in denoiser.parameters() if weight.requires_grad]
        self.average = [weight.detach().clone() for weight in self.weights]
        self.rate = torch.zeros((), device=device)
        self.loss = torch.zeros((), device=device)
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self._strata = torch.arange(training.batch_size, device=device)
        self._optimizer = torch.optim.AdamW(
            self.weights,
            lr=self.rate,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            fused=True,
            capturable=device.type == "cuda",
        )
        self._move_average = get_ema_multi_avg_fn(1 - 20 / n_steps)
        self._autocast = partial(
            torch.autocast,
            device.type,
            dtype=precision,
            enabled=precision != torch.float32,
            cache_enabled=False,  # a cast must not outlive its step
        )

    def __call__(self, draw):
        """Train on a batch of ``draw``."""
        n = self.training.batch_size
        x, *given = draw(n)
        t = (self._strata + torch.rand(n, device=x.device)) / n
        with self._autocast():
            loss = self.denoiser.loss(x, t, torch.randn_like(x), *given).mean()
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self._optimizer.step()
        self._move_average(self.average, self.weights, None)
        with torch.no_grad():
            self.loss.copy_(loss)
            self.total.add_(self.loss)

    def rate_of(self, k: int) -> float:
        """The learning rate of step ``k``."""
        rise = min(1.0, 20 * (k + 1) / self.n_steps)
        return self.training.learning_rate * rise * (1 - k / self.n_steps)

    def state(self) -> list[Tensor]:
        """All tensors that a step changes; those that the first step makes come last."""
        made = [value for own in self._optimizer.state.values() for value in own.values()]
        own = [weight.detach() for weight in self.weights]
        return [*own, *self.average, *self.denoiser.buffers(), self.loss, self.total, *made]

    @torch.no_grad()
    def finish(self):
        """Give the network the average of its weights."""
        for weight, average in zip(self.weights, self.average, strict=True):
            weight.copy_(average)
