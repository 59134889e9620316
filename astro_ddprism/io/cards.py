"""Cards of FITS headers that cannot be read: left out, but for those that somebody needs."""

import io
import logging
import re
import warnings

from astropy.io import fits

from ..errors import InputError

__all__ = ["WCS_NUMBER", "leave_out_malformed", "without_unneeded"]

logger = logging.getLogger(__name__)

MAX_HEADER = 2880 * 1000
WCS_NUMBER = re.compile(r"(CRVAL|CRPIX|CDELT|CROTA)\d|(CD|PC)\d_\d|LONPOLE|LATPOLE")
TEXT = re.compile(r"BUNIT|CTYPE\d|CUNIT\d|RADESYS")  # may come without quotes


def without_unneeded(stream):
    """A file whose first header has no card at which astropy gives up, though nobody needs it.

    Parameters
    ----------
    stream : binary file
        The file.

    Returns
    -------
    binary file
        Another, in memory, without CONTINUE cards that continue nothing and, where the first header
        has no pixels, without their scale.
    """
    stream.seek(0)
    content = stream.read()
    cards = [content[i : i + 80] for i in range(0, min(len(content), MAX_HEADER), 80)]
    cards = cards[: 1 + next((i for i, c in enumerate(cards) if c.startswith(b"END     ")), 0)]
    no_pixels = any(re.match(rb"NAXIS   = +0 ", card) for card in cards)
    for i, card in enumerate(cards):
        orphan = card.startswith(b"CONTINUE") and not cards[i - 1].partition(b"/")[0].rstrip(
        ).endswith(b"&'")  # fmt: skip
        if orphan or (no_pixels and card[:8] in {b"BSCALE  ", b"BZERO   ", b"BLANK   "}):
            content = content[: 80 * i] + b" " * 80 + content[80 * i + 80 :]
    return io.BytesIO(content)


def leave_out_malformed(hdu, path=None):
    """Take the cards out of a header that cannot be read, so that nothing else meets them.

    Parameters
    ----------
    hdu : HDU
        Its header is changed. Units and axes without quotes are read all the same, and numbers of
        a WCS stay as text, so that no image is taken to be elsewhere on the sky.
    path : str, optional
        The file's name, for a line in the log.
    """
    header = hdu.header
    dropped = {}
    for i in reversed(range(len(header))):
        card = header.cards[i]
        text = ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                text = card.image
                _ = card.value
                fine = card.keyword != "CONTINUE" and text.isascii() and text.isprintable()
                if fine and text[80:88] == "CONTINUE" and "&'" not in text[:80]:
                    header[i] = fits.Card.fromstring(text[:80]).value  # it continues nothing
            except (fits.VerifyError, ValueError, TypeError, IndexError):
                fine = False
            if not fine:
                dropped[card.keyword] = text.partition("=")[2].partition("/ ")[0].strip(" '")
                del header[i]
    if "EXTNAME" in dropped and path is not None:
        raise InputError(
            f"{path}: found the card EXTNAME {dropped['EXTNAME']!r}, which cannot be read, "
            "expected the name of an extension: the header is damaged"
        )
    for name, value in dropped.items():
        if WCS_NUMBER.fullmatch(name) or TEXT.fullmatch(name):  # who reads a number refuses it
            header[name] = value
    if dropped and path is not None:
        names = ", ".join(dropped)
        logger.info("%s, HDU %s: left out malformed cards: %s", path, hdu.name or 0, names)
