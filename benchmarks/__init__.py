"""Studies that every quoted figure comes from: ``python -m benchmarks.NAME --out results.json``."""
