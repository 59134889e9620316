"""What an ASDF file says of itself, held against what is there, before any of it is used.

A file is YAML, then binary blocks, each behind a header with its sizes. An array of the YAML is a
part of a block. Whoever trusts those numbers reads memory that is not the file's: here every block
must lie in the file, and every array in its block.

The YAML of files of this package holds its own checksum, the SHA-256 of the same text with zeros
for the checksum's digits.
"""

import hashlib
import io
import math
import re
import struct
from dataclasses import dataclass

import asdf
import numpy as np
from asdf.tags.core.ndarray import asdf_datatype_to_numpy_dtype

from ..errors import InputError
from .mapped import PART, release_pages, row_slices

__all__ = [
    "NO_CHECKSUM",
    "Block",
    "append_block",
    "check_arrays",
    "check_blocks",
    "check_head",
    "read_blocks",
    "read_head",
    "write_checksum",
]

ALIGNED = 64
NO_CHECKSUM = "sha256:" + "0" * 64
_CHECKSUM = re.compile(rb"(?<=checksum: sha256:)[0-9a-f]{64}")
_END = re.compile(rb"\n\.\.\.\r?\n")
_MAGIC, _INDEX = b"\xd3BLK", b"#ASDF BLOCK INDEX"
_HEADER = struct.Struct(">I4sQQQ16s")
_STREAMED = 1
# How much larger a block may be than what is stored of it, by its compression.
_MOST_PACKED = {b"\0\0\0\0": 1, b"zlib": 1100, b"lz4\0": 300, b"bzp2": 1 << 20}
# Bytes by which an array may be larger than its block, whose elements it repeats.
_MOST_REPEATED = 1 << 30
_ARRAY = re.compile(r"(tag:stsci\.edu:asdf|asdf://.*)/.*ndarray-.*")


@dataclass(frozen=True)
class Block:
    """A block of a file.

    Attributes
    ----------
    start : int
        Where its bytes begin in the file.
    size : int
        How many there are when they are unpacked.
    is_packed : bool
        Whether they are packed.
    used : int
        How many there are in the file.
    checksum : bytes
        MD5 of these; zeros where there is none.
    """

    start: int
    size: int
    is_packed: bool
    used: int = 0
    checksum: bytes = b"\0" * 16


def read_head(stream) -> bytes:
    """The YAML of a file, from its beginning.

    Parameters
    ----------
    stream : file
        At any place; afterwards where the YAML ends.

    Raises
    ------
    InputError
        If it does not end.
    """
    stream.seek(0)
    head = bytearray()
    while chunk := stream.read(1 << 16):
        begin = max(0, len(head) - 8)
        head += chunk
        if end := _END.search(head, begin):
            del head[end.end() :]
            stream.seek(len(head))
            return bytes(head)
    raise InputError("its YAML has no end")


def check_head(head: bytes):
    """Refuse the YAML of a file of this package that is not what its checksum says, if it has one.

    Parameters
    ----------
    head : bytes
        The YAML.

    Raises
    ------
    InputError
    """
    told = _CHECKSUM.findall(head)
    if told and told != [_checksum(head)]:
        raise InputError("its YAML is not that of its checksum")


def write_checksum(stream):
    """Fill in the checksum of the YAML, in place of `NO_CHECKSUM`.

    Parameters
    ----------
    stream : file
        Open to read and to write.
    """
    stream.seek(0)
    head = bytearray()
    while not (end := _END.search(head)):
        head += stream.read(1 << 16)
    del head[end.end() :]
    stream.seek(_CHECKSUM.search(head).start())
    stream.write(_checksum(head))


def _checksum(head) -> bytes:
    zeros = _CHECKSUM.sub(b"0" * 64, bytes(head))
    return hashlib.sha256(zeros).hexdigest().encode()


def read_blocks(stream) -> list[Block]:
    """The blocks of a file, from where its YAML ends.

    Parameters
    ----------
    stream : file
        Where the first block begins.

    Raises
    ------
    InputError
        If a block does not lie in the file, or what is stored of it cannot be so much.
    """
    place = stream.tell()
    end = stream.seek(0, io.SEEK_END)
    blocks = []
    while place < end:
        stream.seek(place)
        head = stream.read(6)
        if head[:4] != _MAGIC:
            if (head + stream.read(len(_INDEX) - 6)) != _INDEX:
                raise InputError(f"what follows {len(blocks)} blocks is none")
            break
        size = int.from_bytes(head[4:], "big")
        header = stream.read(size)
        if len(header) < max(size, _HEADER.size):
            raise InputError(f"block {len(blocks)} has half a header")
        flags, packing, allocated, used, unpacked, checksum = _HEADER.unpack_from(header)
        start = place + 6 + size
        known = packing in _MOST_PACKED
        if flags & _STREAMED or not known or not used <= allocated <= end - start:
            what = f"is packed by {packing!r}" if not known else "does not lie in the file"
            raise InputError(f"block {len(blocks)} {what}")
        is_packed = packing != b"\0\0\0\0"
        if (unpacked != used and not is_packed) or unpacked > used * _MOST_PACKED[packing]:
            raise InputError(f"block {len(blocks)} says that {used} bytes hold {unpacked}")
        blocks.append(Block(start, unpacked, is_packed, used, checksum))
        place = start + allocated
    return blocks


