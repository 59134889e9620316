"""Run the study: ``python -m benchmarks.scaling``."""

from .study import main

main()
