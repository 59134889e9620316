r"""The linear map from a source's pixels to an observed image's pixels.

Observation :math:`i` of a view holds its sources through

.. math:: y_i = \sum_\beta A_i^\beta x_i^\beta + \eta_i

Each :math:`A^\beta` is a `MixingOperator`. It acts on a batch with one observation per row, and its
matrix is never formed: all that posterior sampling needs are products :math:`A x` and
:math:`A^\top y`. An operator holds either one map that all observations share
(``n_observations is None``) or one map per observation, and ``operator[index]`` is the operator of
the observations of a mini-batch.

A new operator is a subclass in a module of its own. It says its shapes, ``_apply``,
``_apply_adjoint`` and ``state``, and names its tensors in ``_tensors``; selection, moving between
devices and storage follow from these. Subclasses are found by their class name, which no other
operator may have; those of other packages through the entry points ``astro_ddprism.operators``
(`~astro_ddprism.registry.Registry`).
"""

import abc
import copy
import warnings
from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import torch

from ..io.mapped import is_mapped
from ..registry import Registry

__all__ = ["OPERATORS", "MixingOperator", "operator_from_state"]

OPERATORS = Registry("mixing operator", entry_points="astro_ddprism.operators")
"""The mixing operators, by the names that files give them."""


class MixingOperator(abc.ABC):
    """One linear map per observation, or one for all, with its exact adjoint.

    Attributes
    ----------
    source_shape : tuple of int
        Shape of one source, without the batch axis.
    observation_shape : tuple of int
        Shape of one observation, without the batch axis.
    before_psf : bool
        Whether the source is light before a point spread function, which the operator applies.
    own_pixels : bool
        Whether the source has pixels of its own, however many: those of the observation lie
        elsewhere in it.
    """

    source_shape: tuple[int, ...]
    observation_shape: tuple[int, ...]
    before_psf: bool = False
    own_pixels: bool = False

    # Names of the tensor attributes; where the operator is not shared, their first axis is that of
    # the observations.
    _tensors: ClassVar[tuple[str, ...]] = ()
    # Names of the cached properties that follow from the tensors.
    _derived: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        OPERATORS.register()(cls)

    @property
    @abc.abstractmethod
    def n_observations(self) -> int | None:
        """Number of observations, or None where all observations share one map."""

    @abc.abstractmethod
    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        """A x, for x of a checked shape."""

    @abc.abstractmethod
    def _apply_adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """A^T y, for y of a checked shape."""

    @abc.abstractmethod
    def state(self) -> dict:
        """Plain arrays, numbers and lists from which `operator_from_state` rebuilds the operator.

        Returns
        -------
        state : dict
            The class name under ``"operator"`` and the arguments of the constructor.
        """

    @classmethod
    def from_state(cls, state: Mapping) -> Self:
        """Build the operator from what `state` returned.

        Parameters
        ----------
        state : mapping
            Arguments of the constructor; arrays keep their floating-point precision.

        Returns
        -------
        operator : MixingOperator
        """
        return cls(**{key: value for key, value in state.items() if key != "operator"})

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map sources to observations.

        Parameters
        ----------
        x : Tensor, shape (B, *source_shape)
            One source for each observation. ``B`` is `n_observations`, or any number where the
            operator is shared.

        Returns
        -------
        y : Tensor, shape (B, *observation_shape)

        Raises
        ------
        ValueError
            If ``x`` has another shape.
        """
        self._check(x, self.source_shape, "source")
        return self._apply(x)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """Map observations to sources by the transposed matrices.

        Parameters
        ----------
        y : Tensor, shape (B, *observation_shape)

        Returns
        -------
        x : Tensor, shape (B, *source_shape)

        Raises
        ------
        ValueError
            If ``y`` has another shape.
        """
        self._check(y, self.observation_shape, "observation")
        return self._apply_adjoint(y)

    def __getitem__(self, index) -> "MixingOperator":
        """The operator of some observations.

        Parameters
        ----------
        index : int, slice, array of int or bool, LongTensor
            Which observations; repeats are allowed.

        Returns
        -------
        operator : MixingOperator
            The operator itself where it is shared.
        """
        if self.n_observations is None:
            return self
        return self._map(lambda tensor: select(tensor, index))

    def to(self, device=None, dtype: torch.dtype | None = None) -> "MixingOperator":
        """Copy the operator to another device or floating-point type.

        Parameters
        ----------
        device : torch.device or str, optional
        dtype : torch.dtype, optional

        Returns
        -------
        operator : MixingOperator
        """
        return self._map(lambda tensor: move(tensor, device, dtype))

    def _map(self, function) -> Self:
        """A copy of this operator with ``function`` applied to each of its tensors."""
        new = copy.copy(self)
        for name in self._tensors:
            setattr(new, name, function(getattr(self, name)))
        for name in self._derived:
            new.__dict__.pop(name, None)
        return new

    def _check(self, tensor: torch.Tensor, shape: tuple[int, ...], what: str):
        # Without this, N amplitudes or N kernels would silently broadcast over a batch of one.
        n = self.n_observations
        if tuple(tensor.shape[1:]) != shape or n not in (None, tensor.shape[0]):
            batch = "B" if n is None else n
            expected = ", ".join(str(size) for size in (batch, *shape))
            raise ValueError(
                f"{type(self).__name__}: {what} has shape {tuple(tensor.shape)}, "
                f"expected ({expected})"
            )

    def __repr__(self):
        n = "shared" if self.n_observations is None else f"{self.n_observations} observations"
        return f"<{type(self).__name__} {self.source_shape} -> {self.observation_shape}, {n}>"


def operator_from_state(state: Mapping) -> MixingOperator:
    """Build a mixing operator from its stored state.

    Parameters
    ----------
    state : mapping
        What `MixingOperator.state` returned.

    Returns
    -------
    operator : MixingOperator
        Of the class that ``state["operator"]`` names.

    Raises
    ------
    InputError
        If no class of that name is known, or its package cannot be imported.

    Examples
    --------
    >>> from astro_ddprism.mixing import Identity, operator_from_state
    >>> operator_from_state(Identity((1, 32, 32)).state())
    <Identity (1, 32, 32) -> (1, 32, 32), shared>
    """
    return OPERATORS[state.get("operator")].from_state(state)


_TYPES = {np.dtype("f4"): torch.float32, np.dtype("f8"): torch.float64}


def as_tensor(values, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A tensor of an array: of ``dtype``, else of a tensor's own floating-point type or float32."""
    if isinstance(values, torch.Tensor):
        own = values.dtype if values.is_floating_point() else torch.float32
        return values.to(dtype=own if dtype is None else dtype)
    values = np.asarray(values)
    if dtype in (None, _TYPES.get(values.dtype)) and is_mapped(values):
        with warnings.catch_warnings():  # of an array in a file, which nobody writes to
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(values).to(torch.float32 if dtype is None else dtype)
    if not values.dtype.isnative or not values.flags.writeable:
        # FITS arrays are big-endian, and memory-mapped ones read-only: torch takes neither.
        values = values.astype(values.dtype.newbyteorder("="))
    return torch.as_tensor(values, dtype=torch.float32 if dtype is None else dtype)


def as_shape(shape) -> tuple[int, ...]:
    """A shape of plain integers, as ASDF stores and compares them."""
    return tuple(int(size) for size in shape)


def move(tensor: torch.Tensor, device, dtype) -> torch.Tensor:
    """Copy a tensor to a device, and to ``dtype`` where it is a floating-point one."""
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else tensor.dtype)


def select(tensor: torch.Tensor, index) -> torch.Tensor:
    """Rows of a tensor, by any index that NumPy takes; the leading axis stays."""
    if isinstance(index, slice):
        index = np.arange(len(tensor))[index]
    if isinstance(index, np.ndarray):
        index = index.copy()  # torch takes no negative strides
    return tensor[torch.atleast_1d(torch.as_tensor(index, device=tensor.device))]


def array_dtype(array) -> torch.dtype:
    """The torch type of a stored floating-point array."""
    return torch.float64 if np.asarray(array).dtype.itemsize == 8 else torch.float32
