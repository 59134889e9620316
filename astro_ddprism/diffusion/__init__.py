"""Priors, posteriors and expectation maximization in PyTorch, on whitened observations."""
