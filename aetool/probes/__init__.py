"""Probes: classifiers fitted on frozen features to measure the information in them."""
