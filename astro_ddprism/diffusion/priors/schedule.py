"""The noise scales that chains run through."""

__all__ = ["NoiseSchedule", "host_time", "known", "time_of"]

from dataclasses import dataclass

import torch
from azula.noise import VESchedule
from torch import Tensor

from ...errors import InputError
from ...registry import Part, option

# Noise that outweighs a source, in units of the root mean square of its prior.
OUTWEIGHING = 10


@dataclass(frozen=True)
class NoiseSchedule(Part):
    """Variance-exploding noise, uniform in its logarithm.

    Parameters
    ----------
    sigma_min, sigma_max : float
        Its range, in units of the noise of the observations. ``sigma_max`` grows to ten times the
        root mean square of a source where that is more.
    """

    sigma_min: float = option(0.1, above=0)
    sigma_max: float = option(100.0, above=0)

    def __post_init__(self):
        super().__post_init__()
        if self.sigma_min >= self.sigma_max:
            raise InputError(
                f"NoiseSchedule: found sigma_min {self.sigma_min:g} and sigma_max "
                f"{self.sigma_max:g}, expected sigma_min < sigma_max"
            )

    def top(self, rms: float) -> float:
        """The largest noise scale of a source of a root mean square."""
        return max(self.sigma_max, OUTWEIGHING * rms)

    def build(self, top: float) -> VESchedule:
        """The schedule up to a noise scale."""
        return VESchedule(self.sigma_min, top)


def time_of(value: float, device: torch.device) -> Tensor:
    """A time on a device, of shape ``()``, which the host knows without asking (`host_time`)."""
    return known(torch.full((), value, dtype=torch.float32, device=device), value)


def known(t: Tensor, value: float) -> Tensor:
    """A time whose value the host knows."""
    t.on_host = float(value)
    return t


def host_time(t: Tensor) -> float:
    """The time on the host, which waits for the device unless it comes from `time_of`."""
    on_host = getattr(t, "on_host", None)
    return float(t) if on_host is None else on_host
