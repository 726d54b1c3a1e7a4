"""Datasets: where they come from, the prepared cache, and the splits a run sees."""
