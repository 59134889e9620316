"""Run the study: ``python -m benchmarks.basis``."""

from .study import main

main()
