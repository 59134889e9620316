"""Formats of survey images, one file each."""
