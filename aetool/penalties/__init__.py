"""Regularisers R: (model, batch, output) -> scalar, mean over the batch; lambda is applied by Objective."""
