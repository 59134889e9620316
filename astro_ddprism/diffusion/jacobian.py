r"""Functions with products of their Jacobian: what joint posterior sampling asks of a denoiser.

To *linearize* a function :math:`f` at :math:`x` is to find its value and its pullback

.. math:: v \mapsto \left( \frac{\partial f}{\partial x} \right)^T v .

Automatic differentiation gives the pullback of any module, one vector after another, and keeps a
graph for it. Where vectors are many and modules small, most of the time goes into walking the
graph, so modules that know their derivative in closed form say so, and take all vectors at once:

.. code-block:: python

    @linearize.register
    def _(module: MyModule, x, *arguments):
        return value, pullback
"""

__all__ = ["linearize"]

from functools import singledispatch

import torch
from azula.denoise import Denoiser


@singledispatch
def linearize(function, x, *arguments):
    r"""Evaluate a function of a batch together with its pullback.

    Parameters
    ----------
    function : callable
        Maps ``x`` and further arguments to a tensor, or to an estimate if it is a denoiser; the
        elements of a batch must not act on each other.
    x : torch.Tensor
        Where, of shape ``(B, *shape)``.
    *arguments
        Further arguments, which are not differentiated.

    Returns
    -------
    value : torch.Tensor
        Of shape ``(B, *value_shape)``.
    pullback : callable
        Maps stacks of vectors, of shape ``(K, B, *value_shape)``, to ``(K, B, *shape)``.

    Examples
    --------
    >>> import torch
    >>> value, pullback = linearize(torch.square, torch.tensor([[1.0, 2.0, 3.0]]))
    >>> value
    tensor([[1., 4., 9.]])
    >>> pullback(torch.ones(2, 1, 3))
    tensor([[[2., 4., 6.]],
    <BLANKLINE>
            [[2., 4., 6.]]])
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        value = function(x, *arguments)

    def pullback(v):
        products = [torch.autograd.grad(value, x, each, retain_graph=True)[0] for each in v]
        return torch.stack(products)

    return value.detach(), pullback


@linearize.register
def _(denoiser: Denoiser, x, t):
    return linearize(lambda x_t: denoiser(x_t, t).mean, x)
