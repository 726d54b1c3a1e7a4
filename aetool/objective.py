"""What training minimises: reconstruction + lambda · Σ scale · R."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from aetool.models.base import AutoencoderOutput

Loss = Callable[[Tensor, Tensor], Tensor]  # (reconstruction, x) -> scalar


class Penalty(Protocol):
    """A regulariser R; the weight is applied by Objective."""

    def __call__(self, model: nn.Module, x: Tensor, output: AutoencoderOutput) -> Tensor: ...


class Term(NamedTuple):
    penalty: Penalty
    scale: float


class Objective:
    """Reconstruction loss plus `weight` (lambda) times the scaled penalties."""

    def __init__(self, loss: Loss, terms: Mapping[str, Term], weight: float, warmup_steps: int) -> None:
        self.loss = loss
        self.terms = dict(terms)
        self.weight = weight
        self.warmup_steps = warmup_steps

    def weight_at(self, step: int | None) -> float:
        """Lambda at a step: rises linearly over the warm-up; None: its final value."""
        if step is None or step >= self.warmup_steps:
            return self.weight
        return self.weight * (step + 1) / self.warmup_steps

    def __call__(
        self, model: nn.Module, x: Tensor, output: AutoencoderOutput, step: int | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its terms by name before weighting: `loss/reconstruction`, `penalty/<name>`."""
        loss = self.loss(output.reconstruction, x)
        terms = {"loss/reconstruction": loss.detach()}
        weight = self.weight_at(step)
        for name, (penalty, scale) in self.terms.items():
            value = penalty(model, x, output)
            loss = loss + weight * scale * value
            terms[f"penalty/{name}"] = value.detach()
        return loss, terms
