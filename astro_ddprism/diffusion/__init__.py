"""The torch core: networks, the joint posterior, samplers, likelihood and expectation maximization."""
