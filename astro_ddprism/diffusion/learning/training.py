r"""The M-step: training a denoiser on drawn samples.

A prior's denoiser is trained on the draws of its source; the posterior's
(`~astro_ddprism.diffusion.posteriors.amortized`) on draws of all sources and what would be observed of them.

Every noise scale counts alike: the time is uniform, and so the logarithm of the noise scale. The
weights that are kept are an exponential moving average over the last twentieth of the training.
"""

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ...errors import InputError

__all__ = ["train"]

# Steps between two looks at the loss, each of which waits for the device.
STEPS_UNSEEN = 100


def train(
    denoiser: nn.Module,
    draw,
    *,
    n_images: int,
    batch_size: int,
    learning_rate: float,
    precision: torch.dtype,
    track,
    label: str,
) -> float:
    """Train a denoiser in place.

    Parameters
    ----------
    denoiser : torch.nn.Module
        The denoiser, on its device, with a ``data_scale`` and a ``loss``.
    draw : callable
        Called with a number of images; returns clean images ``x`` and whatever is given besides,
        with which ``denoiser.loss(x, t, z, *given)`` is the loss of each.
    n_images : int
        Number of images to train on, repeats included.
    batch_size : int
        Images in one step.
    learning_rate : float
        Peak learning rate; it rises over the first twentieth of the steps and falls linearly to
        zero.
    precision : torch.dtype
        Precision of the network's arithmetic.
    track : callable
        Wraps an iterable in a progress bar.
    label : str
        What errors call the network.

    Returns
    -------
    float
        Mean loss over the last quarter of the steps.

    Raises
    ------
    InputError
        If the loss or the weights are not finite.
    """
    n_steps = max(n_images // batch_size, 20)
    device = denoiser.data_scale.device
    optimizer = torch.optim.AdamW(
        denoiser.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, 20 * (step + 1) / n_steps) * (1 - step / n_steps)
    )
    average = AveragedModel(denoiser, multi_avg_fn=get_ema_multi_avg_fn(1 - 20 / n_steps))
    strata = torch.arange(batch_size, device=device)
    losses = []
    for step in track(range(n_steps)):
        x, *given = draw(batch_size)
        t = (strata + torch.rand(batch_size, device=device)) / batch_size
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
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
            _check_finite(label, loss.detach(), average, step + 1)
    denoiser.load_state_dict(average.module.state_dict())
    return float(torch.stack(losses).mean())


def _check_finite(label: str, loss: Tensor, average: nn.Module, n_steps: int):
    if not math.isfinite(loss):
        found = f"a loss of {float(loss)} after {n_steps} steps"
    elif not torch.stack([p.isfinite().all() for p in average.parameters()]).all():
        found = f"weights that are not finite after {n_steps} steps"
    else:
        return
    raise InputError(
        f"{label}: found {found}, expected finite numbers (a lower learning_rate may help)"
    )
