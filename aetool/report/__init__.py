"""Comparison of runs: rows, statistics over seeds, the Pareto front, tables, figures and the report; no torch."""
