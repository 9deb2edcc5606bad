"""Grids of runs: plan, worker processes, results table."""
