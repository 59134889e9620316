"""Files with faults in them, made of good ones by a seed.

Each fault is of a kind that transfers, disks and editors make, or that hits what a reader trusts:
flipped bits, bytes that were overwritten, pieces that were cut out, doubled or moved, an end that
is missing, numbers in place of others, and words out of place.
"""

__all__ = ["KINDS", "mutated"]

import re

import numpy as np

NUMBERS = (
    b"-1", b"0", b"1", b"2147483648", b"-9223372036854775808", b"1e300", b"nan", b".inf", b"'x'",
    b"1.5", b"99999999999999999999", b"[]", b"true",
)  # fmt: skip
WORDS = (b"\0", b"\xff\xfe", b"'", b'"', b"{", b"[", b"&x", b"*x", b"!!python/object:os.x ",
         b"END     ", b"CONTINUE", b"&'", b"\n", b"\r", b"#", b"\t", b"<",
         b"]]>", b"= 1e")  # fmt: skip


def _bits(raw, rng, place):
    for _ in range(rng.integers(1, 4)):
        raw[place()] ^= 1 << rng.integers(8)


def _bytes(raw, rng, place):
    first, n = place(), rng.integers(1, 32)
    raw[first : first + n] = rng.integers(0, 256, len(raw[first : first + n]), np.uint8).tobytes()


def _cut(raw, rng, place):
    first = place()
    del raw[first : first + rng.integers(1, 200)]


def _doubled(raw, rng, place):
    first = place()
    piece = raw[first : first + rng.integers(1, 200)]
    raw[first:first] = piece


def _moved(raw, rng, place):
    first, n = place(), rng.integers(1, 200)
    piece = bytes(raw[first : first + n])
    del raw[first : first + n]
    other = rng.integers(0, len(raw) + 1)
    raw[other:other] = piece


def _ended(raw, _rng, place):
    del raw[place() :]


def _number(raw, rng, place):
    """Another number in place of one, in the same width where there is room."""
    found = [m.span() for m in re.finditer(rb"(?<![\w.])-?\d+(\.\d+)?(e[-+]?\d+)?", raw[:20000])]
    if not found:
        return _bits(raw, rng, place)
    first, last = found[rng.integers(len(found))]
    new = NUMBERS[rng.integers(len(NUMBERS))]
    raw[first:last] = new.rjust(last - first) if rng.integers(2) else new
    return None


def _word(raw, rng, place):
    first, word = place(), WORDS[rng.integers(len(WORDS))]
    raw[first : first + len(word) * rng.integers(2)] = word


KINDS = {
    "bits": _bits, "bytes": _bytes, "cut": _cut, "doubled": _doubled, "moved": _moved,
    "ended": _ended, "number": _number, "word": _word,
}  # fmt: skip


def mutated(raw: bytes, seed) -> tuple[str, bytes]:
    """A file with a fault.

    Parameters
    ----------
    raw : bytes
        The good file.
    seed : sequence of int
        Which fault; the same seed makes the same.

    Returns
    -------
    kind : str
    content : bytes
        Other than the good one.
    """
    rng = np.random.default_rng(seed)
    while True:
        kind = list(KINDS)[rng.integers(len(KINDS))]
        content = bytearray(raw)
        # Text and headers, which are at the front, are where faults do most.
        near = rng.integers(2)

        def place(content=content, near=near):
            last = min(len(content), 6000) if near else len(content)
            return int(rng.integers(max(1, last)))

        KINDS[kind](content, rng, place)
        if bytes(content) != raw:
            return kind, bytes(content)
