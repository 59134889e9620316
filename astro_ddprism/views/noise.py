"""The noise of a view: the variance that an image tells, and the correlation of its pixels."""

import torch

from ..mixing import CorrelatedNoise

__all__ = ["noise_of"]


def noise_of(variance, autocorrelation):
    """The argument of a view that tells its noise.

    Parameters
    ----------
    variance : (N, bands, ny, nx) `~numpy.ndarray`
        Variance of every pixel; infinite at masked ones.
    autocorrelation : (bands, ky, kx) `~numpy.ndarray`, or None
        As from `autocorrelation_of`.

    Returns
    -------
    dict
        ``variance`` or ``noise``.
    """
    if autocorrelation is None:
        return {"variance": variance}
    # In float64 until there are no squares of faint fluxes any more.
    noise = CorrelatedNoise(variance, autocorrelation, dtype=torch.float64)
    return {"noise": noise.to(dtype=torch.float32)}
