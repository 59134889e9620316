"""Expectation maximization: priors from views."""
