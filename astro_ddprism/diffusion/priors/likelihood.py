r"""The density of a source under its diffusion prior, by the probability flow.

Perturbed sources :math:`x_\sigma = x + \sigma z` have, at every noise scale, the distribution of
the solutions of an ordinary differential equation (Song et al. 2021). For a variance-exploding
schedule and in :math:`\lambda = \log \sigma` it reads

.. math:: \frac{\mathrm{d} x_\sigma}{\mathrm{d} \lambda} = x_\sigma - D(x_\sigma, \sigma), \qquad
          D(x_\sigma, \sigma) = \mathbb{E}[x \mid x_\sigma] ,

whose divergence is :math:`n - \mathrm{tr}\, \partial D / \partial x_\sigma` in :math:`n`
dimensions, so that along a solution (equation 39 there)

.. math:: \log p_{\sigma_\min}(x) = \log p_{\sigma_\max}(x_{\sigma_\max})
          + \int_{\log \sigma_\min}^{\log \sigma_\max}
          \left( n - \mathrm{tr}\, \frac{\partial D}{\partial x_\sigma} \right) \mathrm{d} \lambda .

At :math:`\sigma_\max` noise outweighs the source, and the density is close to a Gaussian with the
moments of the source and the noise.

The path is followed by the classical Runge-Kutta method. The divergence does not act back on the
path: it is needed only once a step, and Gregory's end corrections make the sum over steps a
quadrature of fourth order as well. One step costs four forward passes and one vector-Jacobian
product for each probe. At the same number of passes it is more accurate than Heun's method by two
orders of magnitude on a mixture of Gaussians of very different widths.

References
----------
.. [1] Song et al. 2021, arXiv:2011.13456 (probability flow)
.. [2] Hutchinson 1990, Communications in Statistics 19, 433 (trace)
"""

__all__ = ["log_prob"]

import math

import torch
from azula.denoise import Denoiser
from torch import Tensor

from ...errors import InputError
from .gaussian import GaussianPrior

#: Dimensions up to which the trace is exact, and probes beyond, unless told otherwise.
_EXACT_SIZE, _N_PROBES = 32, 4
#: Weights of the first nodes, and mirrored of the last, in Gregory's quadrature of fourth order.
_END_WEIGHTS = (3 / 8, 7 / 6, 23 / 24)


@torch.no_grad()
def log_prob(
    denoiser: Denoiser,
    x: Tensor,
    terminal: GaussianPrior,
    *,
    n_steps: int = 64,
    n_probes: int | None = None,
    batch_size: int = 64,
    track=iter,
) -> tuple[Tensor, Tensor]:
    r"""Logarithm of the density of sources under their diffusion prior.

    It is the density at the *small end of the noise schedule*, :math:`p_{\sigma_\min}`: that of the
    source plus Gaussian noise of standard deviation :math:`\sigma_\min` in every pixel. A denoiser
    knows its prior no better than that, and a prior on a thin manifold has no density but a
    perturbed one. Give ``x`` as the prior's samplers do, at the end of their schedule, or perturb
    it.

    Parameters
    ----------
    denoiser : azula.denoise.Denoiser
        The prior, with a variance-exploding schedule.
    x : torch.Tensor
        Sources, of shape ``(B, *shape)``, on any device: they move to that of ``terminal``. The
        denoiser is evaluated in their precision; paths and sums are kept in float64.
    terminal : GaussianPrior
        Moments of the source, in the order of ``x.flatten(1)``. The density at the large end of the
        schedule is :math:`\mathcal{N}(\mu, \mathbb{E}[s^2] W W^T + \sigma_\max^2 I)`.
    n_steps : int
        Steps from one end of the schedule to the other, uniform in time; at least 5.
    n_probes : int, optional
        Random vectors for Hutchinson's estimate of the trace, at least 2, drawn anew at every step.
        A source of at most as many dimensions gets its trace exactly, from that many basis vectors.
        By default the trace is exact up to 32 dimensions, and estimated from 4 probes beyond.
    batch_size : int
        Sources side by side; memory grows with it and not with their number.
    track : callable
        Wraps an iterable of known length in a progress bar.

    Returns
    -------
    log_prob : torch.Tensor
        Log-densities in nats, in float64, of shape ``(B,)``.
    standard_error : torch.Tensor
        Their standard errors for the random trace, of shape ``(B,)``; 0 where the trace is exact.
        The errors of the denoiser itself are not in them.

    Raises
    ------
    InputError
        If there are too few steps or probes.

    Examples
    --------
    >>> import torch
    >>> from azula.denoise import GaussianDenoiser
    >>> from azula.linalg.covariance import IsotropicCovariance
    >>> from azula.noise import VESchedule
    >>> from astro_ddprism.diffusion.priors.gaussian import GaussianPrior
    >>> prior = GaussianPrior(torch.zeros(2), 3 * torch.eye(2))
    >>> covariance = IsotropicCovariance(torch.tensor(9.0))
    >>> denoiser = GaussianDenoiser(prior.mean, covariance, VESchedule(0.01, 100.0))
    >>> value, error = log_prob(denoiser, torch.zeros(1, 2), prior)
    >>> print(f"{value.item():.3f} +/- {error.item():.3f}")
    -4.035 +/- 0.000
    """
    size = math.prod(x.shape[1:])
    if n_probes is None:
        n_probes = size if size <= _EXACT_SIZE else _N_PROBES
    elif n_probes < 2:
        raise InputError(f"n_probes: found {n_probes}, expected at least 2")
    if n_steps < 5:
        raise InputError(f"n_steps: found {n_steps}, expected at least 5")
    device = terminal.mean.device
    flow = _ProbabilityFlow(denoiser, n_steps, n_probes, dtype=x.dtype, device=device)
    end = terminal.to(dtype=torch.float64)
    location, spread = end.log_scale
    # With the root mean square of a log-normal scale.
    end = GaussianPrior(end.mean, (location + spread.square()).exp() * end.factor)
    values, variances = [], []
    nodes = [(begin, i) for begin in range(0, len(x), batch_size) for i in range(n_steps + 1)]
    for begin, i in track(nodes):
        if i == 0:
            path = x[begin : begin + batch_size].to(device, torch.float64)
            integral, variance = path.new_zeros(2, len(path))
        path, divergence, uncertainty = flow.advance(path, i)
        integral = integral + divergence
        variance = variance + uncertainty
        if i == n_steps:
            values.append(integral + end.log_prob(path.flatten(1), flow.sigma_max))
            variances.append(variance)
    if not values:
        return torch.zeros(2, 0, dtype=torch.float64, device=device).unbind()
    return torch.cat(values), torch.cat(variances).sqrt()


