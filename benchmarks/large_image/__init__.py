"""Memory and kills of the separation of a large image: `python -m benchmarks.large_image`."""
