"""Keeps torch._dynamo unloaded, torch's compiler, whose import takes longer than a short training.

torch imports it in the first call of some methods, as of its optimizers, only to tell it not to compile them. Here they
run without it until something else loads it, such as torch.compile; then they are torch's own again.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.optim import Optimizer

Method = Callable[..., Any]
METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def run_optimizers_eagerly() -> None:
    """For all optimizers that are defined by now."""
    for name in METHODS:
        run_eagerly(Optimizer, name)
    for kind in _subclasses(Optimizer):
        run_eagerly(kind, "step", "_use_grad", _without_grad)


def run_eagerly(
    kind: type, name: str, wrapper: str = "inner", eager: Callable[[Method], Method] = lambda method: method
) -> None:
    """For a method that torch wraps in a function of this name, by default that of `torch._disable_dynamo`.

    `eager` makes what runs instead of the method as it is defined. Where torch's internals are others, nothing changes.
    """
    method = vars(kind).get(name)
    defined, code = getattr(method, "__wrapped__", None), getattr(method, "__code__", None)
    if "torch._dynamo" in sys.modules or method is None or defined is None or getattr(code, "co_name", "") != wrapper:
        return
    original, without = method, eager(defined)

    @functools.wraps(original)
    def either(*args: Any, **kwargs: Any) -> Any:
        return (original if "torch._dynamo" in sys.modules else without)(*args, **kwargs)

    setattr(kind, name, either)


def _without_grad(step: Method) -> Method:
    """An optimizer's step with what else torch's wrapper does."""

    @functools.wraps(step)
    def eager_step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *args, **kwargs)

    return eager_step


def _subclasses(kind: type[Optimizer]) -> Iterator[type[Optimizer]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
