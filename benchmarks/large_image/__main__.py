"""Run the study: ``python -m benchmarks.large_image``."""

from .study import main

main()
