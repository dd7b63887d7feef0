"""Measurements of what the promises cost; `python -m benchmarks` runs them and writes `benchmarks/results/`."""
