"""Run the study: ``python -m benchmarks.memory``."""

from .study import main

main()
