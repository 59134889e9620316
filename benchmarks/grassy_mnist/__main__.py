"""Run the study: ``python -m benchmarks.grassy_mnist``."""

from .study import main

main()
