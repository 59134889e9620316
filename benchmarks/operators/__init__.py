"""How right PSF, pixels and WCS of an image are, against GalSim, and what they cost."""
