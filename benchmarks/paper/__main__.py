"""``python -m benchmarks.paper manifolds --out benchmarks/results/paper_manifolds.json``."""

import sys

from .manifolds import main

STUDIES = {"manifolds": main}

if __name__ == "__main__":
    name, *arguments = sys.argv[1:] or [""]
    if name not in STUDIES:
        sys.exit(f"{name or 'nothing'}: found no such table, expected one of {', '.join(STUDIES)}")
    STUDIES[name](arguments)
