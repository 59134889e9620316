r"""The kernel that leads from the PSF of a source's frame to that of an image.

With the transforms of both responses (`astro_ddprism.psf`), the pixel's included, the kernel is

.. math:: \tilde K(\mathbf k) = (1 + \epsilon^2) \,
          \frac{\tilde P_\mathrm{image}(\mathbf k) \, \tilde P_\mathrm{frame}^*(\mathbf k)}
               {|\tilde P_\mathrm{frame}(\mathbf k)|^2 + \epsilon^2}

up to the Nyquist frequency of the frame's pixels, and zero beyond it, where the source has nothing
to say. The small number :math:`\epsilon` keeps it finite where the frame's PSF lets nothing pass;
the factor in front keeps the flux. Where the image's PSF lets nothing pass either, which for a
coarse image is most of the plane, the kernel is cut off.
"""

import numpy as np

from ..errors import InputError

__all__ = ["matching_kernels"]

_EPSILON = 3e-3
_NEGLIGIBLE = 1e-6  # part of the kernel's peak
_SAME = 4  # decimals to which axes agree that share a kernel
_LARGEST = 10.0


def matching_kernels(psfs, axes, frame, period, *, names=None):
    r"""Transforms of the kernels of every observation.

    Parameters
    ----------
    psfs : sequence of `~astro_ddprism.psf.PSF`
        Of each observation.
    axes : (N, 2, 2) `~numpy.ndarray`
        Axes of each observation's image: the steps in the frame, in its pixels, from one pixel to
        the next along x and y, as columns (`~astro_ddprism.frame.pixelmap.pixel_axes`).
    frame : `~astro_ddprism.frame.SourceFrame`
        The source's frame.
    period : tuple of int
        Points :math:`(P_y, P_x)` of the grid with the frame's pixels on which the kernels are
        needed.
    names : sequence of str, optional
        What messages call the observations.

    Returns
    -------
    transfer : (K, bands, 2 m_y + 1, m_x + 1) complex `~numpy.ndarray`
        The transforms at the wave numbers :math:`2 \pi j / P`, with
        :math:`j_y = 0 \dots m_y, -m_y \\dots -1` and :math:`j_x = 0 \dots m_x`: those that any
        kernel lets pass.
    index : (N,) int `~numpy.ndarray`
        Which of them is that of each observation. Observations with the same PSF whose axes agree
        to a ten-thousandth of a pixel share one.

    Raises
    ------
    InputError
        If the frame's PSF is much wider than that of an observation.
    """
    delta = frame.axes[0, 0]
    half = [(size - 1) // 2 for size in period]
    ky = 2 * np.pi / (period[0] * delta) * np.arange(-half[0], half[0] + 1)
    kx = 2 * np.pi / (period[1] * delta) * np.arange(half[1] + 1)
    inverse = np.ones((1, 1, 1))
    if frame.psf is not None:
        own = frame.psf.response(kx, ky, frame.axes)
        inverse = (1 + _EPSILON**2) * own.conj() / (np.abs(own) ** 2 + _EPSILON**2)
    unit = np.sqrt(np.abs(np.linalg.det(axes[0])))
    numbers, kernels, index = {}, [], []
    for i, (psf, steps) in enumerate(zip(psfs, axes, strict=True)):
        key = (id(psf), (np.round(steps / unit, _SAME) + 0.0).tobytes())
        if key not in numbers:
            numbers[key] = len(kernels)
            kernel = psf.response(kx, ky, steps * delta) * inverse
            if np.abs(kernel).max() > _LARGEST:
                raise InputError(
                    f"observation {i if names is None else names[i]}: its PSF is so much sharper "
                    "than that of the source's frame that some wave numbers would be amplified "
                    f"{np.abs(kernel).max():.3g} times, expected a frame with a narrower PSF"
                )
            kernels.append(_cut(kernel))
        index.append(numbers[key])
    return _stack(kernels), np.array(index)


def _cut(kernel):
    """The wave numbers that the kernel lets pass, with those along y still in ascending order."""
    size = np.abs(kernel).max(axis=0)
    passing = size > _NEGLIGIBLE * size.max()
    middle = len(size) // 2
    rows = np.abs(np.flatnonzero(passing.any(axis=1)) - middle).max()
    columns = np.flatnonzero(passing.any(axis=0)).max()
    return kernel[:, middle - rows : middle + rows + 1, : columns + 1]


def _stack(kernels):
    """All kernels in one array, with the wave numbers along y in the order of an FFT."""
    bands, rows, columns = np.max([kernel.shape for kernel in kernels], axis=0)
    stack = np.zeros((len(kernels), bands, rows, columns), dtype=complex)
    for place, kernel in zip(stack, kernels, strict=True):
        above = (rows - kernel.shape[1]) // 2
        place[:, above : above + kernel.shape[1], : kernel.shape[2]] = kernel
    return np.fft.ifftshift(stack, axes=-2)
