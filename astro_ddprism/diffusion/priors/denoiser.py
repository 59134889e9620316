r"""The denoiser of one source: :math:`\mathbb{E}[x \mid x_\sigma]` of :math:`x + \sigma z`.

Light adds in linear flux, so the diffusion runs in linear flux too, in units of the image's noise,
over a range of values from below 1 to thousands. The preconditioning of Karras et al. (2022, EDM,
equation 7)

.. math:: D(x_\sigma, \sigma) = c_\mathrm{skip} x_\sigma + c_\mathrm{out} F(\dots), \quad
          c_\mathrm{skip} = \frac{m^2}{m^2 + \sigma^2}, \quad
          c_\mathrm{out} = \frac{m \sigma}{\sqrt{m^2 + \sigma^2}}

asks the network for outputs of order one where the data have the scale :math:`m`. With one scale
for all pixels, a star a hundred times brighter would ask for an output of a hundred. Here :math:`m`
is a function of the noisy pixel: the data scale :math:`s` where the pixel is lost in the noise, the
pixel's own value where it stands out of it,

.. math:: m^2 = s^2 + x_\sigma^2 \, \frac{r^4}{1 + r^4}, \qquad r = (x_\sigma / 4 \sigma)^2 .

The loss of a pixel is weighted by :math:`c_\mathrm{out}^{-2}`, a function of :math:`x_\sigma` and
never of :math:`x`, so the minimizer is the same posterior mean. The network reads each pixel twice,
linear and compressed: :math:`x_\sigma / \sqrt{\sigma^2 + s^2}` and
:math:`\mathrm{asinh}(x_\sigma / (\sigma + 1/2))`.
"""

__all__ = ["ExtendedDenoiser", "SourceDenoiser"]

import math

import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import Schedule
from torch import Tensor, nn

from ..jacobian import linearize
from ..networks.embedding import compressed
from .schedule import host_time, known


