"""Formats of survey images, one file each."""

from . import (
    des,
    euclid,
    fits,
    hst,
    jwst,
    kids,
    legacy,
    lsst,
    nddata,
    panstarrs,
    roman,
    sdss,
)
from .base import FORMATS, RawImage

__all__ = [
    "FORMATS",
    "RawImage",
    "des",
    "euclid",
    "fits",
    "hst",
    "jwst",
    "kids",
    "legacy",
    "lsst",
    "nddata",
    "panstarrs",
    "roman",
    "sdss",
]
