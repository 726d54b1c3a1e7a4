"""What makes a class or function one of its group: a model, a loss, a dataset, …"""

import inspect
from collections.abc import Mapping

from aetool.components import ModelTraits, PenaltyTraits, ProbeTraits, ScheduleTraits
from aetool.config.targets import load, signature

CONTRACTS: dict[str, tuple[type, str]] = {  # by group: the traits of its base class, and that class
    "model": (ModelTraits, "models.base.Autoencoder"),
    "penalty": (PenaltyTraits, "penalties.base.Penalty"),
    "probe": (ProbeTraits, "probes.base.Probe"),
    "scheduler": (ScheduleTraits, "training.schedules.Schedule"),
}
TAKES = {  # by group: an argument without which a target cannot be of it
    "corruption": "level, its strength",
    "optimizer": "params, the parameters to train",
}
CALLED = {  # by group: what is called, of what a class of it builds
    "loss": "__call__(reconstruction, target)",
    "corruption": "__call__(pixels, generator)",
    "penalty": "__call__(model, batch, output)",
}


def misplaced(group: str, target: str, installed: Mapping[str, Mapping[str, str]]) -> str | None:
    """Why a target cannot be of this group; None if it can. `installed` are the targets of each group.

    Raises TargetError like `load`.
    """
    others = [other for other, known in installed.items() if target in known.values()]
    if others and group not in others:
        return f"it is for {others[0]}; choose {group}=… among its options, or name your own class"
    found, takes = load(target), signature(target)
    traits, base = CONTRACTS.get(group, (None, ""))
    if traits and not isinstance(getattr(found, "traits", None), traits):
        return f"expected a subclass of aetool.{base}"
    if inspect.isabstract(found):
        return "it is abstract; name a subclass of it"
    if group in TAKES and TAKES[group].partition(",")[0] not in takes.annotations:
        return f"it must take {TAKES[group]}"
    if group in CALLED and inspect.isclass(found) and not any("__call__" in vars(base) for base in found.__mro__):
        return f"expected a class with {CALLED[group]}"
    if group == "dataset" and inspect.isclass(found) and not issubclass(found, tuple):
        return "expected a function that returns aetool.data.dataset.Arrays"
    return None
