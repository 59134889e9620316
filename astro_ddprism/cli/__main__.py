"""``python -m astro_ddprism.cli``: the command ``ddprism``."""

import sys

from . import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
