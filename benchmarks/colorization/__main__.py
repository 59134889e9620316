"""Run the study: ``python -m benchmarks.colorization``."""

from .study import main

main()
