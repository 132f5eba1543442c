"""What the worker costs, as ratios to something plain that is measured in the same run.

`python -m benchmarks` runs all of it and prints one table; `python -m benchmarks NAME …` a part. A
part is a module with `figures(share)`: its rows, at so large a share of its sizes and durations.
"""
