"""Where and how to compute: devices, precision, batches."""

__all__ = ["Execution"]

from dataclasses import dataclass
from functools import cached_property

import torch

from ..errors import InputError
from ..registry import Part, option

# Observations at a time where the user does not tell.
BATCH_SIZE = 128


@dataclass(frozen=True)
class Execution(Part):
    """Where and how to compute. Nothing of it changes what is learned, beyond rounding.

    Parameters
    ----------
    device : str
        ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
    precision : str
        ``"float32"``, or ``"bfloat16"`` for the networks' arithmetic.
    batch_size : int, optional
        Observations that are worked on at a time; memory grows with it. By default 128.
    """

    device: str = "auto"
    precision: str = option("float32", choices=("float32", "bfloat16"))
    batch_size: int | None = option(None, least=1)

    @cached_property
    def torch_device(self) -> torch.device:
        """The device.

        Raises
        ------
        InputError
            If this machine does not have it.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.zeros((), device=device).item()
        except (RuntimeError, AssertionError, ImportError) as error:
            raise InputError(
                f"device: found {self.device!r}, which this machine or torch does not have; "
                "expected auto, cpu, cuda, ..."
            ) from error
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the networks' arithmetic."""
        return getattr(torch, self.precision)

    @property
    def n_at_a_time(self) -> int:
        """Observations that are worked on at a time."""
        return self.batch_size or BATCH_SIZE
