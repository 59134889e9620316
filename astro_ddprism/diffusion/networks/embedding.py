"""How networks are told the noise scale."""

from azula.nn.layers import SineEncoding
from torch import nn

__all__ = []


def _noise_embedding(features: int) -> nn.Module:
    return nn.Sequential(
        SineEncoding(features, omega=1e2), nn.Linear(features, features), nn.SiLU()
    )
