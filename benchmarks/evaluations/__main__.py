"""Run the study: ``python -m benchmarks.evaluations``."""

from .study import main

main()
