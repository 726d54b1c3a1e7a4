"""Variational autoencoders."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from aetool.components import ModelTraits, PositiveInt, Several
from aetool.models.base import ACTIVATIONS, Activation, Autoencoder, AutoencoderOutput, layers_of
from aetool.models.conv import map_sizes, unpooling
from aetool.models.dense import layers

LARGEST_LOG_VARIANCE = 15.0  # a standard deviation between 1/1800 and 1800; a smooth bound, so gradients pass


class VAE(Autoencoder):
    """q(h|x) = N(mean, diag exp(log_variance)) and p(x|h) around the decoder's output (Kingma & Welling 2014).

    With a generator the code is a sample mean + exp(log_variance / 2) · ε; without one it is the mean. The prior
    N(0, I) is left to penalty=kl and the likelihood to the loss: the output is linear, so any loss goes with it.
    """

    traits = ModelTraits(extras=("mean", "log_variance"), l0_depends_on_lambda=False)

    def __init__(self, encoder: nn.Module, hidden: int, code_size: int, decoder: nn.Module) -> None:
        """`encoder`: (B, C, H, W) -> (B, hidden); `decoder`: (B, code_size) -> (B, C, H, W)."""
        super().__init__()
        self.encoder, self.posterior, self.decoder = encoder, nn.Linear(hidden, 2 * code_size), decoder

    def encode(self, x: Tensor) -> Tensor:
        return self._posterior(x)[0]

    def decode(self, code: Tensor) -> Tensor:
        return self.decoder(code)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput:
        mean, log_variance = self._posterior(x)
        code = mean
        if generator is not None:
            noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
            code = mean + (log_variance / 2).exp() * noise
        return AutoencoderOutput(self.decode(code), code, {"mean": mean, "log_variance": log_variance})

    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, unbounded = self.posterior(self.encoder(x)).chunk(2, dim=1)
        return mean, LARGEST_LOG_VARIANCE * (unbounded / LARGEST_LOG_VARIANCE).tanh()


class DenseVAE(VAE):
    """pixels → widths → q(h|x), and h → reversed widths → pixels."""

    def __init__(
        self, image_shape: Sequence[int], widths: Sequence[PositiveInt], code_size: PositiveInt, activation: Activation
    ) -> None:
        sizes = [math.prod(image_shape), *widths]
        encoder = nn.Sequential(nn.Flatten(), *layers(sizes, activation), ACTIVATIONS[activation]())
        decoder = nn.Sequential(*layers([code_size, *sizes[::-1]], activation), nn.Unflatten(1, tuple(image_shape)))
        super().__init__(encoder, sizes[-1], code_size, decoder)
        self.image_shape = tuple(image_shape)

    def atoms(self) -> Tensor:
        """Last-layer filters, (widths[0], C, H, W)."""
        return layers_of(self.decoder, nn.Linear)[-1].weight.T.unflatten(1, self.image_shape)


class ConvVAE(VAE):
    """Stages of 3×3 convolutions of stride 2, which halve height and width, rounding up, mirrored by `unpooling`.

    Raises ValueError if `channels` is empty.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Several[PositiveInt],
        code_size: PositiveInt,
        activation: Activation,
    ) -> None:
        sizes = map_sizes(image_shape, channels)
        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        for (before, after), size in zip(pairwise([image_shape[0], *channels]), sizes[:-1], strict=True):
            encoder += [nn.Conv2d(before, after, 3, stride=2, padding=1), ACTIVATIONS[activation]()]
            decoder = [ACTIVATIONS[activation](), unpooling(after, before, size), *decoder]
        map_shape = (channels[-1], *sizes[-1])
        flat = math.prod(map_shape)
        whole = nn.Sequential(nn.Linear(code_size, flat), nn.Unflatten(1, map_shape), *decoder)
        super().__init__(nn.Sequential(*encoder, nn.Flatten()), flat, code_size, whole)

    def atoms(self) -> Tensor:
        """First-layer filters, (channels[0], C, 3, 3)."""
        return layers_of(self.encoder, nn.Conv2d)[0].weight
