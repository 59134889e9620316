"""Estimators: learn the priors of sources from views, and separate observations."""

from . import parts
from .base import SourceSeparator
from .configured import SEPARATORS
from .diffusion import DiffusionSourceSeparator
from .gaussian import GaussianSourceSeparator

__all__ = [
    "SEPARATORS",
    "DiffusionSourceSeparator",
    "GaussianSourceSeparator",
    "SourceSeparator",
    "parts",
]
