"""The interface of an autoencoder."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from aetool.components import HasTraits, ModelTraits

BATCH = 100  # images per forward pass in measurements: bounds the memory of feature maps
Activation = Literal["relu", "tanh", "sigmoid", "gelu", "identity"]
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "identity": nn.Identity}


class Batch(NamedTuple):
    """B images for training or validation."""

    x: Tensor  # (B, C, H, W), network input: the images, corrupted if the run has a corruption
    target: Tensor  # (B, C, H, W), the clean images, which reconstructions are compared with
    labels: Tensor | None = None  # (B,) int64
    indices: Tensor | None = None  # (B,) positions in the train split; None for other images
    generator: torch.Generator | None = None  # of this step's noise, on the device of x


class AutoencoderOutput(NamedTuple):
    """What an autoencoder returns for a batch of B images (B, C, H, W)."""

    reconstruction: Tensor  # (B, C, H, W), in the data's range, or logits if the loss says so
    code: Tensor  # (B, code_size) or (B, code_channels, h, w)
    extras: dict[str, Tensor]  # other outputs by name: pre_activation, feature_map, mean, …

    def float(self) -> "AutoencoderOutput":
        extras = {name: value.float() for name, value in self.extras.items()}
        return AutoencoderOutput(self.reconstruction.float(), self.code.float(), extras)


class Autoencoder(nn.Module, HasTraits):
    """An encoder and a decoder; losses and penalties are computed outside.

    `forward` is a pure function of parameters, buffers, input and generator. Given a generator, it may draw noise (a
    sampled code, a mask); without one it is deterministic, as `encode` always is. A model that returns extras overrides
    it and names them in `traits`. Two extras affect the loss. `pixel_weight`, (B, 1 or C, H, W), multiplies the error
    of each pixel before the mean. `target` replaces the images as the reconstruction target of a model with
    `traits.patches`, whose output has one row per patch and whose `encode` returns features of images.
    `has_free_scale`, `init_from_data`, `anneal`, `observe`, `atoms` and `encoder_layer` are optional.
    """

    traits: ClassVar[ModelTraits] = ModelTraits()
    __call__: Callable[..., AutoencoderOutput]  # forward, by way of nn.Module

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to codes (B, code_size) or (B, code_channels, h, w)."""

    @abstractmethod
    def decode(self, code: Tensor) -> Tensor:
        """Codes to reconstructions (B, C, H, W)."""

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput:
        code = self.encode(x)
        return AutoencoderOutput(self.decode(code), code, {})

    @property
    def has_free_scale(self) -> bool:
        """Whether the decoder can undo any rescaling of the code, so that codes can shrink at no cost."""
        return True

    def init_from_data(self, x: Tensor) -> None:
        """Adjusts the initial weights to training images (B, C, H, W); called once before training."""

    def anneal(self, progress: float) -> None:
        """Sets what depends on the fraction of training steps done, in [0, 1), in buffers; called before each step."""

    def observe(self, output: AutoencoderOutput) -> None:
        """Updates running statistics, which are buffers, after each training step."""

    def atoms(self) -> Tensor | None:
        """Weights to show as images, (units, C, h, w)."""
        return None

    def encoder_layer(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Weight (units, C·H·W) and slope (B, units) of an encoder that is one layer with an elementwise activation.

        The Jacobian ∂code/∂x of each image is then diag(slope) · weight. None for any other encoder.
        """
        return None


def is_variational(model: Autoencoder) -> bool:
    """Whether codes are drawn from a Gaussian around `mean` and trained towards the prior N(0, I)."""
    return {"mean", "log_variance"} <= set(model.traits.extras)


def is_readable(tensor: Tensor) -> bool:
    """Whether its values can be read without synchronising: on a CPU, outside `torch.func.vmap`."""
    return tensor.device.type == "cpu" and not torch._C._functorch.is_batchedtensor(tensor)


Layer = TypeVar("Layer", bound=nn.Module)


def layers_of(module: nn.Module, kind: type[Layer]) -> list[Layer]:
    """The layers of one type, in module order."""
    return [layer for layer in module.modules() if isinstance(layer, kind)]
