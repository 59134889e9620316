"""The colours of galaxies from the sum of three bands alone."""
