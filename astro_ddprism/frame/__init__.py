"""Pixel grids of sources, and the maps between them and images."""

from .frame import SourceFrame

__all__ = ["SourceFrame"]
