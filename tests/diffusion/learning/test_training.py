"""The M-step on problems whose best denoiser is known."""

import math

import pytest
import torch
from azula.noise import VESchedule

from astro_ddprism.diffusion.learning.data import images
from astro_ddprism.diffusion.learning.training import Trainer, Training
from astro_ddprism.diffusion.networks.mlp import MLP
from astro_ddprism.diffusion.networks.unet import UNet
from astro_ddprism.diffusion.parallel import Execution
from astro_ddprism.diffusion.priors.denoiser import SourceDenoiser
from astro_ddprism.diffusion.random import seeded
from astro_ddprism.errors import InputError

SCHEDULE = VESchedule(0.1, 50.0)
CPU = torch.device("cpu")


def trained(samples, backbone, *, seed=1, track=iter, symmetries=(), n_images=20_000,
            precision="float32", **options):  # fmt: skip
    training = Training(**{"batch_size": 128, "learning_rate": 2e-3, **options})
    trainer = Trainer(
        training,
        Execution("cpu", precision),
        lambda steps, _: track(steps),
    ).titled("training", "the source")
    with seeded(seed, device=CPU):
        denoiser = SourceDenoiser(backbone(), SCHEDULE, 3.0)
        loss = trainer.train(denoiser, images(samples, symmetries, CPU), n_images).mean
    return denoiser, loss


def mlp():
    return MLP(width=64, depth=2, embedding=32).build((2,), 2)


def gaussian_samples(n):
    factor = torch.tensor([[3.0, 0.0], [2.0, 1.0]])
    mean = torch.tensor([2.0, -1.0])
    return mean, factor @ factor.T, mean + torch.randn(n, 2) @ factor.T


def test_learns_a_gaussian():
    """The learned denoiser is close to the exact one: its excess error is a few per cent."""
    with seeded(2, device=CPU):
        mean, covariance, x = gaussian_samples(5000)
        _, _, fresh = gaussian_samples(2000)
        z = torch.randn_like(fresh)
    denoiser, loss = trained(x, mlp, n_images=100_000)
    for sigma in (0.5, 2.0, 8.0):
        t = torch.tensor(math.log(sigma / 0.1) / math.log(500))
        x_t = fresh + sigma * z
        gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(2))
        exact = mean + (x_t - mean) @ gain.T
        with torch.no_grad():
            found = denoiser(x_t, t).mean
        best = (exact - fresh).square().mean()
        assert (found - fresh).square().mean() < 1.1 * best
        assert (found - exact).square().mean() < 0.1 * best
    assert 0 < loss < 1


def test_repeats_under_a_seed():
    with seeded(3, device=CPU):
        _, _, x = gaussian_samples(200)
    (first, a), (second, b), (_, other) = (
        trained(x, mlp, n_images=2000, batch_size=32, seed=seed) for seed in (4, 4, 5)
    )
    assert a == b != other
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


@pytest.mark.parametrize(("n_images", "steps"), [(640, 20), (3200, 100), (1, 20)])
def test_number_of_steps(n_images, steps):
    """Images over the batch size, but never too few to warm up and cool down."""
    seen = []

    def track(iterable):
        for step in iterable:
            seen.append(step)
            yield step

    trained(torch.randn(10, 2), mlp, n_images=n_images, batch_size=32, track=track)
    assert seen == list(range(steps))


def test_bfloat16():
    """Reduced precision in the network alone: weights stay in float32, the loss falls as far."""
    with seeded(6, device=CPU):
        _, _, x = gaussian_samples(1000)
    _, expected = trained(x, mlp)
    denoiser, loss = trained(x, mlp, precision="bfloat16")
    assert loss == pytest.approx(expected, rel=0.1)
    assert all(p.dtype == torch.float32 for p in denoiser.parameters())


def test_symmetries_are_learned():
    """Bright pixels on one side only: with flips, both sides are as likely."""
    with seeded(7, device=CPU):
        x = torch.zeros(64, 1, 4, 4)
        x[..., 0] = 10
    backbone = lambda: UNet(channels=(16,), blocks=(1,), patch=1, embedding=16).build((1, 4, 4), 2)  # noqa: E731
    t = torch.tensor(0.95)  # noise hides the side: the best answer is the mean
    asymmetry = []
    for symmetries in ((), ("flips",)):
        denoiser, _ = trained(
            x, backbone, n_images=6400, batch_size=32, learning_rate=5e-3, symmetries=symmetries
        )
        with torch.no_grad():
            y = denoiser(torch.zeros(1, 1, 4, 4), t).mean[0, 0].mean(dim=0)
        asymmetry.append((y[0] - y[3]).abs().item())
    assert asymmetry[1] < 2 < asymmetry[0]


def test_loss_of_an_untrainable_rate_is_finite():
    """Gradients are clipped: one outlier does not ruin the weights."""
    with seeded(8, device=CPU):
        _, _, x = gaussian_samples(100)
        x[0] = 1e6
    denoiser, loss = trained(x, mlp, n_images=2000, batch_size=32)
    assert math.isfinite(loss)
    assert all(torch.isfinite(p).all() for p in denoiser.parameters())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_training(value):
    """One number among many ruins all weights: it is found long before the end."""
    with seeded(13, device=CPU):
        _, _, x = gaussian_samples(100)
        x[17, 1] = value
    seen = []

    def track(iterable):
        for step in iterable:
            seen.append(step)
            yield step

    with pytest.raises(InputError, match="the source: found a loss of nan after 100 steps, expe"):
        trained(x, mlp, n_images=128_000, track=track)
    assert len(seen) == 100


def test_weights_that_are_not_finite_are_refused(monkeypatch):
    """Also where the last loss does not tell."""
    step = torch.optim.AdamW.step
    count = []

    def spoil(optimizer, *args):
        step(optimizer, *args)
        count.append(1)
        if len(count) == 20:
            optimizer.param_groups[0]["params"][0].data.fill_(math.inf)

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    with seeded(14, device=CPU):
        _, _, x = gaussian_samples(100)
    with pytest.raises(InputError, match="the source: found weights that are not finite"):
        trained(x, mlp, n_images=1, batch_size=32)


def test_first_and_later_trainings():
    trainer = Trainer(Training(n_first_images=300, n_images=200), Execution("cpu"), iter)
    assert (trainer.n_images(first=True), trainer.n_images(first=False)) == (300, 200)
    with pytest.raises(
        InputError, match=r"Training\.learning_rate: found 0\.0, expected a number ab"
    ):
        Training(learning_rate=0)
