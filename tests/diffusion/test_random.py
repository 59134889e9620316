"""Seeds that depend on nothing but what they are for."""

import torch

from astro_ddprism.diffusion.random import seeded

CPU = torch.device("cpu")


def draw(*entropy):
    with seeded(*entropy, device=CPU):
        return torch.randn(4)


def test_repeats():
    assert torch.equal(draw(1, 2, 3), draw(1, 2, 3))


def test_every_integer_counts():
    draws = [draw(*e) for e in [(0, 0), (0, 1), (1, 0), (1, 1), (2**40, 0), (0, 2, 0, 1)]]
    for i, a in enumerate(draws):
        assert not any(torch.equal(a, b) for b in draws[:i])


def test_what_was_drawn_before_does_not_matter():
    first = draw(5)
    torch.randn(100)
    assert torch.equal(draw(5), first)


def test_the_callers_numbers_go_on():
    torch.manual_seed(6)
    expected = torch.randn(8)
    torch.manual_seed(6)
    found = [torch.randn(4)]
    with seeded(7, device=CPU):
        torch.randn(1000)
    found.append(torch.randn(4))
    assert torch.equal(torch.cat(found), expected)
