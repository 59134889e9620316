"""Detail that a coarse instrument cannot see, from a prior that a finer one has taught."""
