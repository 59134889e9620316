r"""The denoiser of all sources given an observation, learned from simulated observations.

Moment matching (`~astro_ddprism.diffusion.posteriors.moment_matching`) takes what is known of the
sources at each noise scale to be Gaussian. Where two sources compete for the same light, it is not:
a neighbour's light belongs to one of them or to the other, and a chain that has begun to share it
out cannot go back.

But the joint posterior is also what denoising of *simulated* pairs learns. With sources drawn from
their priors, :math:`x^\beta \sim p(x^\beta)`, an observation simulated with the operators and the
noise of a real one, :math:`y = \sum_\beta A^\beta x^\beta + \eta`, and
:math:`x_\sigma = x + \sigma z`, the minimizer of

.. math:: \mathbb{E} \, \| D(x_\sigma, \sigma, y) - x \|^2 \qquad \text{is} \qquad
          D(x_\sigma, \sigma, y) = \mathbb{E}[x \mid x_\sigma, y] ,

the denoiser of the joint posterior itself, with no approximation but the network's and no Jacobian:
one evaluation of one network stands for a solve with the networks of all sources. As the draws of
an E-step are samples of the priors, expectation maximization trains it like any prior.

The network adds to what is known without it. With a Gaussian prior of variance :math:`m^2` in each
pixel by itself, :math:`c = m^2 / (m^2 + \sigma^2)` and :math:`V = c \, \sigma^2` are the mean's
slope and the variance given :math:`x_\sigma`. With :math:`h^\beta`, the information on a pixel
(the sum of its row of :math:`A^{\beta T} \Sigma^{-1} A^\beta`), :math:`u^\beta = \pm \sqrt{V^\beta
h^\beta}`, whose sign is that with which the source enters the observation,
and :math:`b^\beta = A^{\beta T} \Sigma^{-1} (y - \sum_\beta A^\beta c^\beta x_\sigma^\beta)`, those
given the observation too are

.. math:: \mu^\beta = c^\beta x_\sigma^\beta + \frac{V^\beta b^\beta}{1 + |u|^2} , \qquad
          C = V^{1/2} \Big( 1 - \frac{u u^T}{1 + |u|^2} \Big) V^{1/2}

(exact for operators that are diagonal), and the estimate is :math:`D = \mu + C^{1/2} F`, so that
the network's output :math:`F` is of order one both in the sum of the sources, which the observation
tells to its noise, and in how they share it, which it does not. The scale :math:`m` is
the data scale where the observed pixel is lost in the noise, the observed value where it stands out
of it, that of its surroundings where it is masked.

The loss is that of :math:`F`, as a weight that depends on :math:`x_\sigma` and :math:`y` alone
leaves the minimizer as it is. Along :math:`u` the true output has a variance of about one at every
noise scale. Across it, where it says how the sources share their sum, it has so only where the
noise scale is small; where it is large, and chains decide whose the light is, it is a small part of
the whole, which most pixels of an image have little of. So the error across :math:`u` is divided by
the mean power that the true outputs have there at about the same noise scale [3]_, which is found
before the training.

References
----------
.. [1] Karras et al. 2022, arXiv:2206.00364 (preconditioning of denoisers)
.. [2] Batzolis et al. 2021, arXiv:2111.13606 (conditional denoising estimates the posterior)
.. [3] Karras et al. 2024, arXiv:2312.02696 (every noise scale should count alike)
"""

import math

import numpy as np
import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import Schedule
from torch import Tensor, nn

from ..observation import JointObservation

__all__ = ["Amortized", "AmortizedPosterior"]

from dataclasses import dataclass

from azula.noise import VESchedule

from ...errors import InputError
from ...registry import MOST_REPEATS, option
from ..masks import MOST
from ..networks import Network, UNet
from ..networks.embedding import compressed
from ..priors.schedule import time_of
from ..sampling.samplers import AdamsBashforth, Sampler
from ..scratch import row_parts
from ..variety import Variety
from .base import POSTERIORS, Beginning, PosteriorMethod
from .estimate import Estimate
from .moment_matching import MomentMatching

# Pixels on a side of the surroundings that stand in for a masked pixel.
SURROUNDINGS = 7
# Radius about the target, in pixels, in which no pixel may be masked, and the part that may beyond.
TARGET, FEW = 8, 0.05
# Bins of time in which the power of true outputs is averaged, the simulations of which it is, and
# those at a time.
N_BINS, N_WEIGHED, AT_A_TIME = 16, 2048, 64


