"""Mini-batch training of a small head on frozen features, shared by the probes that need it."""

import functools
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aetool.errors import NonFiniteError
from aetool.probes.base import Fitted, Labelled, accuracy
from aetool.randomness import generator


def train_head(
    head: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[float], float],
    split: Labelled,
    epochs: int,
    batch_size: int,
    seed: int,
    poll: Callable[[], None],
) -> Iterator[int]:
    """Minimises the cross-entropy of the head's logits; yields 1, 2, …, `epochs`, the head in eval mode, after each.

    `schedule` gives the learning rate at a real number of epochs done. The order of the images is a function of the
    seed and the epoch; those that do not fill the last batch are left out. `poll` is called once per step. Raises
    NonFiniteError when the loss is NaN or infinite at the end of an epoch.
    """
    features, labels = split.features, split.labels.to(split.features.device)
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
            raise NonFiniteError(
                f"the probe's loss is {loss.item()} in epoch {epoch + 1}: give a smaller learning rate"
            )
        yield epoch + 1


@torch.no_grad()
def logits(head: nn.Module, features: Tensor) -> Tensor:
    """(N, K) logits of (N, D) features of any real type."""
    return torch.cat([head(part.float()) for part in features.split(8192)])


def last_epoch(
    head: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[float], float],
    train: Labelled,
    val: Labelled,
    epochs: int,
    batch_size: int,
    seed: int,
    poll: Callable[[], None],
    candidate: float,
) -> Fitted:
    """The head after its last epoch, as the literature's protocols take it; `candidate` is the one there is."""
    for _ in train_head(head, optimizer, schedule, train, epochs, batch_size, seed, poll):
        pass
    metrics = {
        f"{name}/accuracy": accuracy(logits(head, split.features), split.labels.to(split.features.device))
        for name, split in (("train", train), ("val", val))
    }
    return Fitted(functools.partial(logits, head), True, metrics, {candidate: metrics["val/accuracy"]})


class LARS(torch.optim.Optimizer):
    """SGD with momentum on scaled gradients (You et al. 2017): that of a matrix W, g, is first multiplied by
    `trust · ‖W‖ / ‖g‖`.

    Those of vectors (biases) are taken as they are, and so is that of a matrix where W or g is 0. No weight decay.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.9, trust: float = 0.001) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if parameter.ndim > 1:
                    ratio = group["trust"] * parameter.norm() / gradient.norm()
                    gradient = gradient * torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0)
                velocity = self.state[parameter].setdefault("velocity", torch.zeros_like(parameter))
                velocity.mul_(group["momentum"]).add_(gradient)
                parameter.sub_(group["lr"] * velocity)
