"""How networks are told the noise scale."""

from azula.nn.layers import SineEncoding
from torch import nn

__all__ = ["noise_embedding"]


def noise_embedding(features: int) -> nn.Module:
    """Features of the logarithm of a noise scale: sines, and a layer on top."""
    return nn.Sequential(
        SineEncoding(features, omega=1e2), nn.Linear(features, features), nn.SiLU()
    )
