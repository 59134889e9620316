"""Posterior samples, and what an astronomer does with them."""
