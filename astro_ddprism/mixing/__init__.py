r"""Mixing operators :math:`A` and noise covariances :math:`\Sigma`, in torch.

What is here says how a view holds its sources:

.. math:: y_i = \sum_\beta A_i^\beta x_i^\beta + \eta_i, \qquad \eta_i \sim \mathcal{N}(0, \Sigma_i)
"""

from .bands import Bands
from .base import OPERATORS, MixingOperator, operator_from_state
from .composition import Composition
from .convolution import Convolution
from .correlated import CorrelatedNoise
from .dense import DenseMatrix
from .diagonal import Amplitude, Identity, Mask
from .instrument import instrument_operator
from .interpolation import Interpolation
from .lowrank import LowRankNoise
from .noise import DiagonalNoise, Noise, noise_from_state
from .photon import PhotonNoise
from .resampling import Resampling

__all__ = [
    "OPERATORS",
    "Amplitude",
    "Bands",
    "Composition",
    "Convolution",
    "CorrelatedNoise",
    "DenseMatrix",
    "DiagonalNoise",
    "Identity",
    "Interpolation",
    "LowRankNoise",
    "Mask",
    "MixingOperator",
    "Noise",
    "PhotonNoise",
    "Resampling",
    "instrument_operator",
    "noise_from_state",
    "operator_from_state",
]
