r"""The M-step: training one source's denoiser on drawn samples.

Every noise scale counts alike: the time is uniform, and so the logarithm of the noise scale. The
weights that are kept are an exponential moving average over the last twentieth of the training.
"""

__all__ = ["train"]

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .denoiser import SourceDenoiser
from .symmetries import random_transform


def train(
    denoiser: SourceDenoiser,
    samples: Tensor,
    *,
    n_images: int,
    batch_size: int,
    learning_rate: float,
    symmetries: tuple[str, ...],
    precision: torch.dtype,
    track,
) -> float:
    """Train a denoiser in place.

    Parameters
    ----------
    denoiser : SourceDenoiser
        The denoiser, on its device.
    samples : torch.Tensor
        Clean sources, of shape ``(N, *shape)``, on any device.
    n_images : int
        Number of images to train on, repeats included.
    batch_size : int
        Images in one step.
    learning_rate : float
        Peak learning rate; it rises over the first twentieth of the steps and falls linearly to
        zero.
    symmetries : tuple of str
        Symmetries of the source; every image is transformed at random.
    precision : torch.dtype
        Precision of the network's arithmetic.
    track : callable
        Wraps an iterable in a progress bar.

    Returns
    -------
    float
        Mean loss over the last quarter of the steps.
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
        index = torch.randint(len(samples), (batch_size,))
        x = random_transform(samples[index].to(device), symmetries)
        t = (strata + torch.rand(batch_size, device=device)) / batch_size
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            loss = denoiser.loss(x, t, torch.randn_like(x)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(denoiser)
        if step >= 3 * n_steps // 4:
            losses.append(loss.detach())
    denoiser.load_state_dict(average.module.state_dict())
    return float(torch.stack(losses).mean())
