"""Mini-batch training of a small head on frozen features."""

import functools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aetool.errors import NonFiniteError
from aetool.probes.base import Fitted, Labelled, Poll, Probe, accuracy, check_both
from aetool.randomness import generator, seeded

Schedule = Callable[[float], float]  # number of epochs done -> learning rate
Recipe = tuple[nn.Module, torch.optim.Optimizer, Schedule]


def train_head(
    head: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    split: Labelled,
    epochs: int,
    batch_size: int,
    seed: int,
    poll: Poll,
) -> Iterator[int]:
    """Minimise the cross-entropy of the head's logits; yields 1, 2, …, `epochs` after each, with the head in eval mode.

    `schedule` maps the number of epochs done, a real number, to the learning rate. The order of the images is a
    function of seed and epoch; those that do not fill the last batch are skipped. A batch holds at most the split.
    `poll` is called once per step. Raises NonFiniteError if the loss is NaN or infinite at the end of an epoch.
    """
    features, labels = split
    batch_size = min(batch_size, len(labels))
    steps = len(labels) // batch_size
    for epoch in range(epochs):
        order = torch.randperm(len(labels), generator=generator(seed, "probe order", epoch)).to(features.device)
        head.train()
        for step, batch in enumerate(order[: steps * batch_size].split(batch_size)):
            poll()
            for group in optimizer.param_groups:
                group["lr"] = schedule(epoch + step / steps)
            with torch.enable_grad():
                loss = F.cross_entropy(head(features[batch].float()), labels[batch])
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
        head.eval()
        if not loss.isfinite():
            raise NonFiniteError(f"the probe's loss is {loss.item()} in epoch {epoch + 1}: use a smaller learning rate")
        yield epoch + 1


@torch.no_grad()
def logits(head: nn.Module, features: Tensor) -> Tensor:
    """(N, K) logits of (N, D) features of any real type."""
    return torch.cat([head(part.float()) for part in features.split(8192)])


class RecipeProbe(Probe):
    """A published training recipe: the weights after the last epoch are used, and nothing is chosen on validation."""

    def __init__(self, lr: float, batch_size: int, epochs: int, seed: int) -> None:
        self.lr = lr
        self.batch_size = batch_size
        self.epochs = epochs
        self.seed = seed

    @abstractmethod
    def recipe(self, width: int, num_classes: int, batch_size: int) -> Recipe:
        """Set up the training of a head on (N, `width`) features; weights are drawn from torch's global generator."""

    def __call__(self, train: Labelled, val: Labelled, num_classes: int, poll: Poll) -> Fitted:
        train, val = check_both(train, val, num_classes)
        batch_size = min(self.batch_size, len(train.labels))
        with seeded(self.seed, "probe weights"):
            head, optimizer, schedule = self.recipe(train.features.shape[1], num_classes, batch_size)
        head.to(train.features.device)
        for _ in train_head(head, optimizer, schedule, train, self.epochs, batch_size, self.seed, poll):
            pass
        metrics = {
            f"{name}/accuracy": accuracy(logits(head, split.features), split.labels)
            for name, split in (("train", train), ("val", val))
        }
        return Fitted(functools.partial(logits, head), True, metrics, {f"lr={self.lr}": metrics["val/accuracy"]})


class LARS(torch.optim.Optimizer):
    """SGD with momentum on scaled gradients (You et al. 2017): the gradient g of a matrix W is first multiplied by
    `trust · ‖W‖ / ‖g‖`.

    Gradients of vectors (biases) are not scaled, nor is g if W or g is 0. No weight decay.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.9, trust: float = 0.001) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # closures are not supported
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if parameter.ndim > 1:
                    ratio = group["trust"] * parameter.norm() / gradient.norm()
                    gradient = gradient * torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0)
                velocity = self.state[parameter].setdefault("velocity", torch.zeros_like(parameter))
                velocity.mul_(group["momentum"]).add_(gradient)
                parameter.sub_(group["lr"] * velocity)
