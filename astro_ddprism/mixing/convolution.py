r"""Convolution with a point spread function (PSF) on the source's own pixel grid.

.. math:: y_p = \sum_q k_{p-q} x_q

for pixels :math:`p, q` of the image and a kernel :math:`k` with its origin at its central pixel:
light from outside the image is not there, and light that leaves the image is lost. With the
discrete Fourier transform :math:`F` of a grid that is larger than the image, zero padding
:math:`P` and cropping :math:`P^\top`,

.. math:: A = P^\top F^{-1} \operatorname{diag}(F k) F P, \qquad
          A^\top = P^\top F^{-1} \operatorname{diag}(\overline{F k}) F P

An image of :math:`n` pixels and a kernel of :math:`2h + 1` need a grid of at least :math:`n + h`
pixels: what wraps around then ends in the padding.
"""

import scipy.fft
import torch

from ..errors import InputError
from .base import MixingOperator, array_dtype, as_shape, as_tensor

__all__ = ["Convolution"]


class Convolution(MixingOperator):
    """A source as seen through a PSF, zero outside the image.

    Parameters
    ----------
    kernel : array_like, shape (ky, kx), (bands, ky, kx) or (N, bands, ky, kx)
        One PSF for all, one per band, or one per observation and band; of odd sizes and centred.
        An axis of bands may have length 1. For images without bands: (ky, kx) or (N, ky, kx).
    shape : tuple of int, (bands, ny, nx) or (ny, nx)
        Shape of one source and one observation.
    dtype : torch.dtype, optional
        float32 by default; a tensor keeps its own.

    Raises
    ------
    InputError
        If the kernel has another shape, an even size or values that are not finite.

    Notes
    -----
    The kernel need not sum to 1: its sum is a throughput.

    Examples
    --------
    >>> import torch
    >>> from astro_ddprism.mixing import Convolution
    >>> blur = Convolution([[0.25, 0.5, 0.25]], (1, 5))
    >>> blur(torch.tensor([[[1.0, 0.0, 0.0, 1.0, 0.0]]])).round(decimals=3)
    tensor([[[0.5000, 0.2500, 0.2500, 0.5000, 0.2500]]])
    """

    before_psf = True
    _tensors = ("kernel",)

    def __init__(self, kernel, shape, *, dtype=None):
        self.source_shape = self.observation_shape = as_shape(shape)
        self.kernel = as_tensor(kernel, dtype)
        self._check_kernel()
        size, height = self.source_shape[-2:], self.kernel.shape[-2:]
        self._grid = tuple(
            scipy.fft.next_fast_len(max(n + k // 2, k), real=True)
            for n, k in zip(size, height, strict=True)
        )
        self._transfer = None

    def _check_kernel(self):
        shape, found = self.source_shape, tuple(self.kernel.shape)
        if len(shape) not in (2, 3):
            raise InputError(f"shape: found {shape}, expected (bands, ny, nx) or (ny, nx)")
        # From right to left: the pixels, then the bands, then the observations.
        bands = found[:-2][-len(shape[:-2]) :] if len(shape) == 3 else ()
        if not 2 <= len(found) <= len(shape) + 1 or any(n not in (1, shape[0]) for n in bands):
            raise InputError(
                f"kernel: found shape {found}, expected (ky, kx), (bands, ky, kx) or "
                f"(N, bands, ky, kx) for images of shape {shape}"
            )
        if found[-1] % 2 == 0 or found[-2] % 2 == 0:
            raise InputError(
                f"kernel: found {found[-2]} x {found[-1]} pixels, expected odd sizes, so that one "
                "pixel is the centre"
            )
        if not torch.isfinite(self.kernel).all():
            raise InputError("kernel: found values that are not finite")

    @property
    def n_observations(self):
        """Number of kernels; None where all observations share one."""
        return len(self.kernel) if self.kernel.ndim > len(self.source_shape) else None

    @property
    def transfer(self) -> torch.Tensor:
        """Transform of the kernel on the padded grid.

        It is computed when first used, so that a view of many observations holds only the
        kernels, and a mini-batch its own transforms.
        """
        if self._transfer is None:
            ky, kx = self.kernel.shape[-2:]
            ly, lx = self._grid
            padded = torch.nn.functional.pad(self.kernel, (0, lx - kx, 0, ly - ky))
            self._transfer = torch.fft.rfft2(padded.roll((-(ky // 2), -(kx // 2)), dims=(-2, -1)))
        return self._transfer

    def _filter(self, image, transfer):
        ny, nx = self.source_shape[-2:]
        spectrum = transfer * torch.fft.rfft2(image, s=self._grid)
        return torch.fft.irfft2(spectrum, s=self._grid)[..., :ny, :nx]

    def _apply(self, x):
        return self._filter(x, self.transfer)

    def _apply_adjoint(self, y):
        return self._filter(y, self.transfer.conj())

    def _map(self, function):
        new = super()._map(function)
        new._transfer = None
        return new

    def state(self):
        """Arguments of the constructor, for `operator_from_state`."""
        return {
            "operator": "Convolution",
            "kernel": self.kernel.cpu().numpy(),
            "shape": list(self.source_shape),
        }

    @classmethod
    def from_state(cls, state):
        """Build the operator from what `state` returned."""
        return cls(state["kernel"], state["shape"], dtype=array_dtype(state["kernel"]))
