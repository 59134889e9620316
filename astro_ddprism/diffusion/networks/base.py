r"""Backbones: the trainable part of a denoiser.

A backbone maps features of the noisy source, ``(B, C, *shape)``, and the logarithm of the noise
scale, ``(B,)`` or one for all ``(1,)``, to one output of the source's shape. What the features are,
and how the output becomes an estimate of the clean source, is the denoiser's business
(`~astro_ddprism.diffusion.priors.denoiser`). A backbone may know in closed form what its Jacobian does to
vectors, as `MLP` does; the others are differentiated automatically.
"""

from .mlp import MLP
from .unet import UNet

__all__ = ["BACKBONES"]

#: Backbones by name.
BACKBONES = {"unet": UNet, "mlp": MLP}
