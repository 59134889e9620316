"""Total fluxes of sources of known flux, point-like and extended."""
