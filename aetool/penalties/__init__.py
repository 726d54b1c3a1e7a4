"""Regularisers R, functions of (model, batch, output); the contract is in base.py."""
