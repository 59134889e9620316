"""Run the study: ``python -m benchmarks.operators``."""

from .study import main

main()
