"""Mixing operators as users give them."""

from collections.abc import Mapping

import numpy as np
import torch

from ..errors import InputError
from ..mixing import OPERATORS, Amplitude, DenseMatrix, MixingOperator

__all__ = ["as_operator"]


def as_operator(value, shape, label) -> MixingOperator:
    """An operator for a matrix, an amplitude or a table; operators pass.

    Parameters
    ----------
    value : MixingOperator, array_like or mapping
        What was given.
    shape : tuple of int
        Shape of an observation.
    label : str
        What messages call it.

    Raises
    ------
    InputError
        If it is none of these, or does not fit.
    """
    if isinstance(value, MixingOperator):
        return value
    if isinstance(value, Mapping):
        return _named_operator(value, label)
    array = np.asarray(value)
    if array.ndim > 3 or array.dtype.kind not in "biuf":
        raise InputError(
            f"{label}: found an array of shape {array.shape} and type {array.dtype}, expected a "
            "MixingOperator, a matrix (m, n) or (N, m, n), or an amplitude"
        )
    dtype = torch.float64 if array.dtype == np.float64 else torch.float32
    try:
        if array.ndim < 2:
            return Amplitude(array, shape, dtype=dtype)
        return DenseMatrix(array, observation_shape=shape, dtype=dtype)
    except InputError as error:
        raise InputError(f"{label}: {error}") from error


def _named_operator(table, label) -> MixingOperator:
    options = dict(table)
    name = options.pop("name", None)
    if name is None:
        raise InputError(
            f"{label}: found a table without a name, expected one of {', '.join(OPERATORS)}"
        )
    try:
        return OPERATORS[name](**options)
    except InputError as error:
        raise InputError(f"{label}: {error}") from error
    except TypeError as error:  # arguments that it does not take
        raise InputError(f"{label}: {name}: {error}") from error
