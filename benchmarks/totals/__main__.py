"""Run the study: ``python -m benchmarks.totals``."""

from .study import main

if __name__ == "__main__":
    main()
