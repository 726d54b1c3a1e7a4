"""What a component declares: the types and ranges of its arguments, and its traits.

The signature of a component is the schema of its arguments (``code_size: PositiveInt``), checked before any work.
Ranges come from annotated-types and are enforced by pydantic. The class attribute `traits` declares what a component
provides and needs; the config rules read it. Imports no torch.
"""

from abc import ABCMeta
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, TypeVar

from annotated_types import Ge, Gt, Le, Lt, MinLen

T = TypeVar("T")


class NotIdentifying:
    """Marks a config key or argument that does not affect the trained network and is not part of the run id."""


PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
PositiveFraction = Annotated[float, Gt(0), Le(1)]
OpenFraction = Annotated[float, Gt(0), Lt(1)]
BelowOne = Annotated[float, Ge(0), Lt(1)]
Several = Annotated[Sequence[T], MinLen(1)]


@dataclass(frozen=True, kw_only=True)
class ModelTraits:
    extras: tuple[str, ...] = ()  # names of the extras in the output of every forward pass
    logits: bool = True  # the output may be read as logits
    closed_form: bool = False  # fitted without gradient steps
    patches: bool = False  # the output is of patches of the images, and has their extra `target`
    l0_depends_on_lambda: bool | None = None  # None: yes, unless `code_activation` is something other than relu
    l0_fixed_by: tuple[str, ...] = ()  # arguments that set the number of active units, unless they are null
    at_most: Mapping[str, str] = field(default_factory=dict)  # arguments bounded by others, as {"k": "code_size"}
    needs_squared_error_if: str | None = None  # an argument; when it is true, the loss has to be a squared error


@dataclass(frozen=True, kw_only=True)
class PenaltyTraits:
    needs: tuple[str, ...] = ()  # extras of the model's output that it reads
    requires: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # arguments of the model: the allowed values
    sparsifies: bool = False  # a larger lambda leaves fewer units active
    whole_images: bool = False  # it cannot act on the codes of patches


@dataclass(frozen=True, kw_only=True)
class LossTraits:
    squared: bool = False  # the error of a pixel is its squared difference
    logits: bool = False  # it takes logits of pixels, rather than pixels
    whole_images: bool = False  # it cannot compare patches of images


@dataclass(frozen=True, kw_only=True)
class ScheduleTraits:
    compares_losses: bool = False  # reacts to changes of the validation loss


@dataclass(frozen=True, kw_only=True)
class ProbeTraits:
    """What a probe declares about itself."""

    any_scale: bool = False  # multiplying all features by a constant gives the same classifier


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
