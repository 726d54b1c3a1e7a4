"""Steps the optimizers of several networks of the same shapes together."""

import copy
import functools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class JointOptimizer:
    """The optimizers of all members; with a fused kernel, one call updates all members with equal settings.

    `rows` are the members' trained parameters, each (P,), and `layout` the same by parameter. The state is kept per
    row; a member's own state is built from it on demand.
    """

    def __init__(
        self, members: Sequence[torch.optim.Optimizer], rows: Sequence[Tensor], layout: Sequence[Sequence[Tensor]]
    ) -> None:
        self.members, self.rows, self.layout = members, rows, layout
        self.joint: torch.optim.Optimizer | None = None
        self.hooks: list[Any] = []
        if not all(len(member.param_groups) == 1 and member.param_groups[0].get("fused") for member in members):
            return
        self.joint = copy.copy(members[0])
        self.joint.state = defaultdict(dict)
        for at, (member, row, own) in enumerate(zip(members, rows, layout, strict=True)):
            states = [member.state.get(parameter, {}) for parameter in own]
            for name, value in states[0].items():
                joined = value.clone() if name == "step" else torch.cat([state[name].flatten() for state in states])
                self.joint.state[row][name] = joined
            self.hooks.append(member.register_state_dict_pre_hook(functools.partial(self._give_back, at)))

    def step(self) -> None:
        """Equivalent to each member's own `step`."""
        if self.joint is None:
            for member in self.members:
                member.step()
            return
        groups: list[dict[str, Any]] = []
        for member, row in zip(self.members, self.rows, strict=True):
            settings = {name: value for name, value in member.param_groups[0].items() if name != "params"}
            same = next((group for group in groups if settings.items() <= group.items()), None)
            if same is None:
                groups.append(settings | {"params": [row]})
            else:
                same["params"].append(row)
        self.joint.param_groups = groups
        self.joint.step()

    def release(self) -> None:
        """Gives all members their state."""
        for at, hook in enumerate(self.hooks):
            self._give_back(at)
            hook.remove()

    def _give_back(self, at: int, member: torch.optim.Optimizer | None = None) -> None:
        """Builds the state of a member: its parts of the vectors, and the step count, which is kept per parameter."""
        assert self.joint is not None
        state, own = self.joint.state[self.rows[at]], self.layout[at]
        sizes = [parameter.numel() for parameter in own]
        parts = {name: value.split(sizes) for name, value in state.items() if name != "step"}
        for number, parameter in enumerate(own):
            values = {name: split[number].view_as(parameter) for name, split in parts.items()}
            counted = {"step": state["step"].clone()} if "step" in state else {}
            self.members[at].state[parameter] = counted | values
