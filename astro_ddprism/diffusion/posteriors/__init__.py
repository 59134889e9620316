"""Joint posteriors of all sources of an observation."""
