"""Autoencoders, one file per family; the contract is in base.py."""
