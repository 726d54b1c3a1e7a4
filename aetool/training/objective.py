"""Training objectives: reconstruction + lambda · Σ scale · R, or the cross-entropy of the classes."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aetool.losses import Loss
from aetool.measures.code import CodeStatistics, active_units
from aetool.models.base import Autoencoder, AutoencoderOutput, Batch
from aetool.models.classifier import Classifier, ClassifierOutput
from aetool.penalties.base import Penalty

Terms = dict[str, Tensor]  # scalars by name
CONTROL_GAIN = 2.0  # change of log lambda for a change of log L0: lambda yields as soon as L0 falls
CONTROL_RATE = 0.02  # change of log lambda a step for an L0 that stays e times its target; L0 follows over 100 steps
LAMBDAS = (1e-8, 1e4)  # bounds of an adjusted lambda: where the target is out of reach it must stay finite

Output = TypeVar("Output", contravariant=True)
Model = TypeVar("Model", contravariant=True)


class Statistics(Protocol[Output]):
    """Metrics of a split that are not simply means over its batches."""

    def update(self, output: Output) -> None: ...

    def compute(self) -> dict[str, float]: ...


class TrainingObjective(nn.Module, Generic[Model, Output]):
    """The objective of a trainer. Its own parameters are trained with the model's."""

    headline: ClassVar[tuple[str, ...]] = ("loss",)  # the validation metrics that sum up a run: `loss` or terms
    keys_to_lower: ClassVar[str] = "optimizer.lr"  # the config keys that tame a loss which is not finite

    @property
    def comparable(self) -> bool:
        """Whether losses of different steps are comparable; if not, the last epoch counts as the best."""
        return True

    @abstractmethod
    def forward(self, model: Model, batch: Batch, output: Output) -> tuple[Tensor, Terms]:
        """The loss and its terms by name; in eval mode, as used in validation."""

    def start(self, model: Model, step: int, total_steps: int) -> None:
        """Called before each training step, to set whatever depends on its number; `forward` must not depend on it."""

    def rank(self, values: Mapping[str, float]) -> float:
        """The score of an epoch by its validation metrics; lower is better."""
        return values["loss"]

    def observe(self, model: Model, output: Output) -> None:
        """Updates running statistics after a training step."""

    def statistics(self) -> Statistics[Output] | None:
        """A new accumulator for a split."""
        return None

    def epoch_metrics(self) -> dict[str, float]:
        """Metrics of the training steps since the last call."""
        return {}

    def settings(self) -> dict[str, float]:
        """Quantities that change from step to step, for the record; in eval mode, as used in validation."""
        return {}


class Term(NamedTuple):
    penalty: Penalty
    scale: float


class Sparsity:
    """L0 and dead fraction of the codes of a split."""

    def __init__(self) -> None:
        self.code = CodeStatistics(effective_rank=False)

    def update(self, output: AutoencoderOutput) -> None:
        self.code.update(output.code)

    def compute(self) -> dict[str, float]:
        found = self.code.compute()
        return {"l0": found["l0"], "dead_fraction": found["dead_fraction"]}


