r"""Backbones: the trainable part of a denoiser.

A backbone maps features of the noisy source, ``(B, C, *shape)``, and the logarithm of the noise
scale, ``(B,)`` or one for all ``(1,)``, to one output of the source's shape. What the features are,
and how the output becomes an estimate of the clean source, is the denoiser's business
(`~astro_ddprism.diffusion.priors.denoiser`). A backbone may know in closed form what its Jacobian
does to vectors (`~astro_ddprism.diffusion.jacobian`), as that of `MLP` does; the others are
differentiated automatically.

A `Network` describes one: a new architecture is a frozen dataclass of its options that builds it,
registered by name in `NETWORKS`.
"""

__all__ = ["NETWORKS", "Network"]

import abc

from torch import nn

from ...registry import Part, Registry

#: Kinds of networks.
NETWORKS = Registry("network", "astro_ddprism.networks")


class Network(Part, abc.ABC):
    """A description of a backbone; its options are those of the dataclass."""

    registry = NETWORKS

    @abc.abstractmethod
    def build(self, shape: tuple[int, ...], n_features: int) -> nn.Module:
        """An untrained backbone.

        Parameters
        ----------
        shape : tuple of int
            Shape of the output: of a source, ``(bands, ny, nx)`` or ``(n,)``, or of several sources
            stacked along the bands.
        n_features : int
            Number of feature maps for each element of the output.

        Returns
        -------
        torch.nn.Module
            Maps features ``(B, n_features, *shape)`` and log noise scales to ``(B, *shape)``.
        """
