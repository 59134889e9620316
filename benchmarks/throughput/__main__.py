"""Run the study: ``python -m benchmarks.throughput``."""

from .study import main

main()
