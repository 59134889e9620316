"""Run the study: ``python -m benchmarks.optimizer``."""

from .study import main

main()
