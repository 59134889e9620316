"""Random numbers that depend on nothing but what they are for."""

import pytest
import torch
from scipy import stats

from astro_ddprism.diffusion import random as module
from astro_ddprism.diffusion.random import Rows, seeded, threefry

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


# --- streams of rows ----------------------------------------


def words(text):
    """Hexadecimal numbers of 64 bits as torch has them, with a sign."""
    return [torch.tensor(int(w, 16) - (int(w, 16) >> 63 << 64)) for w in text.split()]


@pytest.mark.parametrize(
    ("counter_and_key", "expected"),
    [
        (" ".join(4 * ["0000000000000000"]), "c2b6e3a8c2c69865 6f81ed42f350084d"),
        (" ".join(4 * ["ffffffffffffffff"]), "e02cb7c4d95d277a d06633d0893b8b68"),
        (
            "243f6a8885a308d3 13198a2e03707344 a4093822299f31d0 082efa98ec4e6c89",
            "263c7d30bb0f0af1 56be8361d3311526",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_known_answers(counter_and_key, expected):
    """Of threefry2x64 with 20 rounds, in the file ``kat_vectors`` of Random123."""
    assert list(threefry(*words(counter_and_key))) == words(expected)


def make_rows(n=4, seed=1, purpose="noise"):
    return Rows.of(seed, purpose, ids=range(n), device=CPU)


def test_normal_and_uniform_numbers():
    """To five standard deviations of the sampling error, and by Kolmogorov and Smirnov at 1e-3."""
    n, size = 64, 4003
    rows = make_rows(n)
    for x, law in ((rows.normal(size), stats.norm()), (rows.uniform(size), stats.uniform())):
        x = x.double()
        assert stats.kstest(x.flatten(), law.cdf).pvalue > 1e-3
        z = (x - law.mean()) / law.std()
        assert z.flatten().mean().abs() < 5 / (n * size) ** 0.5
        kurtosis = 3 + float(law.stats("k"))
        assert abs(z.square().mean() - 1) < 5 * ((kurtosis - 1) / n / size) ** 0.5
        # Neither between rows, nor between numbers of a row at any distance up to eight.
        assert ((z @ z.T / size).fill_diagonal_(0).abs() < 5.5 / size**0.5).all()
        for k in range(1, 9):
            assert (z[:, k:] * z[:, :-k]).mean().abs() < 5 / (n * size) ** 0.5
    assert 4.3 < make_rows(n).normal(size).abs().max() < 6.7
    successive, others = rows.normal(size), rows.fork(1).normal(size)
    first = make_rows(n).normal(size)
    for x in (successive, others, make_rows(n, seed=2).normal(size)):
        assert (x * first).mean().abs() < 5 / (n * size) ** 0.5


def test_a_row_is_the_same_in_any_batch():
    """Whatever is beside it, in whatever order, and as many draws as are made at a time."""
    index = torch.tensor([5, 0, 2])
    rows, some = make_rows(6), make_rows(6)[index]
    assert torch.equal(some.normal(3), rows.normal(3)[index])
    assert torch.equal(some.uniform(2), rows.uniform(2)[index])
    assert torch.equal(some.normal(2, 2), rows.normal(2, 2)[index])


@pytest.mark.parametrize("at_once", [1, 20, 10_000])
def test_draws_made_at_once_are_those_made_one_by_one(monkeypatch, at_once):
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    one, many = make_rows(), make_rows()
    expected = [one.normal(5) for _ in range(7)] + [one.normal(2)]
    found = many.normals(7, 5)
    after = many.normal(2)  # however far the others have been taken
    for x, y in zip([*found, after], expected, strict=True):
        assert torch.equal(x, y)


def test_streams_of_their_own():
    """Seeds, purposes, observations, samples and attempts all count."""

    def first(*entropy, ids=("1",), samples=None, attempt=0):
        return Rows.of(*entropy, ids=ids, samples=samples, device=CPU).fork(attempt).normal(2)[0]

    draws = [
        first(1, 2), first(2, 1), first(1, 2, 3), first(1, "2"), first(1, 2, ids=["2"]),
        first(1, 2, samples=[1]), first(1, 2, attempt=1), first(1, 2, samples=[1], attempt=1),
    ]  # fmt: skip
    for i, a in enumerate(draws):
        assert not any(torch.equal(a, b) for b in draws[:i])
    assert torch.equal(first(1, 2, samples=[0]), draws[0])
