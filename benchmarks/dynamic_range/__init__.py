"""Priors over a large dynamic range: diffusion of linear light, or of stretched light."""
