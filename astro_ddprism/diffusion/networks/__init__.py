"""Backbones of denoisers."""
