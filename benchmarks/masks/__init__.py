"""Fluxes of galaxies that lost pixels, under a model that comes with the package."""
