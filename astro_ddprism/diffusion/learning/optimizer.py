r"""How weights move against the gradient of a loss.

The weights of a convolution, as a matrix of its first axis against all others, move by Muon
(K. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; scaled as by J. Liu et al. 2025,
arXiv:2502.16982):

.. math::

    M \leftarrow \mu M + (1 - \mu) G , \qquad
    W \leftarrow W - 0.4\, \eta \sqrt{\max(m, n)} \;
    \operatorname{orth}\bigl(\mu M + (1 - \mu) G\bigr) ,

with the gradient :math:`G`, the learning rate :math:`\eta`, the shape :math:`m \times n`, and
:math:`\operatorname{orth}(U S V^T) = U V^T` to a few tenths, of five Newton-Schulz iterations.
Every direction in which a matrix can move gets its share of a step, where a gradient by itself is
nearly of one direction. All other weights, and matrices with a side of less than 16, move by AdamW:
those of perceptrons too, for which the iterations cost more than a step and gained nothing.

Torch's own ``torch.optim.Muon`` takes one matrix at a time, two axes alone, works in bfloat16,
which processors without such units emulate, and has a number for its rate, which a CUDA graph
would freeze: hence this one, for all matrices of a shape at once. What it gains is on the page
:doc:`performance`.
"""

__all__ = ["Optimizer", "orthogonalized", "weights_of"]

import itertools
import math

import torch
from torch import Tensor, nn

# Sides of the smallest matrices that are moved as such: others have too few directions.
LEAST_SIDE = 16
# How much of the average of gradients stays from one step to the next.
MOMENTUM = 0.9
# Root mean square of a step in units of the rate: twice what AdamW's steps have once it has gone on
# for a while.
RMS = 0.4
# a, b and c of x -> a x + b x^3 + c x^5, which takes singular values from 0.01 to 1 near to 1 in
# five iterations (K. Jordan et al. 2024).
QUINTIC = 3.4445, -4.7750, 2.0315
N_ITERATIONS = 5


class Optimizer:
    """Moves weights that are parts of one tensor, as their gradients are of another.

    Parameters
    ----------
    matrices, others : list of tuple of torch.Tensor
        The weights of either kind that `weights_of` finds, in its order, each with its gradient.
    rate : torch.Tensor
        The learning rate, of shape ``()``.
    """

    def __init__(self, matrices, others, rate: Tensor):
        self.rate = rate
        self._matrices = []
        for _, own in itertools.groupby(matrices, lambda pair: _sides(pair[0])):
            weights, gradients = map(_stacked, zip(*own, strict=True))
            self._matrices.append((weights, gradients, torch.zeros_like(weights)))
        self._others = None
        if others:
            rest, gradient = map(_joined, zip(*others, strict=True))
            rest.grad = gradient
            self._others = torch.optim.AdamW(
                [rest],
                lr=rate,
                betas=(0.9, 0.99),
                weight_decay=0.0,
                fused=True,
                capturable=rest.device.type == "cuda",
            )

    @torch.no_grad()
    def step(self):
        """Take a step."""
        for weights, gradients, mean in self._matrices:
            mean.lerp_(gradients, 1 - MOMENTUM)
            step = orthogonalized(gradients.lerp(mean, MOMENTUM))
            weights.sub_(step * (self.rate * (RMS * math.sqrt(max(weights.shape[-2:])))))
        if self._others is not None:
            self._others.step()

    def state(self) -> list[Tensor]:
        """All tensors that a step changes beside the weights; what the first makes comes last."""
        made = {} if self._others is None else self._others.state
        return [
            *(mean for _, _, mean in self._matrices),
            *(value for own in made.values() for value in own.values()),
        ]


def weights_of(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The weights of a module that are trained.

    Parameters
    ----------
    module : torch.nn.Module
        The module.

    Returns
    -------
    matrices : list of torch.nn.Parameter
        Those of convolutions that are moved as matrices, such of a shape side by side.
    others : list of torch.nn.Parameter
        All others.
    """
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    convolutions = nn.Conv1d, nn.Conv2d, nn.Conv3d
    layers = {id(each.weight) for each in module.modules() if isinstance(each, convolutions)}
    is_matrix = [id(weight) in layers and _sides(weight) is not None for weight in trained]
    matrices = itertools.compress(trained, is_matrix)
    others = [weight for weight, is_one in zip(trained, is_matrix, strict=True) if not is_one]
    return sorted(matrices, key=_sides), others


def orthogonalized(matrices: Tensor) -> Tensor:
    r"""The orthogonal matrix that is nearest to each of some, nearly.

    Parameters
    ----------
    matrices : torch.Tensor, shape (..., m, n)
        The matrices :math:`U S V^T`.

    Returns
    -------
    orthogonal : torch.Tensor, shape (..., m, n)
        :math:`U S' V^T`, with :math:`S'` between 0.6 and 1.3 where singular values are above a
        hundredth of the norm.
    """
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    # x becomes p x, with polynomials p of x x^T: their product is found in the fewer dimensions.
    a, b, c = QUINTIC
    gram = x @ x.mT
    product = torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device)
    for _ in range(N_ITERATIONS):
        p = c * gram @ gram + b * gram
        p.diagonal(dim1=-2, dim2=-1).add_(a)
        product, gram = p @ product, p @ gram @ p
    x = product @ x
    return x if wide else x.mT


def _sides(weight: Tensor) -> tuple[int, int] | None:
    """Shape of a convolution's weights as a matrix, if they are moved as one."""
    m, n = len(weight), weight.numel() // len(weight)
    outermost = weight.stride(0) == n  # so that it lies in memory as a matrix
    return (m, n) if outermost and min(m, n) >= LEAST_SIDE else None


def _stacked(parts) -> Tensor:
    """Matrices of a shape that lie side by side in a tensor, as a part of it of three axes."""
    first, (m, n) = parts[0], _sides(parts[0])
    step = parts[1].storage_offset() - first.storage_offset() if len(parts) > 1 else m * n
    return first.detach().as_strided((len(parts), m, n), (step, n, 1), first.storage_offset())


def _joined(parts) -> Tensor:
    """The part of a tensor from the first to the last of some parts of it."""
    start, last = parts[0].storage_offset(), parts[-1]
    n = last.storage_offset() + last.numel() - start
    return parts[0].detach().as_strided((n,), (1,), start)
