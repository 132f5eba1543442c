"""What the worker costs, mostly as a ratio to a baseline that is measured in the same run.

`python -m benchmarks [NAME …]` runs them and prints one table. A benchmark is a module whose
function `figures(share)` returns rows, measured at this share of its sizes and durations.
"""
