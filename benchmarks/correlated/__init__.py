"""What becomes of a fit that takes the noise of neighbouring pixels to be independent."""
