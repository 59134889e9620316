r"""Positions and areas of an image's pixels in a source's frame, from Chebyshev coefficients.

.. math:: p(t_x, t_y) = \sum_{a, b} c_{ab} \, T_a(t_y) \, T_b(t_x), \qquad
          |J| = \left| \frac{\partial p}{\partial i} \right|

at the pixels :math:`i` of an image, as `~astro_ddprism.frame.pixelmap` fits them. What an operator
has to keep of each observation are the coefficients; positions are made when a mini-batch needs
them.
"""

import torch

__all__ = ["pixel_areas", "pixel_positions"]


def pixel_positions(coefficients, shape):
    """Positions of pixels in the source's frame.

    Parameters
    ----------
    coefficients : Tensor, shape (N, 2, n, n)
        As from `~astro_ddprism.frame.pixelmap.fit_pixel_maps`.
    shape : tuple of int
        ``(ny, nx)`` of the images.

    Returns
    -------
    positions : Tensor, shape (N, 2, ny, nx)
        Positions x and y, in the frame's pixels.
    """
    (ty, _), (tx, _) = (_polynomials(coefficients, size) for size in shape)
    return _sum(coefficients, ty, tx)


def pixel_areas(coefficients, shape):
    """Areas of pixels, in units of those of the source's frame.

    Parameters
    ----------
    coefficients : Tensor, shape (N, 2, n, n)
        As from `~astro_ddprism.frame.pixelmap.fit_pixel_maps`.
    shape : tuple of int
        ``(ny, nx)`` of the images.

    Returns
    -------
    areas : Tensor, shape (N, ny, nx)
    """
    (ty, dy), (tx, dx) = (_polynomials(coefficients, size) for size in shape)
    along_x, along_y = _sum(coefficients, ty, dx), _sum(coefficients, dy, tx)
    return (along_x[:, 0] * along_y[:, 1] - along_x[:, 1] * along_y[:, 0]).abs()


def _sum(coefficients, rows, columns):
    return torch.einsum("ncab,ya,xb->ncyx", coefficients, rows, columns)


def _polynomials(coefficients, size):
    """Chebyshev polynomials at the pixels of an axis, and their derivatives by the pixel."""
    n = coefficients.shape[-1]
    order = torch.arange(n, dtype=torch.float64, device=coefficients.device)
    pixel = torch.arange(size, dtype=torch.float64, device=coefficients.device)
    angle = torch.arccos((2 * pixel - (size - 1)) / size)[:, None]
    values = torch.cos(order * angle)
    slopes = order * torch.sin(order * angle) / torch.sin(angle) * (2 / size)
    return values.to(coefficients), slopes.to(coefficients)
