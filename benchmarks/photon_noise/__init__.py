"""Fluxes of bright objects, whose own photons make most of their noise."""
