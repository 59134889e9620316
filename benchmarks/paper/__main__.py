"""``python -m benchmarks.paper TABLE --out FILE.json``: one command for each table and figure."""

import sys

from . import figures, manifolds, mixing, table1

STUDIES = {
    "table1": table1.main,
    "manifolds": manifolds.main,
    "mixing": mixing.main,
    "figures": figures.main,
}

if __name__ == "__main__":
    name, *arguments = sys.argv[1:] or [""]
    if name not in STUDIES:
        sys.exit(f"{name or 'nothing'}: found no such table, expected one of {', '.join(STUDIES)}")
    STUDIES[name](arguments)
