"""Run the study: ``python -m benchmarks.manifolds``."""

from .study import main

main()
