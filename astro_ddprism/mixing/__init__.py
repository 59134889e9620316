r"""Mixing operators :math:`A` and noise covariances :math:`\Sigma`, in torch.

What is here says how a view holds its sources:

.. math:: y_i = \sum_\beta A_i^\beta x_i^\beta + \eta_i, \qquad \eta_i \sim \mathcal{N}(0, \Sigma_i)
"""

from .base import MixingOperator, operator_from_state
from .composition import Composition
from .convolution import Convolution
from .dense import DenseMatrix
from .diagonal import Amplitude, Identity, Mask
from .noise import DiagonalNoise

__all__ = [
    "Amplitude",
    "Composition",
    "Convolution",
    "DenseMatrix",
    "DiagonalNoise",
    "Identity",
    "Mask",
    "MixingOperator",
    "operator_from_state",
]
