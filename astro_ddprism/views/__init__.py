"""Observations by view: what they hold, how they are built, and their files."""
