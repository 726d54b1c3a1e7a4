"""The layers of an encoder, for learning rates that decay from the head to the input."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aetool.config.groups import OptimizerConfig
from aetool.errors import UserError
from aetool.models.base import Autoencoder
from aetool.models.taps import tapped


@dataclass(frozen=True)
class Layer:
    weights: list[nn.Parameter]  # matrices and kernels
    others: list[nn.Parameter]  # biases, scales, thresholds, embeddings

    @property
    def embeds(self) -> bool:
        """Whether it consists only of embeddings."""
        return not self.weights and any(parameter.ndim >= 2 for parameter in self.others)

    def __add__(self, other: "Layer") -> "Layer":
        return Layer(self.weights + other.weights, self.others + other.others)


def parameter_groups(
    head: nn.Module, layers: Sequence[Layer], optimizer: OptimizerConfig, decay: float, frozen_steps: int
) -> list[dict[str, Any]]:
    """torch's parameter groups: the head, then the layers from last to first, which are frozen initially.

    The learning rate falls by the factor `decay` per layer. Weight decay applies only to matrices and kernels, not to
    biases, scales, thresholds and embeddings.
    """
    groups: list[dict[str, Any]] = []
    for depth, layer in enumerate([_layer(head, dict(head.named_parameters())), *reversed(layers)]):
        settings = {"lr": optimizer.lr * decay**depth} | ({"frozen_steps": frozen_steps} if depth else {})
        spared = {"weight_decay": 0.0} if "weight_decay" in optimizer.arguments else {}
        groups += [{"params": layer.weights, **settings}, {"params": layer.others, **settings, **spared}]
    return [group for group in groups if group["params"]]


def encoder_layers(autoencoder: Autoencoder, tap: str, x: Tensor) -> list[Layer]:
    """The parameters that lead from the input to the tap, by layer, in the order of the model.

    All other parameters, such as the decoder's, are frozen. Raises UserError for a tap that the model does not have, or
    if there are no such parameters.
    """
    asking = {name: parameter for name, parameter in autoencoder.named_parameters() if parameter.requires_grad}
    with torch.enable_grad():
        found = tapped(autoencoder.eval(), tap, x)
        if not asking or not found.requires_grad:
            raise UserError(f"tap={tap}: nothing that can be trained leads to it")
        gradients = torch.autograd.grad(found.sum(), list(asking.values()), allow_unused=True)
    layers: dict[str, dict[str, nn.Parameter]] = {}
    for (name, parameter), gradient in zip(asking.items(), gradients, strict=True):
        if gradient is None:
            parameter.requires_grad_(False)
        else:
            layers.setdefault(layer_of(autoencoder, name), {})[name] = parameter
    return _merged(_layer(autoencoder, layer) for layer in layers.values())


def layer_of(model: nn.Module, parameter: str) -> str:
    """The layer that a parameter belongs to, both by name: an item of the model's lists and sequences of modules.

    A module with a single list of modules, such as a stack of transformer blocks, is split into its items; a module
    with several parts, such as a block or a Fire module, is one layer. The empty name is the model itself.
    """
    path: list[str] = []
    module = model
    for part in parameter.split(".")[:-1]:
        path.append(part)
        module = getattr(module, part)
        if not isinstance(module, nn.Sequential | nn.ModuleList) and not _wraps_a_list(module):
            break
    return ".".join(path)


def _wraps_a_list(module: nn.Module) -> bool:
    children = list(module.children())
    return len(children) == 1 and isinstance(children[0], nn.Sequential | nn.ModuleList)


def _layer(model: nn.Module, parameters: dict[str, nn.Parameter]) -> Layer:
    """An embedding is a parameter of a module with submodules, such as the positions of a transformer."""
    layer = Layer([], [])
    for name, parameter in parameters.items():
        below = model.get_submodule(name.rpartition(".")[0]).children()
        embedding = any(next(child.parameters(), None) is not None for child in below)
        (layer.weights if parameter.ndim >= 2 and not embedding else layer.others).append(parameter)
    return layer


def _merged(layers: Iterable[Layer]) -> list[Layer]:
    """Embeddings join the layer after them; other layers without weights, such as norms, join the layer before them."""
    merged: list[Layer] = []
    for layer in layers:
        if merged and (merged[-1].embeds or not (layer.weights or layer.embeds)):
            merged[-1] += layer
        else:
            merged.append(layer)
    return merged
