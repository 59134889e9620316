"""Damaged files of every kind, and what the program makes of them: `python -m benchmarks.fuzz`."""