class Objective(TrainingObjective[Autoencoder, AutoencoderOutput]):
    """Reconstruction loss plus `weight` (lambda) times the scaled penalties.

    In training, lambda rises linearly during warm-up. With `target_l0`, it starts at `weight` and is adjusted so that
    the mean number of active units approaches the target. After every step, log lambda += gain · (change of e) + rate ·
    e for the smoothed error e = log(L0 / target): a PI controller. L0 responds with a delay, and a network that was too
    sparse recovers poorly, so the rate applies only after warm-up, and |e| is clipped to 1.
    """

    keys_to_lower = "optimizer.lr or penalty.weight"

    def __init__(
        self,
        loss: Loss,
        terms: Mapping[str, Term],
        weight: float,
        warmup_steps: int,
        target_l0: float | None = None,
        code_size: int | None = None,
    ) -> None:
        """With a `code_size`, the number of values in a code, `epoch_metrics` has `dead_fraction`."""
        super().__init__()
        self.loss: Any = loss  # torch's modules annotate their attributes as tensors
        self.terms = dict(terms)
        self.warmup_steps = warmup_steps
        self.target_l0 = target_l0
        self.trained = nn.ModuleDict({name: t.penalty for name, t in terms.items() if isinstance(t.penalty, nn.Module)})
        # On the device, so that steering lambda need not wait for it; in double precision, as a float is.
        self.weight = nn.Buffer(torch.tensor(weight, dtype=torch.float64))
        self.warm_weight = nn.Buffer(self.weight.clone(), persistent=False)  # of the present step
        self.steered = nn.Buffer(torch.zeros((), dtype=torch.int64))  # steps
        self.error = nn.Buffer(torch.zeros((), dtype=torch.float64))  # log(L0 / target), smoothed over about 10 steps
        # Of each unit, over the steps of an epoch: 0 where it was never active, and many times faster than `any`.
        self.code_sum = None if code_size is None else nn.Buffer(torch.zeros(code_size))

    @property
    def comparable(self) -> bool:
        return self.target_l0 is None

    def statistics(self) -> Sparsity:
        return Sparsity()

    def epoch_metrics(self) -> dict[str, float]:
        """`dead_fraction`: the fraction of units that were never active."""
        if self.code_sum is None:
            return {}
        dead = (self.code_sum == 0).float().mean().item()
        self.code_sum.zero_()
        return {"dead_fraction": dead}

    def settings(self) -> dict[str, float]:
        return {"lambda": (self.warm_weight if self.training else self.weight).item()}

    def start(self, model: Autoencoder, step: int, total_steps: int) -> None:
        model.anneal(step / max(1, total_steps))
        if step < self.warmup_steps:
            torch.mul(self.weight, step + 1, out=self.warm_weight).div_(self.warmup_steps)
        else:
            self.warm_weight.copy_(self.weight)

    def forward(self, model: Autoencoder, batch: Batch, output: AutoencoderOutput) -> tuple[Tensor, Terms]:
        """The loss, and its terms by name before weighting: `loss/reconstruction`, `penalty/<name>`."""
        batch = batch._replace(target=output.extras.get("target", batch.target))
        loss = self._reconstruction_loss(output, batch.target)
        terms = {"loss/reconstruction": loss.detach()}
        weight = self.warm_weight if self.training else self.weight
        for name, (penalty, scale) in self.terms.items():
            value = penalty(model, batch, output)
            loss = loss + (weight * scale).to(value) * value
            terms[f"penalty/{name}"] = value.detach()
        return loss, terms

    def _reconstruction_loss(self, output: AutoencoderOutput, target: Tensor) -> Tensor:
        pixel_weight = output.extras.get("pixel_weight")
        if pixel_weight is None and isinstance(self.loss, Loss):
            return self.loss.mean(output.reconstruction, target)
        error = self.loss(output.reconstruction, target)
        return (error if pixel_weight is None else error * pixel_weight).mean()

    @torch.no_grad()
    def observe(self, model: Autoencoder, output: AutoencoderOutput) -> None:
        """Updates running statistics after a training step: of the model, of the penalties, and lambda."""
        model.observe(output)
        for term in self.terms.values():
            term.penalty.observe(output)
        if self.code_sum is not None:
            code = output.code.flatten(1)
            self.code_sum.addmv_(code.T, code.new_ones(len(code)))
        if self.target_l0 is not None:
            self._steer(active_units(output.code).double().mean(), self.target_l0)

    def _steer(self, l0: Tensor, target: float) -> None:
        error = (l0 / target).clamp_min(0.01).log()
        before = torch.where(self.steered == 0, error, self.error)
        self.error.copy_(0.9 * before + 0.1 * error)
        drift = (CONTROL_RATE * self.error.clamp(-1, 1)).where(self.steered >= self.warmup_steps, 0)
        change = CONTROL_GAIN * (self.error - before) + drift
        self.steered.add_(1)
        self.weight.mul_(change.exp()).clamp_(*LAMBDAS)


class CrossEntropy(TrainingObjective[Classifier, ClassifierOutput]):
    """Mean cross-entropy of the classes, in nats; the best epoch is the one with the highest validation accuracy.

    In training the targets have 1 - `label_smoothing` at the label and the rest spread evenly over all classes
    (Szegedy et al. 2016); validation compares with the labels themselves.
    """

    headline = ("loss", "accuracy")

    def __init__(self, label_smoothing: float) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, model: Classifier, batch: Batch, output: ClassifierOutput) -> tuple[Tensor, Terms]:
        """The loss, and `accuracy`, the fraction of images whose class is predicted correctly."""
        assert batch.labels is not None
        smoothing = self.label_smoothing if self.training else 0.0
        loss = F.cross_entropy(output.logits, batch.labels, label_smoothing=smoothing)
        return loss, {"accuracy": (output.logits.argmax(dim=1) == batch.labels).float().mean()}

    def rank(self, values: Mapping[str, float]) -> float:
        return -values["accuracy"]
