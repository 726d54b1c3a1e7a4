"""Experiments that reproduce a published number, and the runs that belong to them; imports no torch itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from aetool.config.compose import Point, compose_points
from aetool.config.groups import PublishedConfig
from aetool.config.identity import digest, identity
from aetool.config.schema import TrainConfig
from aetool.config.tree import config_tree, group_options, text_of
from aetool.files import JsonObject, flatten

FREE = ("seed", "trainer.precision")  # identifying keys that a reproduction may choose
KEY = "published"


class Reproduction(NamedTuple):
    """A setting of an experiment with a published number."""

    experiment: str
    overrides: list[str]  # words that tell it from the other settings of the experiment
    config: TrainConfig
    published: PublishedConfig
    digest: str  # of the identity, without the keys that are free

    def is_of(self, identity: object) -> bool:
        """Whether a run with this identity, in plain values, has this setting, with any seed."""
        return isinstance(identity, dict) and _digest(identity) == self.digest

    def measured_otherwise(self, config: object) -> list[str]:
        """Measurement settings that a run with this config, in plain values, sets differently: `probe.c=[1]`."""
        saved = config if isinstance(config, dict) else {}
        section = self.published.metric.partition("/")[0]
        if section == "finetune":
            words = saved.get(section, self.config.finetune)
            return [] if words == self.config.finetune else [f"finetune={words}"]
        group = "probe" if section.startswith("probe-") else "evaluation"
        own, other = identity(getattr(self.config, group)), saved.get(group)
        given = other if isinstance(other, dict) else {}
        keys = [key for key in own if key != "_target_" and given.get(key, own[key]) != own[key]]
        return [f"{group}.{key}={given[key]}" for key in keys]


def reproductions(config_dir: str | Path | None = None) -> list[Reproduction]:
    """All settings of experiments in the conf tree that have a published number."""
    with config_tree(config_dir) as loader:
        names = [
            name for name in group_options(loader, "experiment") if f"\n{KEY}:" in text_of(loader, f"experiment/{name}")
        ]
    return [found for name in names for found in _settings(name, config_dir)]


def without_foreign(points: Sequence[Point[TrainConfig]]) -> list[Point[TrainConfig]]:
    """The points without the published numbers of experiments whose setting an override has changed.

    A number that an override states stays.
    """
    known: dict[str, list[Reproduction]] = {}
    found = []
    for point in points:
        others = [word for word in point.words if not word.startswith("experiment=")]
        names = [word.partition("=")[2] for word in point.words if word not in others]
        stated = any(word.lstrip("+").startswith(KEY) for word in others)
        if point.config.published and names and others and not stated:
            name = names[-1]
            if name not in known:
                known[name] = _settings(name, point.config_dir)
            plain, own = point.config.model_dump(), identity(point.config)
            if not any(one.is_of(own) and not one.measured_otherwise(plain) for one in known[name]):
                point = point._replace(config=point.config.model_copy(update={KEY: None}))
        found.append(point)
    return found


def _settings(experiment: str, config_dir: str | Path | None) -> list[Reproduction]:
    """The settings of an experiment that have a published number, each once, regardless of swept seeds."""
    found: dict[str, Reproduction] = {}
    for point in compose_points("train", TrainConfig, [f"experiment={experiment}"], config_dir=config_dir):
        if point.config.published:
            overrides = [word for word in point.overrides if not word.startswith("seed=")]
            own = _digest(identity(point.config))
            found.setdefault(own, Reproduction(experiment, overrides, point.config, point.config.published, own))
    return list(found.values())


def _digest(identity: JsonObject) -> str:
    leaves = {key: value for key, value in flatten(identity) if not isinstance(value, dict) and key not in FREE}
    return digest(leaves)
