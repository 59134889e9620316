"""What a survey costs, and whether it holds: `python -m benchmarks.survey`."""
