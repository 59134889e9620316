r"""What a FITS file says of itself, held against what is there.

``DATASUM`` is the sum of the data's 32-bit words in ones' complement, and ``CHECKSUM`` makes that
of all words of the extension :math:`2^{32} - 1`. A file that was packed ends with a sum of its own,
which shows once all of it has been unpacked. Both are looked at where they are there, piece by
piece and once for a file that stays as it is; and so is whether anything stands behind the last
extension: an extension whose header is damaged is lost with all that follow it.
"""

import bz2
import gzip
import lzma
import math
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.io import fits

from ..errors import InputError

__all__ = ["check_fits", "check_packed_size", "unpack_once", "version_of", "words_sum"]

KNOWN = (
    fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU, fits.BinTableHDU, fits.TableHDU,
    fits.GroupsHDU,
)  # fmt: skip
PIECE = 2880 * 512  # bytes
WHOLE = 2**32 - 1
CARD = re.compile(rb"(CHECKSUM|DATASUM )= '([^']*)'")
# How many bytes an image may have for each that is stored of it, and how many at any rate.
MOST_PACKED, FEW = 5000, 1 << 20
PACKED = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
REMEDY = "is it right all the same, 'fitscheck --write' of astropy makes new checksums"


def check_fits(path, hdus, replaced=False):
    """Refuse a file that is not what its checksums say, or of which a part was not read.

    Parameters
    ----------
    path : path-like
        The file.
    hdus : `~astropy.io.fits.HDUList`
        What astropy found in it.
    replaced : bool
        Whether astropy put ``?`` in place of characters that a header cannot hold.

    Raises
    ------
    InputError
        Naming the extension.
    """
    places = []
    for i, hdu in enumerate(hdus):
        if not isinstance(hdu, KNOWN) or (replaced and "?" in hdu.name):
            raise InputError(
                f"{path}, HDU {i}: found a {type(hdu).__name__} of the name {hdu.name!r}, expected "
                "an image or a table: the header is damaged"
            )
        info = hdu.fileinfo()
        places.append((f"{i} {hdu.name}".strip(), info["hdrLoc"], info["datLoc"], info["datSpan"]))
    _check(str(path), version_of(path), tuple(places))


def unpack_once(path):
    """Read a packed file to its end, at which its own sum is looked at; others are left alone.

    To be done before astropy opens it, which goes back and forth in the stream: in one that is
    damaged it may unpack the same bytes without end.

    Parameters
    ----------
    path : path-like
        The file.

    Raises
    ------
    OSError, EOFError, zlib.error, lzma.LZMAError
        If it does not unpack to what it was packed of.
    """
    _unpack(str(path), version_of(path))


def version_of(path) -> tuple[int, ...]:
    """Numbers that are others once a file is."""
    stat = Path(path).stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=256)
def _unpack(path, _version):
    with open(path, "rb") as plain:
        if unpack := PACKED.get(_head(plain, 0)):
            with unpack(plain) as stream:
                while stream.read(PIECE):
                    pass


@lru_cache(maxsize=256)
def _check(path, _version, places):
    with open(path, "rb") as plain:
        unpack = PACKED.get(_head(plain, 0))
        if unpack is None and _head(plain, 0) == b"PK":
            return  # a zip archive, whose sums astropy looks at
        with unpack(plain) if unpack else plain as stream:
            for name, header, data, span in places:
                _check_one(path, name, stream, header, data, span)
            stream.seek(max(data + span for _, _, data, span in places))
            rest = stream.read(PIECE)
            if rest.strip(b"\0 ") and len(rest) >= 80:
                raise InputError(
                    f"{path}: found bytes behind the {len(places)} extensions that could be read, "
                    "expected none: the header of another is damaged"
                )


def _head(stream, place, size=2):
    head = stream.read(size)
    stream.seek(place)
    return head


def _check_one(path, name, stream, header, data, span):
    stream.seek(header)
    head = stream.read(data - header)
    told = {key.strip().decode(): value.strip() for key, value in _cards(head)}
    if not any(told.values()):
        return
    own = 0
    for first in range(0, span, PIECE):
        own = words_sum(stream.read(min(PIECE, span - first)), own)
    datasum = told.get("DATASUM", b"")
    found = None
    if datasum and (not datasum.isdigit() or _folded(int(datasum)) % WHOLE != own % WHOLE):
        found = f"data of the sum {own}, expected {datasum.decode('latin-1')} (DATASUM)"
    elif told.get("CHECKSUM") and words_sum(head, own) not in {0, WHOLE}:
        found = "another CHECKSUM than that of its header and data"
    if found:
        raise InputError(f"{path}, HDU {name}: found {found}: the file is damaged; {REMEDY}")


def _cards(head):
    for i in range(0, len(head), 80):
        if found := CARD.match(head, i, i + 80):
            yield found.groups()


def words_sum(piece, total=0) -> int:
    """Sum of 32-bit words in ones' complement, added to another such sum.

    Parameters
    ----------
    piece : bytes
        Of whole words, but for the last.
    total : int
        The other.

    Returns
    -------
    total : int
        Of 32 bits.
    """
    piece = piece + b"\0" * (-len(piece) % 4)
    return _folded(total + int(np.frombuffer(piece, ">u4").sum(dtype=np.uint64)))


def _folded(number) -> int:
    while number > WHOLE:
        number = (number & WHOLE) + (number >> 32)
    return number


def check_packed_size(hdu, label):
    """Refuse a tile-compressed image that says to be larger than its tiles can be.

    Parameters
    ----------
    hdu : HDU
        An image.
    label : str
        What messages call it.

    Raises
    ------
    InputError
    """
    tile = getattr(hdu, "tile_shape", None)
    if tile is None or not hdu.shape:
        return
    expected = math.prod(-(-int(n) // max(1, int(t))) for n, t in zip(hdu.shape, tile, strict=True))
    found = len(hdu.compressed_data)
    size = math.prod(map(int, hdu.shape)) * abs(hdu.header["BITPIX"]) // 8
    stored = hdu.fileinfo()["datSpan"]
    if found != expected or size > MOST_PACKED * stored + FEW:
        raise InputError(
            f"{label}: found {found} tiles in {stored} bytes, expected {expected} of an image of "
            f"{' x '.join(map(str, hdu.shape))} pixels: the file is damaged"
        )
