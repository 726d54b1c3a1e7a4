"""The likelihood of images under a variational autoencoder: the evidence lower bound and the importance-weighted bound.

Models have the extras `mean` and `log_variance`, the prior N(0, I), and a decoder. Its output is the mean of Gaussian
pixels, or that mean in logits (`preprocessing.logits`); for grey images, of one channel, the logits of Bernoulli ones.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from aetool.data.images import SplitImages
from aetool.data.preprocessing import Preprocessing
from aetool.models.base import BATCH, Autoencoder
from aetool.randomness import subset

IMAGES = 1000  # whose likelihood is bounded
ACTIVE = 0.01  # variance over images of a unit's posterior mean, above which it is active (Burda et al. 2016)


class RateDistortion(NamedTuple):
    """A point on the rate-distortion curve (Alemi et al. 2018, "Fixing a broken ELBO"); rate + distortion = -ELBO."""

    kl: Tensor  # (units,) float64: mean KL(q(h_i|x) ‖ N(0, 1)) of each unit, nats
    distortion: float  # mean -log p(x|h), nats per image
    mse: float  # squared error per pixel in [0, 1] of the images decoded from h
    sigma: float | None  # standard deviation of Gaussian pixels, the maximum-likelihood value; None: Bernoulli pixels

    @property
    def rate(self) -> float:
        """Mean KL(q(h|x) ‖ N(0, I)), nats per image."""
        return self.kl.sum().item()

    def metrics(self) -> dict[str, float]:
        return {
            "rate_nats": self.rate,
            "rate_bits": self.rate / math.log(2),
            "distortion_nats": self.distortion,
            "distortion_mse": self.mse,
        }


@torch.no_grad()
def rate_distortion(
    model: Autoencoder,
    preprocessing: Preprocessing,
    images: SplitImages,
    generator: torch.Generator,
    poll: Callable[[], None] = lambda: None,
) -> RateDistortion:
    """Of uint8 images (N, C, H, W), with one draw h of q(h|x) for each; targets are those of `likelihood`."""
    bernoulli = _is_bernoulli(preprocessing, images)
    kl, nats, squares, errors = torch.zeros((), dtype=torch.float64), 0.0, 0.0, 0.0
    for part in images.split(BATCH):
        poll()
        part = part.to(generator.device)
        output = model(preprocessing.to_input(part), generator).float()
        target = _target(preprocessing, part, generator)
        kl = kl + divergence(output.extras["mean"], output.extras["log_variance"]).double().sum(dim=0)
        if bernoulli:
            nats -= Bernoulli(logits=output.reconstruction).log_prob(target).double().sum().item()
        else:
            mean = output.reconstruction.sigmoid() if preprocessing.logits else output.reconstruction
            squares += (target - mean).double().square().sum().item()
        errors += (part / 255 - preprocessing.to_pixels(output.reconstruction)).double().square().sum().item()
    count, values = len(images), images.shape.numel()
    sigma = None if bernoulli else math.sqrt(squares / values)
    if sigma is not None:
        nats = values * (math.log(sigma) + 0.5 * math.log(2 * math.pi) + 0.5)
    return RateDistortion(kl / count, nats / count, errors / values, sigma)


@torch.no_grad()
def likelihood(
    model: Autoencoder,
    preprocessing: Preprocessing,
    images: SplitImages,
    sigma: float | None,
    samples: int,
    generator: torch.Generator,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Bounds on the log-likelihood of up to 1,000 of the uint8 images (N, C, H, W), nats per image.

    - `elbo`: the evidence lower bound; `nll`: minus the tighter, importance-weighted bound of Burda et al. 2016, from
      the same `samples` draws; `kl`: KL(q(h|x) ‖ N(0, I)), the part of the bound due to the code.
    - `active_units`: units whose posterior mean has a variance over images above 0.01 (Burda et al. 2016).
    - `nll_images`: the number of images, the same for every run.
    - With Gaussian pixels, whose standard deviation is `sigma` (None: Bernoulli pixels), that `sigma`, and
      `bits_per_dim`: -log2 P of an 8-bit pixel value, from the same bound. The density is that of the network's input.

    q(h|x) is always computed from the original image, neither binarised nor dequantised: any q gives a bound.
    """
    chosen = images[subset(len(images), IMAGES)]
    parts = []  # of each batch: the two bounds and the KL, (B,), and the posterior mean, (B, units)
    for part in chosen.split(BATCH):
        part = part.to(generator.device)
        extras = model(preprocessing.to_input(part)).extras
        mean, log_variance = extras["mean"].float(), extras["log_variance"].float()
        target = _target(preprocessing, part, generator)
        decode = functools.partial(_decoded, model, preprocessing.logits and sigma is not None)
        weights = log_weights(decode, mean, log_variance, target, sigma, samples, generator, poll)
        bound = weights.logsumexp(dim=0) - math.log(samples)
        parts.append((weights.mean(dim=0), bound, divergence(mean, log_variance).sum(dim=1), mean.double()))
    elbo, bound, kl, means = (torch.cat(column) for column in zip(*parts, strict=True))
    nll = -bound.mean().item()
    found = {
        "elbo": elbo.mean().item(),
        "nll": nll,
        "kl": kl.mean().item(),
        "active_units": float((means.var(dim=0, correction=0) > ACTIVE).sum()),
        "nll_images": float(len(chosen)),
    }
    if sigma is not None:
        levels = sum(math.log(255 * std) for std in preprocessing.std) / len(preprocessing.std)  # per unit of input
        found |= {"sigma": sigma, "bits_per_dim": (nll / images[0].numel() + levels) / math.log(2)}
    return found


