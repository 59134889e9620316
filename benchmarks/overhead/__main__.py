"""Run the study: ``python -m benchmarks.overhead``."""

from .study import main

main()
