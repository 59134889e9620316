"""Priors, posteriors and expectation maximization in PyTorch, on batches of whitened observations."""
