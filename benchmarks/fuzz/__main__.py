"""``python -m benchmarks.fuzz``."""

from .study import main

main()
