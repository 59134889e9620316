"""Diffusion priors, built from what describes them."""

__all__ = ["build_denoiser", "default_network"]

from azula.noise import VESchedule

from ..networks import MLP, Network, UNet
from .denoiser import SourceDenoiser
from .mixture import GaussianMixture, MixtureResidualDenoiser


def default_network(shape: tuple[int, ...]) -> Network:
    """The network of a prior where the user names none: a U-Net for images, else an MLP."""
    return UNet() if len(shape) == 3 else MLP()


def build_denoiser(
    network: Network,
    shape: tuple[int, ...],
    schedule: VESchedule,
    data_scale: float,
    mixture: GaussianMixture | None = None,
) -> SourceDenoiser:
    """An untrained denoiser of a source.

    Parameters
    ----------
    network : Network
        Describes its backbone.
    shape : tuple of int
        Shape of the source.
    schedule : azula.noise.VESchedule
        Its noise schedule.
    data_scale : float
        Typical root mean square of the source, in units of the noise.
    mixture : GaussianMixture, optional
        A prior of which the network learns what it leaves.
    """
    backbone = network.build(shape, SourceDenoiser.n_features)
    if mixture is None:
        return SourceDenoiser(backbone, schedule, data_scale)
    return MixtureResidualDenoiser(backbone, schedule, data_scale, mixture)
