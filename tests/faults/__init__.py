"""Looks for faults of robustness: awkward inputs, kills, full disks, two processes at once.

`python benchmarks/faults.py --minutes 10` runs it; `pytest -m slow tests/faults` runs a little of
everything. Inputs are plain values (what JSON holds), so that each one that finds a fault is kept
as a small file and run again.
"""
