"""A classifier on top of an autoencoder's encoder."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aetool.models.base import Autoencoder
from aetool.models.taps import tapped

HEAD_STD = 0.01  # of the head's initial weights: the first probabilities are near 1/K


class ClassifierOutput(NamedTuple):
    logits: Tensor  # (B, K)

    def float(self) -> "ClassifierOutput":
        return ClassifierOutput(self.logits.float())


class Classifier(nn.Module):
    """image → encoder → tap → `pool` → flattened → (features - mean) · scale → linear head.

    The tap is `code` or an extra of the autoencoder's output. Mean and scale are fixed, initially 0 and 1:
    standardising makes learning rates comparable between models and lambdas. The encoder stays in eval mode, so that
    features are those a probe sees and do not depend on the other images of a batch.
    """

    def __init__(
        self, autoencoder: Autoencoder, tap: str, pool: Callable[[Tensor], Tensor], in_features: int, num_classes: int
    ) -> None:
        super().__init__()
        self.autoencoder, self.tap, self.pool = autoencoder.eval(), tap, pool
        self.mean = nn.Buffer(torch.zeros(in_features))
        self.scale = nn.Buffer(torch.ones(in_features))
        self.head = nn.Linear(in_features, num_classes)
        nn.init.normal_(self.head.weight, std=HEAD_STD)
        nn.init.zeros_(self.head.bias)

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        self.autoencoder.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        """(B, in_features) float32, before standardisation."""
        return self.pool(tapped(self.autoencoder, self.tap, x).float()).flatten(1)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> ClassifierOutput:
        """Deterministic: the generator is ignored."""
        return ClassifierOutput(self.head((self.features(x) - self.mean) * self.scale))
