"""``python -m benchmarks.survey``."""

from .study import main

if __name__ == "__main__":
    main()