class _ProbabilityFlow:
    """The nodes of a path from the small to the large end of the schedule."""

    def __init__(self, denoiser, n_steps: int, n_probes: int, *, dtype, device):
        self.denoiser, self.n_steps, self.n_probes, self.dtype = denoiser, n_steps, n_probes, dtype
        self.times = torch.linspace(0, 1, 2 * n_steps + 1, dtype=dtype, device=device)
        sigma = denoiser.schedule(self.times[[0, -1]])[1].double()
        self.sigma_max = sigma[1]
        self.step = (sigma[1] / sigma[0]).log() / n_steps

    def advance(self, x: Tensor, i: int):
        """The next node, and this one's share of the divergence with its variance."""
        mean, trace, variance = _mean_and_trace(
            self.denoiser, x.to(self.dtype), self.times[2 * i], self.n_probes
        )
        weight = self.step * _weight(i, self.n_steps)
        divergence = weight * (x[0].numel() - trace)
        if i < self.n_steps:
            x = self._runge_kutta(x, x - mean, i)
        return x, divergence, weight**2 * variance

    def _velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return x - self.denoiser(x.to(self.dtype), t).mean.double()

    def _runge_kutta(self, x: Tensor, k1: Tensor, i: int) -> Tensor:
        h, (middle, end) = self.step, self.times[2 * i + 1 : 2 * i + 3]
        k2 = self._velocity(x + h / 2 * k1, middle)
        k3 = self._velocity(x + h / 2 * k2, middle)
        k4 = self._velocity(x + h * k3, end)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _weight(i: int, n_steps: int) -> float:
    from_end = min(i, n_steps - i)
    return _END_WEIGHTS[from_end] if from_end < len(_END_WEIGHTS) else 1.0


def _mean_and_trace(denoiser, x: Tensor, t: Tensor, n_probes: int):
    """The denoiser's output, its Jacobian's trace, and the variance of that trace, in float64."""
    size = x[0].numel()
    exact = size <= n_probes
    products = []
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        mean = denoiser(x, t).mean
    for k in range(size if exact else n_probes):
        if exact:
            probe = torch.zeros_like(x).flatten(1)
            probe[:, k] = 1
        else:  # signs: of all probes with independent entries, they have the least variance
            probe = torch.randint(2, (len(x), size), device=x.device).to(x) * 2 - 1
        (product,) = torch.autograd.grad(mean, x, probe.view_as(x), retain_graph=True)
        products.append((probe.double() * product.flatten(1).double()).sum(dim=1))
    products, mean = torch.stack(products), mean.detach().double()
    if exact:
        return mean, products.sum(dim=0), torch.zeros_like(products[0])
    return mean, products.mean(dim=0), products.var(dim=0) / n_probes
