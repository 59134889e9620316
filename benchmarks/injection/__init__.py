"""Galaxies of known flux in a real survey field: separated fluxes and their errors."""
