"""Run the study: ``python -m benchmarks.btk``."""

from .study import main

if __name__ == "__main__":
    main()