@torch.no_grad()
def log_weights(
    decode: Callable[[Tensor], Tensor],
    mean: Tensor,
    log_variance: Tensor,
    target: Tensor,
    sigma: float | None,
    samples: int,
    generator: torch.Generator,
    poll: Callable[[], None] = lambda: None,
) -> Tensor:
    """log p(target|h) + log p(h) - log q(h) for draws h of q = N(mean, exp(log_variance)): (samples, B) float64.

    Their mean estimates the ELBO; the log of the mean of their exponentials is never below that and approaches
    log p(target) as samples grow. `decode` gives the mean of Gaussian pixels, of standard deviation `sigma`; with sigma
    None the logits of Bernoulli pixels, 0 or 1.
    """
    prior = Normal(torch.zeros_like(mean), 1.0)
    posterior = Normal(mean, (log_variance / 2).exp())
    weights = []
    for _ in range(samples):
        poll()
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        code = mean + posterior.scale * noise
        output = decode(code)
        pixels = Bernoulli(logits=output) if sigma is None else Normal(output, sigma)
        of_code = (prior.log_prob(code) - posterior.log_prob(code)).double().sum(dim=1)
        weights.append(pixels.log_prob(target).flatten(1).double().sum(dim=1) + of_code)
    return torch.stack(weights)


def _target(preprocessing: Preprocessing, images: Tensor, generator: torch.Generator) -> Tensor:
    """What the density is of: images binarised by one draw, with grey levels as probabilities, for Bernoulli pixels;
    dequantised by uniform noise of one grey level for Gaussian ones (Theis et al. 2016)."""
    if _is_bernoulli(preprocessing, images):
        return torch.bernoulli(images / 255, generator=generator)
    noise = torch.rand(images.shape, generator=generator, device=images.device)
    return preprocessing.to_input(images + noise - 0.5)


def _is_bernoulli(preprocessing: Preprocessing, images: SplitImages) -> bool:
    return preprocessing.logits and images.shape[1] == 1


def _decoded(model: Autoencoder, logits: bool, code: Tensor) -> Tensor:
    output = model.decode(code)
    return output.sigmoid() if logits else output


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) ‖ N(0, 1)) of each unit, nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
