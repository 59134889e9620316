"""Run the study: ``python -m benchmarks.correlated``."""

from .study import main

main()