@POSTERIORS.register("amortized")
@dataclass(frozen=True)
class Amortized(PosteriorMethod):
    """One network for the joint posterior of several images that share one pixel grid.

    Parameters
    ----------
    network : Network
        The network.
    n_images : int
        Images, repeats included, that it is trained on in its first M-step; later ones take a
        third.
    flux_factors : dict of str to tuple of float
        Sources whose draws are multiplied by factors in this range in training, such that all
        fluxes are equally frequent: measured fluxes then are not pulled to where most of the
        population is.
    templates : tuple of str
        Sources whose images are centred on them and look much alike turned by half a turn, as
        galaxies do. They are learned from symmetric parts of their draws, and of all light at
        first.
    variety : Variety
        Conditions under which observations are simulated. If its ``masks`` is 0, observations with
        masked pixels near the target are drawn by ``otherwise``; else only those that lose more
        than the network has seen, or whose pixels share noise.
    sampler : Sampler
        The sampler of its chains, whose steps cost one evaluation of one network.
    n_steps : int
        Steps of a chain.
    n_starts : int
        Evaluations that find the mean from which chains begin.
    otherwise : MomentMatching
        For observations of one source, or of sources of different shapes.
    n_matched : int
        EM iterations of a stage whose draws ``otherwise`` makes, and which teach the priors, before
        the network is first trained; but the last one always trains it.
    """

    network: Network = option(UNet())
    n_images: int = option(120_000, least=1)
    flux_factors: dict[str, tuple[float, float]] = option({}, above=0)
    templates: tuple[str, ...] = ()
    variety: Variety = option(Variety())
    sampler: Sampler = option(AdamsBashforth(3))
    n_steps: int = option(12, least=1, most=MOST_REPEATS)
    n_starts: int = option(1, least=0, most=MOST_REPEATS)
    otherwise: MomentMatching = option(MomentMatching())
    n_matched: int = option(0, least=0, most=MOST_REPEATS)

    def __post_init__(self):
        super().__post_init__()
        for source, (low, high) in self.flux_factors.items():
            if low > high:
                raise InputError(
                    f"Amortized.flux_factors[{source!r}]: found {low:g}, {high:g}, expected two "
                    "numbers in order"
                )

    def handles(self, source_shapes):  # noqa: D102
        shapes = set(source_shapes.values())
        return len(source_shapes) > 1 and len(shapes) == 1 and len(next(iter(shapes))) == 3

    def build(self, source_shapes, data_scale, schedule, execution):  # noqa: D102
        bands, *size = next(iter(source_shapes.values()))
        shape = (len(source_shapes) * bands, *size)
        seeing = self.variety.seeing
        backbone = self.network.build(shape, AmortizedPosterior.n_features_told(seeing))
        # Its chains begin far above any light: there is no prior to say where it may be.
        schedule = VESchedule(float(schedule.sigma_min), 10 * float(schedule.sigma_max))
        precision = execution.dtype_of(backbone)
        posterior = AmortizedPosterior(backbone, schedule, data_scale, precision, seeing)
        return posterior.to(execution.torch_device)

    def train(self, learned, simulations, trainer):  # noqa: D102
        simulations = simulations.of_templates(self.templates, all_light=learned is None)
        n_images = self.n_images
        if learned is None:
            learned = self.build(
                simulations.source_shapes,
                simulations.data_scale,
                simulations.schedule,
                trainer.execution,
            )
        else:
            n_images = n_images // 3
        learned.requires_grad_(True)
        draw, held_out = (
            part and part.draws(self.flux_factors, self.templates, self.variety)
            for part in simulations.split()
        )
        learned.weigh(draw)
        return learned, trainer.train(learned, draw, n_images, held_out)

    def serves(self, priors, loader, index):
        """Those that lack no more pixels than simulated ones do; see ``PosteriorMethod``.

        Where ``variety.masks`` is 0, the network has seen few masked pixels in training, none where
        galaxies are, and is sure there of what it does not know: it serves those with all pixels
        about the target, and nearly all others.
        """
        if not all(source in priors.denoisers for source in loader.sources):
            return super().serves(priors, loader, index)
        some = row_parts(len(index), loader.n_observed)
        served = [self._serves(priors, loader, index[rows]) for rows in some]
        return np.concatenate(served or [np.ones(0, bool)])

    def _serves(self, priors, loader, index):
        masked = loader.masked(index)
        if masked is None or not masked.any():
            return super().serves(priors, loader, index)
        if self.variety.masks and loader.independent:
            return (masked.mean(axis=(-2, -1)) <= MOST).reshape(len(masked), -1).all(axis=1)
        ny, nx = masked.shape[-2:]
        y, x = np.ogrid[:ny, :nx]
        near = np.hypot(y - ny // 2, x - nx // 2) <= TARGET
        masked = masked.any(axis=tuple(range(1, masked.ndim - 2)))
        return ~(masked & near).any(axis=(1, 2)) & (masked.mean(axis=(1, 2)) <= FEW)

    def denoiser(self, priors, observation):  # noqa: D102
        return priors.learned[tuple(observation.source_shapes)].given(observation)

    def begin(self, priors, observation, rows, *, start, first=None):
        """At the top of the noise schedule, about the posterior mean there.

        See ``PosteriorMethod.begin``.
        """
        begun = super().begin(priors, observation, rows, start=start, first=first)
        noise, x, time = begun.x, begun.x, time_of(1.0, begun.x.device)
        for _ in range(self.n_starts):  # towards the mean, which may be far above the noise
            x = begun.denoiser(x, time).mean + noise
        return Beginning(x, 1.0, begun.denoiser)

    def steps(self, chains):  # noqa: ARG002, D102
        return self.sampler, self.n_steps


class AmortizedPosterior(nn.Module):
    """Denoiser of the sources of a view's observations, given these.

    Parameters
    ----------
    backbone : torch.nn.Module
        Maps features ``(B, 6, S * bands, ny, nx)``, 7 if it is told the seeing, and log noise
        scales, ``(B,)`` or one for all ``(1,)``, to ``(B, S * bands, ny, nx)``, for ``S`` sources
        of one shape ``(bands, ny, nx)``.
    schedule : azula.noise.Schedule
        A variance-exploding schedule.
    data_scale : float
        Typical root mean square of the sources, in units of the noise.
    precision : torch.dtype
        Precision of the network's arithmetic.
    seeing : tuple of float
        The range of widths of the PSF, in pixels, that the network knows and is told; or none.
    """

    n_features = 6

    def __init__(
        self,
        backbone: nn.Module,
        schedule: Schedule,
        data_scale: float,
        precision: torch.dtype = torch.float32,
        seeing: tuple[float, ...] = (),
    ):
        super().__init__()
        self.backbone = backbone
        self.seeing = seeing
        self.n_features = self.n_features_told(seeing)
        self.schedule = schedule
        self.precision = precision
        self.register_buffer("data_scale", torch.tensor(float(data_scale)))
        # The power of true outputs across the sum, in bins of time.
        self.register_buffer("across", torch.ones(N_BINS), persistent=False)

    @classmethod
    def n_features_told(cls, seeing: tuple[float, ...]) -> int:
        """Features of each source and band, one more if the network is told the seeing."""
        return cls.n_features + bool(seeing)

    def given(self, observation: JointObservation) -> "_Given":
        """The denoiser of the joint vector of all sources, given observations.

        Parameters
        ----------
        observation : JointObservation
            The whitened observations of a batch.

        Returns
        -------
        azula.denoise.Denoiser
            Maps perturbed joint vectors ``(B, D)`` to posterior means.
        """
        return _Given(self, observation)

    def relative_width(self, seeing: Tensor) -> Tensor:
        """A width of the PSF as the network is told it: from -1 to 1 over the range it knows."""
        low, high = map(math.log, self.seeing)
        return (2 * seeing.log() - low - high) / (high - low)

    @torch.no_grad()
    def weigh(self, draws):
        """Find what the loss is weighted by: before a training, so that it is the same throughout.

        Parameters
        ----------
        draws : `~astro_ddprism.diffusion.learning.data.Turns`
            The training data.
        """
        total, number = self.across.new_zeros(2, N_BINS)
        for _ in range(N_WEIGHED // AT_A_TIME):
            x, observation = draws.draws[draws.next()](AT_A_TIME)
            t = torch.arange(AT_A_TIME, device=x.device) + torch.rand(AT_A_TIME, device=x.device)
            t = t / AT_A_TIME
            _, sigma = self.schedule(t)
            given = self.given(observation)
            estimate = given.precondition(x + sigma[:, None] * torch.randn_like(x), sigma)
            _, power = estimate.power(estimate.remove(given.stack(x)))
            total.index_add_(0, _bin(t), power.to(total))
            number += torch.bincount(_bin(t), minlength=N_BINS)
        self.across.copy_(torch.where(number > 0, total / number, 1.0).clip(min=1e-12))

    def loss(self, x: Tensor, t: Tensor, z: Tensor, observation: JointObservation) -> Tensor:
        """Mean square error of the network's output, weighted, of shape ``(B,)``.

        Parameters
        ----------
        x : torch.Tensor
            Clean joint vectors, of shape ``(B, D)``.
        t : torch.Tensor
            Times, of shape ``(B,)``.
        z : torch.Tensor
            Standard normal noise, of the shape of ``x``.
        observation : JointObservation
            What was observed of them.
        """
        _, sigma = self.schedule(t)
        x_t = x + sigma[:, None] * z
        # Only the network may compute in a lower precision.
        with torch.autocast(x.device.type, enabled=False):
            given = self.given(observation)
            estimate = given.precondition(x_t, sigma)
            target = estimate.remove(given.stack(x))
            inputs = given.inputs(x_t, sigma, estimate)
        along, across = estimate.power(given.output(*inputs) - target)
        return along + across / self.across[_bin(t)]


class _Given(Denoiser):
    """The posterior given a batch of observations; sources are stacked, ``(B, S, *shape)``."""

    def __init__(self, posterior: AmortizedPosterior, observation: JointObservation):
        super().__init__()
        self.posterior = posterior
        self.observation = observation
        data = self._project(observation.y)
        self.information, self.sign = observation.information
        self.seen = self.information > 0
        self.deviation = torch.where(self.seen, self.information.rsqrt(), 0.0)
        self.significance = data * self.deviation
        bright = (self.significance / 4).square().square()
        power = (self.significance * self.deviation).square() * (bright / (1 + bright))
        around = _surroundings(power, self.seen)
        self.power = posterior.data_scale**2 + torch.where(self.seen, power, around)

    @property
    def schedule(self):
        """The noise schedule."""
        return self.posterior.schedule

    def stack(self, x: Tensor) -> Tensor:
        """Joint vectors ``(B, D)`` as ``(B, S, *shape)``."""
        return torch.stack(self.observation.split(x), dim=1)

    def precondition(self, x_t: Tensor, sigma: Tensor) -> Estimate:
        """What is known of the sources without the network."""
        x = self.stack(x_t)
        sigma2 = sigma.reshape(-1, *(1,) * (x.ndim - 1)).square()
        slope = self.power / (self.power + sigma2)
        variance = slope * sigma2
        mean = slope * x
        residual = self._project(self.observation.y - self.observation.forward(mean.flatten(1)))
        return Estimate(mean, variance, residual, self)

    def inputs(self, x_t: Tensor, sigma: Tensor, estimate: Estimate) -> tuple[Tensor, Tensor]:
        """What the network reads: features, and the logarithm of the noise scale."""
        x, posterior = self.stack(x_t), self.posterior
        sigma = sigma.reshape(-1, *(1,) * (x.ndim - 1))
        scale2 = posterior.data_scale**2
        known = self.information * scale2
        wide = torch.stack([x / (sigma + 0.5), estimate.mean, self.significance, estimate.surprise])
        features = torch.cat(
            [
                (x * torch.rsqrt(sigma**2 + scale2))[None],
                compressed(wide),
                (known / (1 + known))[None],
            ]
        )
        if posterior.seeing:
            width = posterior.relative_width(self.observation.seeing)
            told = width.view(1, -1, *(1,) * (x.ndim - 1)).expand(1, *x.shape)
            features = torch.cat([told, features])
        dtype = next(posterior.backbone.parameters()).dtype
        return features.flatten(2, 3).movedim(0, 1).to(dtype), sigma.flatten().log().to(dtype)

    def output(self, features: Tensor, log_sigma: Tensor) -> Tensor:
        """The network's output, of shape ``(B, S, *shape)``."""
        precision = self.posterior.precision
        reduced = precision != torch.float32
        with torch.autocast(features.device.type, dtype=precision, enabled=reduced):
            output = self.posterior.backbone(features, log_sigma).to(self.power)
        return output.unflatten(1, self.power.shape[1:3])

    @torch.no_grad()
    def forward(self, x_t: Tensor, t: Tensor, **kwargs) -> DiracPosterior:  # noqa: ARG002
        """Estimate all sources: posterior means ``(B, D)`` of perturbed joint vectors."""
        _, sigma = self.schedule(t)
        sigma = sigma.reshape(-1)
        estimate = self.precondition(x_t, sigma)
        output = self.output(*self.inputs(x_t, sigma, estimate))
        return DiracPosterior(mean=estimate.add(output).flatten(1))

    def _project(self, r: Tensor) -> Tensor:
        return self.stack(self.observation.adjoint(r))


def _bin(t: Tensor) -> Tensor:
    return (N_BINS * t).long().clip(max=N_BINS - 1)


def _surroundings(power: Tensor, seen: Tensor) -> Tensor:
    """Mean power of the pixels about each that are seen."""
    rows, columns = (_near(n, power) for n in power.shape[-2:])
    total = rows @ power @ columns  # where a pixel is not seen, it has none
    return total / (rows @ seen.to(power) @ columns).clip(min=1)


def _near(n: int, like: Tensor) -> Tensor:
    """Which of ``n`` rows are in the surroundings of which."""
    row = torch.arange(n, device=like.device)
    return ((row - row[:, None]).abs() <= SURROUNDINGS // 2).to(like)
