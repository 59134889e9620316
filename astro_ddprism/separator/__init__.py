"""Estimators: learn the priors of sources from views, and separate observations."""
