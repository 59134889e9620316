"""ASDF files of which a number was changed, by hand: no array leaves its block."""

import io
import itertools
import re
import struct

import numpy as np
import pytest

from astro_ddprism.errors import InputError
from astro_ddprism.io.asdf import read_tree, write_tree
from astro_ddprism.io.blocks import NO_CHECKSUM, check_arrays, read_blocks, read_head


@pytest.fixture
def parts(tmp_path):
    """The YAML, without its checksum, and the rest."""
    path = tmp_path / "model.asdf"
    write_tree(path, {"kind": "model", "big": np.arange(2000.0), "name": "good"})
    raw = path.read_bytes()
    head = read_head(io.BytesIO(raw))
    rest = raw[len(head) :]
    return re.sub(rb"(checksum: )sha256:\w+", rb"\1none", head), rest[: rest.index(b"#ASDF BLOCK")]


@pytest.mark.parametrize(
    "lines",
    [
        "offset: -64", "offset: 8", "offset: -100000000000", "offset: .nan", "offset: 1.5",
        "strides: [-8]", "strides: [16]", "strides: [8, 8]", "strides: [9223372036854775807]",
        "shape: [2001]", "shape: [-1]", "shape: ['*']", "shape: 2000",
        "shape: [4611686018427387904]", "source: 1", "source: -1", "source: other.asdf",
        "source: true", "datatype: complex256",
        "shape: [100000, 100000]\n    strides: [0, 0]",
    ],
)  # fmt: skip
def test_arrays_outside_their_blocks_are_refused(parts, tmp_path, lines):
    head, rest = parts
    key = lines.partition(":")[0].encode()
    new = re.sub(rb"\n    " + key + rb":[^\n]*(\n    - [^\n]*)*", b"", head)
    new = new.replace(b"ndarray-1.1.0\n", b"ndarray-1.1.0\n    " + lines.encode() + b"\n")
    assert new != head
    path = tmp_path / "changed.asdf"
    path.write_bytes(new + rest)
    with pytest.raises(
        InputError, match=r"changed.asdf: found a truncated or damaged ASDF file \("
    ):
        read_tree(path, "model")


@pytest.mark.parametrize("strides", [[-8], [16], [8], [-24]])
def test_arrays_within_their_blocks_are_what_numpy_makes_of_them(parts, tmp_path, strides):
    head, rest = parts
    offset = 15992 if strides[0] < 0 else 0
    own = f"ndarray-1.1.0\n    offset: {offset}\n    strides: {strides}\n    shape: [600]\n"
    new = re.sub(rb"\n    shape:[^\n]*", b"", head).replace(b"ndarray-1.1.0\n", own.encode())
    path = tmp_path / "changed.asdf"
    path.write_bytes(new + rest)
    step = strides[0] // 8
    expected = np.arange(2000.0)[offset // 8 :: step][:600]
    np.testing.assert_array_equal(read_tree(path, "model")["big"], expected)


@pytest.mark.parametrize(
    ("place", "value"),
    [(4, 2**16 - 1), (14, 2**63), (22, 2**63), (30, 2**40), (6, 1)],
)  # sizes of the header, allocated, used and unpacked; the flag of a stream
def test_blocks_outside_the_file_are_refused(parts, place, value):
    head, rest = parts
    changed = bytearray(rest)
    size = {4: ">H", 6: ">I"}.get(place, ">Q")
    struct.pack_into(size, changed, place, value)
    with pytest.raises(InputError, match=r"block|half"):
        check_arrays(head, read_blocks(io.BytesIO(changed)))


def test_the_checksum_of_the_yaml_tells_any_change(tmp_path):
    path = tmp_path / "model.asdf"
    write_tree(path, {"kind": "model", "numbers": [1.25, 2.5], "name": "good"})
    raw = path.read_bytes()
    assert NO_CHECKSUM.encode() not in raw
    for place, bit in itertools.product((raw.index(b"1.25"), raw.index(b"good"), 8), (1, 4)):
        changed = bytearray(raw)
        changed[place] ^= bit
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"is not that of its checksum|damaged"):
            read_tree(path, "model")
