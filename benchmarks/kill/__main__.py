"""Run the study: ``python -m benchmarks.kill``."""

from .study import main

main()
