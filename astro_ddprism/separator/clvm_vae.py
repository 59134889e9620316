r"""Contrastive latent variable models as variational autoencoders.

Each source is decoded from a latent vector of its own by a network,
:math:`x^\beta = g^\beta(z^\beta)`, :math:`z^\beta \sim \mathcal{N}(0, I)`, and what an observation
tells of the latent vectors of all its sources is encoded by another, one for each set of sources
that views hold. Both are trained on all views together, by the evidence's lower bound [1]_

.. math:: \mathbb{E}_{q(z \mid y)} \Big[\log \mathcal{N}\Big(y \,\Big|\,
          \sum_\beta A^\beta g^\beta(z^\beta), \Sigma\Big)\Big]
          - \mathrm{KL}\big[q(z \mid y) \,\|\, \mathcal{N}(0, I)\big] ,

with the mixing operators in it: the decoder's light passes through them, and an encoder is shown
the observation carried back to each source, :math:`\tilde A^T \tilde y`, beside what it tells of
it, :math:`\tilde A^T \tilde A`, as a matrix for sources of a few numbers and else as the sum of
its rows.

References
----------
.. [1] Severson, Ghosh & Ng 2019, arXiv:1811.06094
.. [2] Wagner-Carena, Akhmetzhanova & Erickson 2025, arXiv:2510.05205 (with mixing operators)
"""

__all__ = ["VariationalCLVMSourceSeparator"]

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..diffusion.learning.training import Trainer, Training
from ..diffusion.observation import JointObservation
from ..diffusion.priors.mixture import have_few_features
from ..diffusion.random import seeded
from ..diffusion.sampling.chains import Draws
from ..errors import InputError
from ..registry import option
from .base import SourceSeparator
from .clvm import all_views, ranks_of, strengths
from .configured import SEPARATORS

# Logarithms of variances that an encoder may tell.
_LOG_VARIANCES = -20.0, 4.0


@SEPARATORS.register("clvm-vae")
@dataclass(eq=False)
class VariationalCLVMSourceSeparator(SourceSeparator):
    """Contrastive latent variable model of neural networks (Severson, Ghosh & Ng 2019).

    Draws are those of the encoder, decoded: they need not meet their observation as well as its
    noise asks for, and their chi-squared tells how well they do.

    Parameters
    ----------
    sources, device, execution, seed, progress
        See `~astro_ddprism.separator.base.SourceSeparator`.
    rank : int or dict of str to int
        Latent dimensions of each source; at most its number of features is used.
    width, depth : int
        Of the hidden layers of encoders and decoders.
    training : Training
        ``n_first_images`` observations.

    Attributes
    ----------
    sources_, source_shapes_, unit_, noise_scale_, training_, device_
        See `~astro_ddprism.separator.base.SourceSeparator`.
    """

    rank: int | dict[str, int] = option(5, least=1)
    width: int = option(256, least=1)
    depth: int = option(3, least=1)
    training: Training = option(Training())

    def _fit(self, task):
        views = dict.fromkeys(tuple(loader.sources) for loader in task.loaders.values())
        with seeded(self.seed, device=self.device_):
            scales = {source: scale for source, (_, scale) in strengths(task).items()}
            model = self._build(task.source_shapes, [*views], scales)
            trainer = Trainer(self.training, self.execution, task.track, "autoencoder")
            trainer.train(model, all_views(task.loaders), trainer.n_images(first=True))
        return model.requires_grad_(False)

    def _build(self, source_shapes, views, scales) -> "_Autoencoder":
        ranks = ranks_of(self.rank, source_shapes)
        model = _Autoencoder(source_shapes, views, scales, ranks, self.width, self.depth)
        return model.to(self.device_)

    @torch.no_grad()
    def _draw(self, state, loader, index, rows, track):
        x, chi2, size = [], [], self.execution.n_at_a_time
        for i in track(range(0, len(index), size)):
            observation = loader.observe(index[i : i + size])
            mean, log_variance = state.encode(observation)
            z = mean + (log_variance / 2).exp() * rows[i : i + size].normal(mean.shape[1])
            drawn = state.decode(loader.sources, z)
            x.append(drawn.cpu())
            chi2.append(observation.chi2(drawn).cpu())
        chi2 = torch.cat(chi2)
        return Draws(torch.cat(x), chi2, chi2.isfinite(), n_redrawn=0)

    @torch.no_grad()
    def _draw_prior(self, state, source, rows, track):
        size, rank = self.execution.n_at_a_time, state.ranks[source]
        batches = (rows[i : i + size] for i in track(range(0, len(rows), size)))
        return torch.cat([state.decode([source], some.normal(rank)).cpu() for some in batches])

    def _state_tree(self, state, *, draws):  # noqa: ARG002
        return {
            "views": [list(sources) for sources in state.views],
            "scales": dict(state.scales),
            "weights": {name: x.cpu().numpy() for name, x in state.state_dict().items()},
        }

    def _from_tree(self, tree, source_shapes):
        scales = {source: float(scale) for source, scale in tree["scales"].items()}
        model = self._build(source_shapes, [tuple(v) for v in tree["views"]], scales)
        model.load_state_dict({name: torch.tensor(x) for name, x in tree["weights"].items()})
        return model.requires_grad_(False)

    def _check_dataset(self, dataset):
        super()._check_dataset(dataset)
        ranks_of(self.rank, dataset.source_shapes)


