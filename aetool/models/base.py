"""The contract of an autoencoder."""

from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

BATCH = 100  # images at a time through a network that is measured: bounds the memory of feature maps
Activation = Literal["relu", "tanh", "sigmoid", "gelu", "identity"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "identity": nn.Identity,
}


class Batch(NamedTuple):
    """B images as training and validation see them."""

    x: Tensor  # (B, C, H, W), network input: the images, corrupted where the run has a corruption
    target: Tensor  # (B, C, H, W), the clean images, which reconstructions are compared with
    labels: Tensor | None = None  # (B,) int64
    indices: Tensor | None = None  # (B,) positions in the train split; None for other images
    generator: torch.Generator | None = None  # of this step's noise, on the device of x


class AutoencoderOutput(NamedTuple):
    """What an autoencoder returns for a batch of B images (B, C, H, W)."""

    reconstruction: Tensor  # (B, C, H, W), in the data's range, or logits where the loss says so
    code: Tensor  # (B, code_size) or (B, code_channels, h, w)
    extras: dict[str, Tensor]  # other taps by name: pre_activation, feature_map, mean, …

    def float(self) -> "AutoencoderOutput":
        """The same in float32."""
        extras = {name: value.float() for name, value in self.extras.items()}
        return AutoencoderOutput(self.reconstruction.float(), self.code.float(), extras)


def is_variational(model: nn.Module) -> bool:
    """Whether codes are drawn from a Gaussian around `mean` and trained towards the prior N(0, I)."""
    return {"mean", "log_variance"} <= set(getattr(model, "extras", ()))


@runtime_checkable
class Autoencoder(Protocol):
    """A torch module with an encoder and a decoder; losses and penalties are computed outside it.

    Its forward is a pure function of parameters, buffers, input and generator: with a generator it draws noise (a
    sampled code, a mask), without one it is deterministic, and `encode` always is. Beside it a model may have

    - `extras`, a class attribute: the names of the extras that it always returns, which penalties can ask for;
    - `observe(output)`: updates its running statistics, which are buffers, after each training step;
    - `atoms() -> Tensor` (units, C, H, W): pictures of its weights;
    - the extra `pixel_weight`, (B, 1 or C, H, W): what the loss of each pixel is multiplied by before the mean.
    """

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, code: Tensor) -> Tensor: ...

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> AutoencoderOutput: ...
