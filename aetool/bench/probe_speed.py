"""The linear probe's speed against scikit-learn's LogisticRegression, on the same features and with the same L2."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression as Reference
from threadpoolctl import threadpool_limits
from torch import Tensor

from aetool.config.schema import BenchConfig
from aetool.probes.base import Labelled, accuracy
from aetool.probes.linear import LogisticRegression
from aetool.probes.path import predict
from aetool.probes.standardisation import standardisation
from aetool.training.hardware import prepare_torch

Weights = tuple[Tensor, Tensor]  # (K, D) and (K,)
MAX_ITERATIONS = 10_000


class Fit(NamedTuple):
    seconds: float
    accuracy: float  # in [0, 1], on samples that were not fitted
    excess: float  # of the objective over its minimum, in nats per sample


def rounds(config: BenchConfig, clock: Callable[[], float]) -> list[tuple[Fit, Fit]]:
    """Pairs (ours, scikit-learn's), one per round, run in turn; each time is for a complete fit from scratch.

    Both minimise `mean cross-entropy + l2/2 · ‖W‖²` in float32. Their stopping criteria differ, so both are compared
    with the minimum of a float64 fit.
    """
    device, settings = prepare_torch(config), config.features
    classes, l2 = settings.classes, settings.l2
    train, held_out = synthetic(settings.samples, settings.width, classes, config.seed)
    on_device = Labelled(train.features.to(device), train.labels.to(device))
    arrays = train.features.numpy(), train.labels.numpy()
    precise = train.features.double()

    def objective(weights: Weights) -> float:
        weight, bias = (part.cpu().double() for part in weights)
        loss = F.cross_entropy(predict((weight, bias), precise), train.labels)
        return (loss + l2 / 2 * weight.square().sum()).item()

    def ours() -> Weights:
        regression = LogisticRegression(*on_device, classes)
        regression.fit(l2, settings.tolerance, MAX_ITERATIONS)
        weight, bias = regression.weights()
        return weight.cpu(), bias.cpu()

    def theirs() -> Weights:
        inverse = 1 / (len(train.features) * l2)
        reference = Reference(C=inverse, tol=settings.gradient_tolerance, max_iter=MAX_ITERATIONS).fit(*arrays)
        return torch.from_numpy(reference.coef_), torch.from_numpy(reference.intercept_)

    def timed(fit: Callable[[], Weights]) -> Fit:
        started = clock()
        weights = fit()
        seconds = clock() - started
        return Fit(seconds, accuracy(predict(weights, held_out.features), held_out.labels), objective(weights) - least)

    with threadpool_limits(config.threads):
        best = LogisticRegression(precise, train.labels, classes)
        best.fit(l2, 1e-12, MAX_ITERATIONS)
        least = objective(best.weights())
        return [(timed(ours), timed(theirs)) for _ in range(config.rounds)]


def synthetic(samples: int, width: int, classes: int, seed: int) -> tuple[Labelled, Labelled]:
    """Standardised Gaussian features, plus another 20 % held out, with classes drawn from the softmax of a linear
    teacher.

    The i-th largest variance is 1/i in a random basis, so features are correlated and some directions hardly vary.
    """
    generator = torch.Generator().manual_seed(seed)
    total = samples + samples // 5
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    deviation = torch.arange(1, width + 1) ** -0.5
    features = torch.randn(total, width, generator=generator).mul_(deviation) @ basis
    mean, scale = standardisation(features[:samples])
    features.sub_(mean).mul_(scale)
    logits = features @ torch.randn(width, classes, generator=generator) * (2 / width**0.5)
    noise = -torch.rand(total, classes, generator=generator).log_().neg_().log_()  # Gumbel's
    labels = (logits + noise).argmax(dim=1)
    return Labelled(features[:samples], labels[:samples]), Labelled(features[samples:], labels[samples:])
