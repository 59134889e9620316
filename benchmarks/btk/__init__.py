"""Blends of the Blending ToolKit, deblended by its SEP and by this package, in its metrics."""
