"""The contract of an autoencoder."""

from typing import Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

Activation = Literal["relu", "tanh", "sigmoid", "gelu", "identity"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "identity": nn.Identity,
}


class AutoencoderOutput(NamedTuple):
    """What an autoencoder returns for a batch of B images (B, C, H, W)."""

    reconstruction: Tensor  # (B, C, H, W), in the data's range, or logits where the loss says so
    code: Tensor  # (B, code_size) or (B, code_channels, h, w)
    extras: dict[str, Tensor]  # other taps by name: pre_activation, feature_map, …


@runtime_checkable
class Autoencoder(Protocol):
    """A torch module with an encoder and a decoder; losses and penalties are computed outside it.

    Its forward is a pure function of parameters and input. A model that can show pictures of its weights has
    `atoms() -> Tensor` (units, C, H, W) too.
    """

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, code: Tensor) -> Tensor: ...

    def __call__(self, x: Tensor) -> AutoencoderOutput: ...
