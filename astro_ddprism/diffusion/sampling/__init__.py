"""Draws from posteriors and priors."""
