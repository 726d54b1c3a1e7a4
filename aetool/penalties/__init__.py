"""Regularisers R, functions of (model, batch, output); the interface is in base.py."""
