"""Priors of one source."""
