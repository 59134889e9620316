import torch

from astro_ddprism.mixing.taps import Taps


def window(distance):
    return (1 - (distance / 2) ** 2).clamp(min=0) ** 2


def make_taps(normal, size=(9, 11)):
    inside = torch.tensor(size[::-1], dtype=torch.float64)[:, None, None] - 1
    positions = torch.sigmoid(normal(3, 2, 4, 5)) * inside
    positions[0, :, 0, 0] = torch.tensor([3.0, 5.0])  # on a grid point
    positions[0, :, 0, 1] = torch.tensor([-1.2, 9.5])  # near the edge, and beyond it
    positions[0, :, 0, 2] = torch.tensor([40.0, 2.0])
    weight = normal(3, 4, 5)
    return positions, weight, Taps(positions, weight, window, 4, size)


def test_sums_under_the_window(normal):
    positions, weight, taps = make_taps(normal)
    grid = normal(3, 2, 9, 11)
    rows = window((positions[:, 1, ..., None] - torch.arange(9)).abs().clamp(max=2))
    columns = window((positions[:, 0, ..., None] - torch.arange(11)).abs().clamp(max=2))
    expected = weight[:, None] * torch.einsum("ncij,nyxi,nyxj->ncyx", grid, rows, columns)
    torch.testing.assert_close(taps.gather(grid), expected, rtol=0, atol=1e-13)


def test_transposed(normal):
    *_, taps = make_taps(normal)
    grid, y = normal(3, 2, 9, 11), normal(3, 2, 4, 5)
    left, right = (taps.gather(grid) * y).sum(), (grid * taps.scatter(y)).sum()
    torch.testing.assert_close(left, right, rtol=1e-13, atol=1e-13)


def test_derivatives(normal):
    *_, taps = make_taps(normal)
    grid, y = normal(3, 2, 9, 11).requires_grad_(), normal(3, 2, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(taps.gather, grid)
    assert torch.autograd.gradcheck(taps.scatter, y)
    (gradient,) = torch.autograd.grad(taps.gather(grid).square().sum(), grid, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), grid)
    expected = 8 * taps.scatter(taps.gather(taps.scatter(taps.gather(grid))))
    torch.testing.assert_close(second, expected)
