"""The training loop of the amortized posterior as it was: what faster ones are measured against.

Observations, rows, draws and symmetries come from the host, operation by operation; what depends on
an observation alone is computed in each step.
"""

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from astro_ddprism.diffusion.observation import JointObservation, simulate

__all__ = ["train"]


def random_transform(x):
    """Turn and mirror every image at random, one element of the group after the other."""
    choice, out = torch.randint(8, (len(x),), device=x.device), torch.empty_like(x)
    for k in range(8):
        chosen = choice == k
        y = x[chosen].flip(-1) if k % 2 else x[chosen]
        out[chosen] = y.rot90(k // 2, (-2, -1))
    return out


def draws(view, samples, device):
    """Simulated observations, whose views and draws are on the host."""

    def draw(n):
        x = {
            source: random_transform(images[torch.randint(len(images), (n,))].to(device))
            for source, images in samples.items()
        }
        batch = view.batch(torch.randint(len(view), (n,)).numpy(), device=device)
        observation = JointObservation(simulate(batch, x), view.source_shapes)
        return observation.join(list(x.values())), observation

    return draw


def train(denoiser, draw, training, n_steps, device):
    """Steps of training: yields after each, and leaves the network the average of its weights."""
    n = training.batch_size
    optimizer = torch.optim.AdamW(
        denoiser.parameters(), lr=training.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, 20 * (step + 1) / n_steps) * (1 - step / n_steps)
    )
    average = AveragedModel(denoiser, multi_avg_fn=get_ema_multi_avg_fn(1 - 20 / n_steps))
    strata = torch.arange(n, device=device)
    for _ in range(n_steps):
        x, *given = draw(n)
        t = (strata + torch.rand(n, device=device)) / n
        loss = denoiser.loss(x, t, torch.randn_like(x), *given).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(denoiser)
        yield
    denoiser.load_state_dict(average.module.state_dict())