def check_blocks(stream, blocks):
    """Refuse blocks whose bytes are not those of their checksums, a part at a time.

    Parameters
    ----------
    stream : file
        At any place.
    blocks : list of Block
        Those of the file.

    Raises
    ------
    InputError
    """
    for number, block in enumerate(blocks):
        if not any(block.checksum):
            continue
        md5, left = hashlib.md5(usedforsecurity=False), block.used
        stream.seek(block.start)
        while left:
            part = stream.read(min(left, PART))
            if not part:
                raise InputError(f"block {number} ends before its {block.used} bytes do")
            md5.update(part)
            left -= len(part)
        if md5.digest() != block.checksum:
            raise InputError(f"block {number} is not that of its checksum")


def append_block(stream, array):
    """Write an array as a block at the end of a file, a part at a time.

    Its bytes begin where a processor likes to read: the block's header is as long as it takes.

    Parameters
    ----------
    stream : file
        Open to write, at its end.
    array : numpy.ndarray
        Contiguous; it may be memory-mapped.
    """
    start, md5 = stream.tell(), hashlib.md5(usedforsecurity=False)
    size = _HEADER.size + -(start + 6 + _HEADER.size) % ALIGNED

    def head(checksum):
        sizes = array.nbytes, array.nbytes, array.nbytes
        numbers = _HEADER.pack(0, b"", *sizes, checksum)
        return _MAGIC + size.to_bytes(2, "big") + numbers.ljust(size, b"\0")

    stream.write(head(b""))
    for rows in row_slices(len(array), array[:1].nbytes):
        part = array[rows].tobytes()
        md5.update(part)
        stream.write(part)
        release_pages()
    end = stream.tell()
    stream.seek(start)
    stream.write(head(md5.digest()))
    stream.seek(end)


def check_arrays(head: bytes, blocks):
    """Refuse arrays that do not lie in their blocks.

    Parameters
    ----------
    head : bytes
        The YAML.
    blocks : list of Block
        Those of the file.

    Returns
    -------
    tree : mapping
        The YAML, without objects.

    Raises
    ------
    InputError
    """
    tree = asdf.util.load_yaml(io.BytesIO(head), tagged=True)
    waiting, seen = [tree], set()
    while waiting:
        node = waiting.pop()
        if not isinstance(node, dict | list) and not hasattr(node, "items"):
            continue
        if id(node) in seen:
            continue
        seen.add(id(node))
        is_list = isinstance(node, list) or not hasattr(node, "items")
        if not is_list and _ARRAY.fullmatch(str(asdf.tagged.get_tag(node))):
            _check_array(node, blocks)
        waiting += list(node) if is_list else list(node.values())
    return tree


def _check_array(node, blocks):
    if "source" not in node:
        return  # its numbers are in the YAML
    source, shape = node["source"], node.get("shape")
    if not _is_whole(source) or not 0 <= source < len(blocks):
        raise InputError(f"an array lies in block {source!r} of {len(blocks)}")
    block = blocks[source]
    dtype = asdf_datatype_to_numpy_dtype(node["datatype"], node.get("byteorder", "big"))
    if not isinstance(shape, list) or not all(_is_whole(n) and n >= 0 for n in shape):
        raise InputError(f"an array has the shape {shape!r}")
    offset, strides = node.get("offset", 0), node.get("strides")
    if strides is None:
        strides = [math.prod(shape[i + 1 :]) * dtype.itemsize for i in range(len(shape))]
    strides = list(strides)
    if not (_is_whole(offset) and len(strides) == len(shape) and all(map(_is_whole, strides))):
        raise InputError(f"an array has the offset {offset!r} and the strides {strides!r}")
    if 0 in shape:
        return
    steps = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    first = offset + sum(step for step in steps if step < 0)
    last = offset + sum(step for step in steps if step > 0) + dtype.itemsize
    if first < 0 or last > block.size:
        raise InputError(
            f"an array of the bytes {first} to {last} does not lie in its block of {block.size}"
        )
    if math.prod(shape) * dtype.itemsize > block.size + _MOST_REPEATED:
        raise InputError(f"an array of the shape {shape} repeats its block of {block.size} bytes")


def _is_whole(number) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)
