"""Run the study: ``python -m benchmarks.e_step``."""

from .study import main

main()
