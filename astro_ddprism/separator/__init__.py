"""Estimators: learn the priors of sources from views, and separate observations."""

from . import parts
from .base import SourceSeparator
from .clvm import LinearCLVMSourceSeparator
from .clvm_vae import VariationalCLVMSourceSeparator
from .configured import SEPARATORS
from .diffusion import DiffusionSourceSeparator
from .gaussian import GaussianSourceSeparator
from .pcpca import PCPCASourceSeparator

__all__ = [
    "SEPARATORS",
    "DiffusionSourceSeparator",
    "GaussianSourceSeparator",
    "LinearCLVMSourceSeparator",
    "PCPCASourceSeparator",
    "SourceSeparator",
    "VariationalCLVMSourceSeparator",
    "parts",
]
