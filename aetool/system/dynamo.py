"""Avoids importing torch._dynamo, torch's compiler, which takes longer to import than a short training run.

torch imports it on the first call of some methods, such as those of optimizers, only to mark them as not to be
compiled. Here they run without it until something else loads it, such as torch.compile; from then on torch's own
methods run.
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
    """Applies to all optimizers defined so far."""
    for name in METHODS:
        run_eagerly(Optimizer, name)
    for kind in _subclasses(Optimizer):
        run_eagerly(kind, "step", "_use_grad", _without_grad)


def run_eagerly(
    kind: type, name: str, wrapper: str = "inner", eager: Callable[[Method], Method] = lambda method: method
) -> None:
    """Patches a method that torch wraps in a function of this name, by default that of `torch._disable_dynamo`.

    `eager` creates the replacement from the method as defined. If torch's internals differ, nothing is changed.
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
    """An optimizer's step, including the other effects of torch's wrapper."""

    @functools.wraps(step)
    def eager_step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *args, **kwargs)

    return eager_step


def _subclasses(kind: type[Optimizer]) -> Iterator[type[Optimizer]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
