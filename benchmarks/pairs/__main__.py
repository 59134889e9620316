"""Run the study: ``python -m benchmarks.pairs``."""

from .study import main

main()
