"""Autoencoders, one file per family; base.py holds what they have in common."""
