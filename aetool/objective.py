"""What training minimises: reconstruction + lambda · Σ scale · R."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from aetool.metrics import active_units
from aetool.models.base import AutoencoderOutput, Batch

Loss = Callable[[Tensor, Tensor], Tensor]  # (reconstruction, target) -> error of every pixel (B, C, H, W)
CONTROL_RATE = 0.02  # change of log lambda a step, for an L0 that is e times its target


class Penalty(Protocol):
    """A regulariser R; the weight is applied by Objective.

    One that is a torch module may have parameters, which are trained with the model's, and buffers. `observe(output)`,
    where there is one, updates the buffers after each training step.
    """

    def __call__(self, model: nn.Module, batch: Batch, output: AutoencoderOutput) -> Tensor: ...


class Term(NamedTuple):
    penalty: Penalty
    scale: float


class Objective(nn.Module):
    """Reconstruction loss plus `weight` (lambda) times the scaled penalties.

    With `target_l0` lambda starts at `weight` and is steered, so that the mean number of active units approaches the
    target: log lambda += rate · log(L0 / target) after every step.
    """

    def __init__(
        self,
        loss: Loss,
        terms: Mapping[str, Term],
        weight: float,
        warmup_steps: int,
        target_l0: float | None = None,
    ) -> None:
        super().__init__()
        self.loss: Any = loss  # torch's modules annotate their attributes as tensors
        self.terms = dict(terms)
        self.warmup_steps = warmup_steps
        self.target_l0 = target_l0
        self.trained = nn.ModuleDict({name: t.penalty for name, t in terms.items() if isinstance(t.penalty, nn.Module)})
        self.weight = weight

    @property
    def moves(self) -> bool:
        """Lambda is steered, so that losses of different steps do not compare."""
        return self.target_l0 is not None

    def weight_at(self, step: int | None) -> float:
        """Lambda at a step: rises linearly over the warm-up; None: its present value without warm-up."""
        if step is None or step >= self.warmup_steps:
            return self.weight
        return self.weight * (step + 1) / self.warmup_steps

    def forward(
        self, model: nn.Module, batch: Batch, output: AutoencoderOutput, step: int | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its terms by name before weighting: `loss/reconstruction`, `penalty/<name>`."""
        error = self.loss(output.reconstruction, batch.target)
        pixel_weight = output.extras.get("pixel_weight")
        loss = (error if pixel_weight is None else error * pixel_weight).mean()
        terms = {"loss/reconstruction": loss.detach()}
        weight = self.weight_at(step)
        for name, (penalty, scale) in self.terms.items():
            value = penalty(model, batch, output)
            loss = loss + weight * scale * value
            terms[f"penalty/{name}"] = value.detach()
        return loss, terms

    @torch.no_grad()
    def observe(self, model: nn.Module, output: AutoencoderOutput) -> None:
        """Updates running statistics after a training step: of the model, of the penalties, and lambda."""
        for part in (model, *(term.penalty for term in self.terms.values())):
            observe = getattr(part, "observe", None)
            if observe is not None:
                observe(output)
        if self.target_l0 is not None:
            l0 = active_units(output.code).double().mean().clamp_min(0.01 * self.target_l0)
            self.weight *= math.exp(CONTROL_RATE * math.log(l0.item() / self.target_l0))

    def get_extra_state(self) -> dict[str, float]:
        return {"weight": self.weight}

    def set_extra_state(self, state: dict[str, float]) -> None:
        self.weight = state["weight"]