class _Autoencoder(nn.Module):
    """An encoder for each set of sources that views hold, and a decoder for each source."""

    def __init__(self, source_shapes, views, scales, ranks, width: int, depth: int):
        super().__init__()
        self.sources, self.views = tuple(source_shapes), [tuple(view) for view in views]
        self.scales, self.ranks, hidden = scales, ranks, [width] * depth
        self.sizes = {s: torch.Size(shape).numel() for s, shape in source_shapes.items()}
        self.shapes = source_shapes
        self.encoders, self.decoders = nn.ModuleList(), nn.ModuleList()
        for view in self.views:
            size = sum(self.sizes[source] for source in view)
            few = have_few_features({source: source_shapes[source] for source in view})
            n_features = 2 * size + (size**2 if few else 0)
            self.encoders.append(
                _perceptron([n_features, *hidden, 2 * sum(ranks[s] for s in view)])
            )
        for source in self.sources:
            self.decoders.append(_perceptron([ranks[source], *hidden, self.sizes[source]]))

    def encode(self, observation: JointObservation) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of the latent vectors of all sources, ``(B, R)``."""
        held = tuple(observation.source_shapes)
        if held not in self.views:
            known = "; ".join(", ".join(view) for view in self.views)
            raise InputError(
                f"clvm-vae: found a view of {', '.join(held)}, expected the sources of one that it "
                f"was trained on: {known}"
            )
        code = self.encoders[self.views.index(held)](self._features(observation))
        mean, log_variance = code.chunk(2, dim=1)
        return mean, log_variance.clip(*_LOG_VARIANCES)

    def decode(self, sources, z: Tensor) -> Tensor:
        """Joint vectors ``(B, D)`` of some sources from their latent vectors ``(B, R)``."""
        parts = zip(sources, z.split([self.ranks[s] for s in sources], dim=1), strict=True)
        decoded = [self.scales[s] * self.decoders[self.sources.index(s)](part) for s, part in parts]
        return torch.cat(decoded, dim=1)

    def _features(self, observation: JointObservation) -> Tensor:
        sizes, y = observation.sizes, observation.y
        rows = [torch.block_diag(*(y.new_ones(1, size) for size in sizes))]
        few = have_few_features(observation.source_shapes)
        if few:
            rows.append(torch.eye(sum(sizes), device=y.device))
        probes = torch.cat(rows)
        products = [observation.adjoint(observation.forward(p.expand(len(y), -1))) for p in probes]
        told = torch.stack(products[: len(sizes)], dim=1) * rows[0]
        told, back = told.sum(dim=1).split(sizes, dim=1), observation.adjoint(y).split(sizes, dim=1)
        features = []
        for source, information, light in zip(observation.source_shapes, told, back, strict=True):
            gain = information.abs().mean(dim=1, keepdim=True).clip(min=1e-6)
            features += [light / gain / self.scales[source], information / gain]
        if few:
            matrix = torch.stack(products[len(sizes) :], dim=1)
            trace = matrix.diagonal(dim1=1, dim2=2).mean(dim=1)
            features.append((matrix / trace[:, None, None].clip(min=1e-6)).flatten(1))
        return torch.cat(features, dim=1)

    def loss(self, y: Tensor, t, z, observation) -> Tensor:  # noqa: ARG002
        """Minus the evidence's lower bound, of one latent draw, for each number: ``(B,)``."""
        mean, log_variance = self.encode(observation)
        code = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        x = self.decode(tuple(observation.source_shapes), code)
        seen = observation.at(x.detach())
        misfit = (seen.y - seen.forward(x)).square().sum(dim=1)
        divergence = (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1)
        return 0.5 * (misfit + divergence) / y.shape[1]


def _perceptron(sizes) -> nn.Sequential:
    layers = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.LayerNorm(b), nn.SiLU()]
    return nn.Sequential(*layers[:-2])
