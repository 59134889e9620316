"""The core in torch: networks, joint posterior, samplers, likelihood, expectation maximization."""
