"""What components declare about themselves, which the rules of a config read: one class attribute, `traits`."""

from abc import ABCMeta
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class ModelTraits:
    extras: tuple[str, ...] = ()  # names of the extras in the output of every forward pass
    logits: bool = True  # the output may be read as logits
    closed_form: bool = False  # fitted without gradient steps
    l0_depends_on_lambda: bool | None = None  # None: yes, unless `code_activation` is something other than relu
    at_most: Mapping[str, str] = field(default_factory=dict)  # arguments bounded by others, as {"k": "code_size"}
    needs_squared_error_if: str | None = None  # an argument; when it is true, the loss has to be a squared error


@dataclass(frozen=True, kw_only=True)
class PenaltyTraits:
    needs: tuple[str, ...] = ()  # extras of the model's output that it reads
    requires: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # arguments of the model: the allowed values
    sparsifies: bool = False  # a larger lambda leaves fewer units active


@dataclass(frozen=True, kw_only=True)
class LossTraits:
    squared: bool = False  # the error of a pixel is its squared difference


@dataclass(frozen=True, kw_only=True)
class ScheduleTraits:
    compares_losses: bool = False  # reacts to changes of the validation loss


class HasTraits(metaclass=ABCMeta):
    """A component whose declaration is checked when its class is defined.

    The base class of each kind of component sets `traits` to its defaults. Raises TypeError for a subclass that sets
    `traits` to a value of another type, or stores such a declaration under another name.
    """

    traits: ClassVar[Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        inherited = next((vars(base)["traits"] for base in cls.__mro__[1:] if "traits" in vars(base)), None)
        if inherited is None:
            return
        kind = type(inherited)
        for name, value in vars(cls).items():
            if (name == "traits") != isinstance(value, kind):
                raise TypeError(f"{cls.__qualname__}.{name}: the declaration is traits = {kind.__name__}(…)")