class SourceDenoiser(Denoiser):
    """Denoiser of one source, with a trainable backbone.

    Parameters
    ----------
    backbone : torch.nn.Module
        Maps features ``(B, 2, *shape)`` and log noise scales, ``(B,)`` or one for all ``(1,)``, to
        ``(B, *shape)``.
    schedule : azula.noise.Schedule
        A variance-exploding schedule.
    data_scale : float
        Typical root mean square of the source, in units of the noise.
    """

    n_features = 2

    def __init__(self, backbone: nn.Module, schedule: Schedule, data_scale: float):
        super().__init__()
        self.backbone = backbone
        self.schedule = schedule
        self.register_buffer("data_scale", torch.tensor(float(data_scale)))

    def _precondition(self, x_t: Tensor, sigma: Tensor):
        """The estimate without the network, and the scale of what the network adds to it."""
        s2, sigma2 = self.data_scale**2, sigma**2
        x2 = x_t.square()
        r4 = (x2 / (16 * sigma2)).square().square()
        m2 = s2 + x2 * (1 - 1 / (1 + r4))
        total = m2 + sigma2
        return m2 / total * x_t, (m2 * sigma2 / total).sqrt()

    def _precondition_slopes(self, x_t: Tensor, sigma: Tensor):
        """The derivatives of both by the noisy pixel."""
        s2, sigma2 = self.data_scale**2, sigma**2
        x2 = x_t.square()
        hidden = 1 / (1 + (x2 / (16 * sigma2)).square().square())  # 1 / (1 + r^4)
        m2 = s2 + x2 * (1 - hidden)
        total = m2 + sigma2
        m2_slope = 2 * x_t * (1 - hidden) * (1 + 4 * hidden)
        skip_slope = m2_slope * sigma2 / total.square()  # of c_skip
        return m2 / total + x_t * skip_slope, skip_slope * (sigma2 * total / m2).sqrt() / 2

    def _inputs(self, x_t: Tensor, sigma: Tensor):
        """What the network reads: features, and the logarithm of the noise scale."""
        linear = x_t * torch.rsqrt(sigma**2 + self.data_scale**2)
        features = torch.stack([linear, compressed(x_t / (sigma + 0.5))], dim=1)
        dtype = next(self.backbone.parameters()).dtype
        return features.to(dtype), sigma.flatten().log().to(dtype)

    def _output(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        return self.backbone(*self._inputs(x_t, sigma)).to(x_t)

    def _linearize_output(self, x_t: Tensor, sigma: Tensor):
        features, log_sigma = self._inputs(x_t, sigma)
        output, backbone_pullback = linearize(self.backbone, features, log_sigma)
        linear = torch.rsqrt(sigma**2 + self.data_scale**2)
        compressed = torch.rsqrt(x_t.square() + (sigma + 0.5) ** 2)

        def pullback(v):
            products = backbone_pullback(v.to(features)).to(v)
            return linear * products[:, :, 0] + compressed * products[:, :, 1]

        return output.to(x_t), pullback

    def forward(self, x_t: Tensor, t: Tensor, **kwargs) -> DiracPosterior:  # noqa: ARG002
        """Estimate the clean source.

        Parameters
        ----------
        x_t : torch.Tensor
            Noisy sources, of shape ``(B, *shape)``.
        t : torch.Tensor
            Time, of shape ``()`` or ``(B,)``.

        Returns
        -------
        azula.denoise.DiracPosterior
            Its ``mean`` is the estimate, of shape ``(B, *shape)``.
        """
        _, sigma = self.schedule(t)
        sigma = sigma.reshape(-1, *(1,) * (x_t.ndim - 1))
        skip, out = self._precondition(x_t, sigma)
        return DiracPosterior(mean=skip + out * self._output(x_t, sigma))

    def loss(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Weighted square error of every source, of shape ``(B,)``.

        Parameters
        ----------
        x : torch.Tensor
            Clean sources, of shape ``(B, *shape)``.
        t : torch.Tensor
            Times, of shape ``(B,)``.
        z : torch.Tensor
            Standard normal noise, of the shape of ``x``.
        """
        _, sigma = self.schedule(t)
        sigma = sigma.reshape(-1, *(1,) * (x.ndim - 1))
        x_t = x + sigma * z
        skip, out = self._precondition(x_t, sigma)
        target = (x - skip) / out
        return (self._output(x_t, sigma) - target).square().flatten(1).mean(dim=1)


class ExtendedDenoiser(Denoiser):
    """A denoiser of a source on a schedule whose top is beyond that of its own.

    A joint chain has one noise schedule, up to where the strongest of its sources is lost in the
    noise; a network has never seen more noise than its own source needs. Beyond, the source cannot
    be told from a Gaussian.

    Parameters
    ----------
    denoiser : azula.denoise.Denoiser
        The denoiser, of a variance-exploding schedule.
    gaussian : azula.denoise.Denoiser
        That of a Gaussian, on the longer schedule.
    """

    def __init__(self, denoiser: Denoiser, gaussian: Denoiser):
        super().__init__()
        self.denoiser, self.gaussian, self.schedule = denoiser, gaussian, gaussian.schedule

    def at(self, t: Tensor):
        """Which denoiser knows the noise scale of a time, of shape ``()``, and its time of it."""
        own, mine = self.denoiser.schedule, self.schedule
        range_ = math.log(own.sigma_max / own.sigma_min)
        start = math.log(mine.sigma_min / own.sigma_min) / range_
        slope = math.log(mine.sigma_max / mine.sigma_min) / range_
        if start + slope * host_time(t) > 1 + 1e-6:  # the top itself, but for rounding, is known
            return self.gaussian, t
        return self.denoiser, known(start + slope * t, start + slope * host_time(t))

    def phase(self, t: Tensor) -> bool:
        """Whether a time is beyond the network's own noise scales."""
        return self.at(t)[0] is self.gaussian

    def forward(self, x_t: Tensor, t: Tensor, **kwargs) -> DiracPosterior:  # noqa: ARG002
        """Estimate the clean source of ``x_t``, of shape ``(B, *shape)``."""
        denoiser, t = self.at(t)
        return denoiser(x_t, t)


@linearize.register
def _(denoiser: ExtendedDenoiser, x_t, t):
    chosen, t = denoiser.at(t)
    return linearize(chosen, x_t, t)


@linearize.register
@torch.no_grad()
def _(denoiser: SourceDenoiser, x_t, t):
    if type(denoiser) is not SourceDenoiser:  # a subclass may precondition otherwise
        return linearize.dispatch(Denoiser)(denoiser, x_t, t)
    _, sigma = denoiser.schedule(t)
    sigma = sigma.reshape(-1, *(1,) * (x_t.ndim - 1))
    skip, out = denoiser._precondition(x_t, sigma)
    skip_slope, out_slope = denoiser._precondition_slopes(x_t, sigma)
    output, output_pullback = denoiser._linearize_output(x_t, sigma)
    slope = skip_slope + out_slope * output

    def pullback(v):
        return slope * v + output_pullback(out * v)

    return skip + out * output, pullback
