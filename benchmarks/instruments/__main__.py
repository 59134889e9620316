"""Run the study: ``python -m benchmarks.instruments``."""

from .study import main

main()
