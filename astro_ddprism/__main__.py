"""``python -m astro_ddprism``: the command ``ddprism``, as ``torchrun -m`` wants it."""

import sys

from .cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
