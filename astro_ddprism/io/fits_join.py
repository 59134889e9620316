r"""Parts of a FITS file put together, along the axis of what they are parts of.

A product of many observations is made in parts, each a FITS file of the same extensions for some of
the observations. `join_fits` writes the file of all of them, a piece at a time: no more than an
extension of one part is in memory. Checksums are made as the pieces go by.

``CHECKSUM`` is the complement of the sum :math:`s` of all 32-bit words of the extension, in ones'
complement, as 16 letters and digits: byte :math:`b_i` of the complement becomes four characters
whose codes add up to :math:`b_i + 4 \cdot 48`, and none of which is punctuation.
"""

import io

import numpy as np
from astropy.io import fits

from .fits_checks import words_sum

__all__ = ["encoded_checksum", "join_fits"]

BLOCK = 2880
ZERO = "0" * 16
PUNCTUATION = {*range(0x3A, 0x41), *range(0x5B, 0x61)}


def join_fits(paths, stream, axis_of, whole=()):
    """Write the file that parts are parts of.

    Parameters
    ----------
    paths : sequence of path
        The parts, in order; extensions agree in all but their length along the axis. The first
        extension, without data, is that of the first part; tables are joined row by row.
    stream : file
        Open to write and to read, and empty.
    axis_of : callable
        Of the name of an image: along which axis of its array it is a part.
    whole : sequence of HDU
        Extensions that take the place of those of the same names, behind all others.
    """
    with fits.open(paths[0]) as first:
        primary = fits.PrimaryHDU(header=first[0].header)
        primary.writeto(stream, checksum=True)
        names = [(type(hdu), hdu.name, hdu.header.copy()) for hdu in first[1:]]
    for number, (kind, name, header) in enumerate(names, start=1):
        if name in {hdu.name for hdu in whole}:
            continue
        if kind is fits.BinTableHDU:
            _write_whole(_joined_table(paths, number), stream)
        else:
            _join_images(paths, number, header, stream, axis_of(name))
    for hdu in whole:
        _write_whole(hdu, stream)


def _write_whole(hdu, stream):
    alone = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(alone, checksum=True)
    stream.write(alone.getvalue()[BLOCK:])  # behind a header of one block


def _joined_table(paths, number):
    tables = []
    for path in paths:
        with fits.open(path) as hdus:
            rows, raw = hdus[number].data, np.array(hdus[number].data)
            # Text as the bytes that it is stored in, which need be no ASCII.
            tables.append(
                {n: raw[n] if raw[n].dtype.kind == "S" else np.array(rows[n]) for n in rows.names}
            )
            if len(tables) == 1:
                first, header = hdus[number].columns, hdus[number].header.copy()
    columns = []
    for column in first:
        values = np.concatenate([table[column.name] for table in tables])
        kind = f"{values.dtype.itemsize}A" if values.dtype.kind == "S" else column.format
        columns.append(fits.Column(column.name, kind, unit=column.unit, array=values))
    hdu = fits.BinTableHDU.from_columns(columns)
    for card in header.cards:
        if card.keyword not in hdu.header and not card.keyword.startswith(("TFORM", "TDIM")):
            hdu.header.append(card)
    return hdu


def _join_images(paths, number, header, stream, axis):
    shapes, dtype = [], None
    for path in paths:
        with fits.open(path) as hdus:
            shapes.append(hdus[number].shape)
            dtype = dtype or hdus[number].data.dtype
    header[f"NAXIS{len(shapes[0]) - axis}"] = sum(shape[axis] for shape in shapes)
    header["CHECKSUM"], header["DATASUM"] = ZERO, "0"
    place = stream.tell()
    stream.write(header.tostring().encode("ascii"))
    total, size = 0, 0
    # What lies before the axis is the same in all: pieces of all parts take turns.
    for index in np.ndindex(shapes[0][:axis]):
        for path in paths:
            with fits.open(path) as hdus:
                piece = np.ascontiguousarray(hdus[number].section[index], dtype=dtype).tobytes()
            total = words_sum(piece, total)
            size += stream.write(piece)
    stream.write(b"\0" * (-size % BLOCK))
    end = stream.tell()
    header["DATASUM"] = str(total)
    header["CHECKSUM"] = encoded_checksum(words_sum(header.tostring().encode("ascii"), total))
    stream.seek(place)
    stream.write(header.tostring().encode("ascii"))
    stream.seek(end)


def encoded_checksum(total) -> str:
    """The 16 characters of ``CHECKSUM`` that make a sum of words :math:`2^{32} - 1`.

    Parameters
    ----------
    total : int
        The sum, with ``CHECKSUM`` of sixteen zeros.

    Returns
    -------
    checksum : str
    """
    columns = []
    for value in (~total & 0xFFFFFFFF).to_bytes(4, "big"):
        quarter, left = divmod(value, 4)
        codes = [48 + quarter + (i == 0) * left for i in range(4)]
        while PUNCTUATION & {*codes}:
            for i in (0, 2):
                if PUNCTUATION & {*codes[i : i + 2]}:
                    codes[i], codes[i + 1] = codes[i] + 1, codes[i + 1] - 1
        columns.append(codes)
    text = "".join(chr(columns[byte][i]) for i in range(4) for byte in range(4))
    return text[-1] + text[:-1]
