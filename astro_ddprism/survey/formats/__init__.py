"""Formats of survey images, one file each."""

from . import fits, nddata
from .base import FORMATS, RawImage

__all__ = ["FORMATS", "RawImage", "fits", "nddata"]
