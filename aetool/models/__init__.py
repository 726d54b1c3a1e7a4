"""Autoencoders, one file per family; the interface is in base.py."""
