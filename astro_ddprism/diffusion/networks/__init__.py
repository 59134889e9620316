"""Backbones of denoisers."""

from .base import NETWORKS, Network
from .mlp import MLP
from .unet import UNet

__all__ = ["MLP", "NETWORKS", "Network", "UNet"]
