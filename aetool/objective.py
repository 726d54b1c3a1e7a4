"""What training minimises: reconstruction + lambda · Σ scale · R."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from aetool.metrics import active_units
from aetool.models.base import AutoencoderOutput, Batch

Loss = Callable[[Tensor, Tensor], Tensor]  # (reconstruction, target) -> error of every pixel (B, C, H, W)
CONTROL_GAIN = 2.0  # change of log lambda for a change of log L0: lambda yields as soon as L0 falls
CONTROL_RATE = 0.02  # change of log lambda a step for an L0 that stays e times its target; L0 follows over 100 steps
LAMBDAS = (1e-8, 1e4)  # where lambda may be steered: out of reach it must stay finite


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
    target. After every step, log lambda += gain · (change of e) + rate · e for the smoothed error e = log(L0 / target):
    a proportional-integral law. L0 answers late and a network that was too sparse recovers badly, so the rate counts
    only after the warm-up, and an |e| above 1 as 1.
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
        self.steered = 0  # steps
        self.error: float | None = None  # log(L0 / target), smoothed over about 10 steps

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
            self._steer(active_units(output.code).double().mean().item(), self.target_l0)

    def _steer(self, l0: float, target: float) -> None:
        error = math.log(max(l0 / target, 0.01))
        before = error if self.error is None else self.error
        self.error = 0.9 * before + 0.1 * error
        change = CONTROL_GAIN * (self.error - before)
        if self.steered >= self.warmup_steps:
            change += CONTROL_RATE * max(-1.0, min(1.0, self.error))
        self.steered += 1
        low, high = LAMBDAS
        self.weight = max(low, min(high, self.weight * math.exp(change)))

    def get_extra_state(self) -> dict[str, float | None]:
        return {"weight": self.weight, "steered": self.steered, "error": self.error}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.weight, self.steered, self.error = state["weight"], state["steered"], state["error"]
