"""Optimizers without torch._dynamo, whose import takes longer than a short training.

torch imports its compiler in the first call of an optimizer's methods, only to tell it not to compile them.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.optim import Optimizer

Method = Callable[..., Any]
METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")  # torch wraps them in _disable_dynamo


def keep_dynamo_unloaded() -> None:
    """Has torch's optimizers run eagerly while torch._dynamo is not loaded.

    Once it is, as by torch.compile, they are torch's own again. Where torch's internals are others than these, nothing
    changes.
    """
    if "torch._dynamo" in sys.modules:
        return
    for name in METHODS:
        method = vars(Optimizer).get(name)
        if _is(method, "inner"):
            setattr(Optimizer, name, _either(method.__wrapped__, method))
    for kind in _subclasses(Optimizer):
        step = vars(kind).get("step")
        if _is(step, "_use_grad"):
            setattr(kind, "step", _either(_eager_step(step.__wrapped__), step))  # noqa: B010 - mypy


def _either(eager: Method, original: Method) -> Method:
    """`original` where torch._dynamo is loaded, else `eager`."""

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        return (original if "torch._dynamo" in sys.modules else eager)(*args, **kwargs)

    return method


def _eager_step(step: Method) -> Method:
    """What torch's wrapper of `step` does besides talking to the compiler."""

    @functools.wraps(step)
    def eager_step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *args, **kwargs)

    return eager_step


def _is(method: Any, wrapper: str) -> bool:
    """Whether a method is wrapped by torch's function of this name."""
    code = getattr(method, "__code__", None)
    return hasattr(method, "__wrapped__") and code is not None and code.co_name == wrapper


def _subclasses(kind: type) -> Iterator[type]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
