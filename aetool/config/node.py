"""Base classes of the typed config: groups of known keys, and components; imports no torch."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from annotated_types import MinLen
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from aetool.components import NotIdentifying

T = TypeVar("T")
Unidentifying = Annotated[T, NotIdentifying()]
Text = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value), MinLen(1)]
STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True, hide_input_in_errors=True)


class Node(BaseModel):
    """A group of keys, all of them known."""

    model_config = STRICT | ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True, defer_build=True)

    def fixed(self) -> dict[str, Any]:
        """The values of the keys in the schema, except a component's target."""
        return {key: value for key, value in self.model_dump().items() if key in type(self).model_fields}


class Component(Node):
    """A node with a `_target_`, the class or function that builds it; its other keys are arguments of the target.

    `given` names the arguments that the program passes when it builds the target. `ranges` are the types of arguments
    whose own annotations, in another package, state no range.
    """

    model_config = ConfigDict(extra="allow")
    given: ClassVar[tuple[str, ...]] = ()
    ranges: ClassVar[Mapping[str, Any]] = {}
    target: str = Field(alias="_target_")

    @property
    def arguments(self) -> dict[str, Any]:
        """The target's own arguments: plain values."""
        return self.model_extra or {}
