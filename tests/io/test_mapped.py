"""Arrays that stay in their files, against the same arrays in memory."""

import errno
import os
from pathlib import Path

import asdf
import numpy as np
import pytest

from astro_ddprism.errors import InputError
from astro_ddprism.io import asdf as asdf_module
from astro_ddprism.io import mapped
from astro_ddprism.io.asdf import map_tree, read_tree, write_tree
from astro_ddprism.io.mapped import is_mapped, joined_rows, release_pages, row_slices


@pytest.fixture
def small(monkeypatch):
    """What is large begins at 64 bytes."""
    for module in (mapped, asdf_module):
        monkeypatch.setattr(module, "LEAST", 64)
    monkeypatch.setattr(mapped, "MOST_IN_MEMORY", 64)


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "a": rng.normal(size=(50, 3)),
        "b": rng.normal(size=(7, 2, 5)).astype(np.float32),
        "c": rng.random((40, 40)) < 0.5,
        "d": np.arange(5),
        "e": rng.normal(size=(30, 20))[:, ::2],
    }


def test_large_arrays_are_written_by_parts_and_stay_in_the_file(small, tmp_path, monkeypatch):
    monkeypatch.setattr("astro_ddprism.io.blocks.PART", 100)
    monkeypatch.setattr(row_slices, "__defaults__", (100,))
    own, path = arrays(), tmp_path / "model.asdf"
    write_tree(path, {"kind": "model", **own, "list": [own["a"], {"again": own["b"]}]})
    with asdf.open(path, lazy_load=False, memmap=False, validate_checksums=True) as file:
        for name, array in own.items():
            np.testing.assert_array_equal(file["astro_ddprism"][name], array)
    for lazy, tree in enumerate((read_tree(path, "model"), map_tree(path, "model"))):
        for name, array in own.items():
            np.testing.assert_array_equal(tree[name], array)
            assert tree[name].dtype == array.dtype
            assert is_mapped(tree[name]) == (lazy and name in "abc")
        np.testing.assert_array_equal(tree["list"][1]["again"], own["b"])
    release_pages()
    np.testing.assert_array_equal(tree["a"], own["a"])


def test_what_is_mapped_cannot_be_written_to(small, tmp_path):
    write_tree(tmp_path / "model.asdf", {"kind": "model", **arrays()})
    found = map_tree(tmp_path / "model.asdf", "model")["a"]
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_a_bit_of_any_block_is_told(small, tmp_path):
    """The check of what stays in the file is that of what is read."""
    path, damaged = tmp_path / "model.asdf", tmp_path / "damaged.asdf"
    own = arrays()
    write_tree(path, {"kind": "model", **own})
    raw = path.read_bytes()
    for array in own.values():
        data = array.tobytes()
        if data not in raw:  # what is not contiguous may be kept as it lies in memory
            data = array.base.tobytes()
        place = raw.index(data) + len(data) // 2
        damaged.write_bytes(raw[:place] + bytes([raw[place] ^ 4]) + raw[place + 1 :])
        with pytest.raises(InputError, match=r"damaged.asdf: .*not that of its checksum"):
            map_tree(damaged, "model")
    damaged.write_bytes(raw[:-20])
    with pytest.raises(InputError, match=r"damaged.asdf: .*does not lie in the file"):
        map_tree(damaged, "model")


def test_a_file_that_is_replaced_stays_what_it_was(small, tmp_path):
    path = tmp_path / "model.asdf"
    write_tree(path, {"kind": "model", **arrays()})
    found = map_tree(path, "model")["a"]
    write_tree(path, {"kind": "model", **arrays(1)}, overwrite=True)
    release_pages()
    np.testing.assert_array_equal(found, arrays()["a"])


def test_rows_of_several_files_lie_in_one(small, tmp_path):
    parts = []
    for seed in range(3):
        path = tmp_path / f"{seed}.asdf"
        write_tree(path, {"kind": "model", **arrays(seed)})
        parts.append(map_tree(path, "model")["a"])
    joined = joined_rows(parts)
    assert is_mapped(joined)
    np.testing.assert_array_equal(joined, np.concatenate(parts))
    assert not is_mapped(joined_rows([arrays()["a"]] * 2))


def test_a_full_disk_is_told(small, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"cannot hold a temporary file of .*No space.*TMPDIR"):
        mapped.mapped_file((10, 10), "f4")


@pytest.mark.parametrize(("n", "size", "part"), [(10, 4, 12), (7, 100, 12), (0, 4, 12), (3, 0, 5)])
def test_parts_are_all_rows(n, size, part):
    found = [i for rows in row_slices(n, size, part) for i in range(n)[rows]]
    assert found == list(range(n))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells what is resident")
def test_pages_are_given_back():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    array = mapped.mapped_file((1 << 23,), "f4")
    array[:] = 1
    before = resident()
    release_pages()
    assert before - resident() > 0.9 * array.nbytes
    assert (array == 1).all()
