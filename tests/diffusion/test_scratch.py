"""Draws in files, against the same in memory."""

import errno
import os

import pytest
import torch

from astro_ddprism.diffusion import scratch
from astro_ddprism.diffusion.scratch import Drawn, empty_rows, release, row_parts
from astro_ddprism.errors import InputError


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(scratch, "MOST_IN_MEMORY", 0)
    monkeypatch.setattr(scratch, "PART", 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_table_in_a_file_is_a_tensor(small, dtype):
    x = torch.randn(20, 3, 2, dtype=dtype, generator=torch.Generator().manual_seed(0))
    table = empty_rows(20, 3, 2, dtype=dtype)
    assert len(scratch._MAPPINGS) == 1
    for rows in row_parts(20, x[:1].nbytes):
        table[rows] = x[rows]
    release()
    assert torch.equal(table, x)
    table[torch.tensor([3, 5])] = 0.0
    release()
    assert table[3].abs().sum() == 0
    del table
    assert len(scratch._MAPPINGS) == 0


def test_what_is_small_is_in_memory():
    empty_rows(20, 3)
    assert len(scratch._MAPPINGS) == 0


def test_a_full_disk_is_told(small, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"cannot hold draws of .*No space left.*TMPDIR"):
        empty_rows(20, 3)


def test_rows_of_several_tables(small):
    g = torch.Generator().manual_seed(1)
    one, two = torch.randn(5, 4, generator=g), torch.randn(9, 4, generator=g)
    keep = torch.tensor([0, 2, 7])
    drawn = Drawn.of([(5, lambda i: one[i, :2]), (3, lambda i: two[keep[i], 2:])], (2,))
    expected = torch.cat([one[:, :2], two[keep, 2:]])
    assert isinstance(drawn, Drawn)
    assert (len(drawn), drawn.shape, drawn.ndim) == (8, (8, 2), 2)
    for index in (slice(None), slice(1, 7, 3), torch.tensor([7, 0, 0, 5])):
        assert torch.equal(drawn[index], expected[index])


def test_rows_that_are_few_are_a_tensor():
    x = torch.arange(6.0).view(3, 2)
    assert torch.equal(Drawn.of([(3, lambda i: x[i])], (2,)), x)


def test_rows_are_read_a_part_at_a_time(monkeypatch):
    """So few that what the system reads about each is no more than a part."""
    monkeypatch.setattr(scratch, "PART", 4 * scratch.AROUND)
    x, asked = torch.arange(20.0).view(10, 2), []

    def make(index):
        asked.append(len(index))
        return x[index]

    assert torch.equal(Drawn([(10, make)], (2,))[:], x)
    assert asked == [4, 4, 2]
