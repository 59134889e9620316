r"""The M-step: training a denoiser on drawn samples.

A prior's denoiser is trained on the draws of its source; the posterior's
(`~astro_ddprism.diffusion.posteriors.amortized`) on draws of all sources and what would be observed
of them.

Every noise scale counts alike: the time is uniform, and so the logarithm of the noise scale. The
weights that are kept are an exponential moving average over the last twentieth of the training.
"""

__all__ = ["Trainer", "Training"]

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ...errors import InputError
from ...registry import Part, option
from ..parallel import Execution

# Steps between two looks at the loss, each of which waits for the device.
STEPS_UNSEEN = 100


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
        draw : callable
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
        batch_size = self.training.batch_size
        n_steps = max(n_images // batch_size, 20)
        device, precision = self.execution.torch_device, self.execution.dtype
        autocast = partial(
            torch.autocast, device.type, dtype=precision, enabled=precision != torch.float32
        )
        optimizer = torch.optim.AdamW(
            denoiser.parameters(),
            lr=self.training.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.0,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, 20 * (step + 1) / n_steps) * (1 - step / n_steps)
        )
        average = AveragedModel(denoiser, multi_avg_fn=get_ema_multi_avg_fn(1 - 20 / n_steps))
        strata = torch.arange(batch_size, device=device)
        losses = []
        for step in self.track(range(n_steps), self.title):
            x, *given = draw(batch_size)
            t = (strata + torch.rand(batch_size, device=device)) / batch_size
            with autocast():
                loss = denoiser.loss(x, t, torch.randn_like(x), *given).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(denoiser)
            if step >= 3 * n_steps // 4:
                losses.append(loss.detach())
            # What is not finite once stays so: weights do not recover.
            if (step + 1) % STEPS_UNSEEN == 0 or step + 1 == n_steps:
                self._check_finite(loss.detach(), average, step + 1)
        denoiser.load_state_dict(average.module.state_dict())
        return float(torch.stack(losses).mean())

    def _check_finite(self, loss: Tensor, average: nn.Module, n_steps: int):
        if not math.isfinite(loss):
            found = f"a loss of {float(loss)} after {n_steps} steps"
        elif not torch.stack([p.isfinite().all() for p in average.parameters()]).all():
            found = f"weights that are not finite after {n_steps} steps"
        else:
            return
        raise InputError(
            f"{self.label}: found {found}, expected finite numbers (a lower learning_rate may help)"
        )
