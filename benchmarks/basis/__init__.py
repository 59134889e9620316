"""Pairs of digits under one given prior: Langevin dynamics and moment matching."""
