"""From command-line overrides to checked configs with Hydra's compose API; imports no torch."""

import itertools
import math
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from aetool.config.bounds import POINTS
from aetool.config.check import check
from aetool.config.diagnosis import diagnose
from aetool.config.hydra_keys import LAUNCHER, refusals
from aetool.config.node import Node
from aetool.config.overrides import COMPOSITION_ERRORS, composed, first_line, parse, plain, spelled_out
from aetool.config.points import Composer
from aetool.config.rules import given_twice
from aetool.config.schema import SweepConfig, TrainConfig
from aetool.config.tree import config_tree, group_options, installed_targets
from aetool.errors import ConfigError

C = TypeVar("C", bound=Node)
HYDRA = ("hydra.", "hydra/", "+hydra")  # what keys of Hydra itself start with
OF_SWEEP = {*SweepConfig.model_fields, "stack", "halving"}  # keys that say how the points of a sweep are run
BASIC = "basic"  # Hydra's default launcher: in this process or, by `jobs`, on this machine


class Point(NamedTuple, Generic[C]):
    """One run of a command: its checked config, and the overrides that produce it."""

    config: C
    overrides: Sequence[str] = ()  # those that tell it from the other points of its sweep
    words: Sequence[str] = ()  # all of its overrides
    command: str = ""  # as typed, for all points
    config_dir: str | Path | None = None
    launcher: str = BASIC  # of Hydra, for the points of a sweep

    @property
    def command_name(self) -> str:
        return self.command.split(" ", 2)[1] if self.command else "train"

    @property
    def own_command(self) -> str:
        """The command line of this point alone; it resumes where an overwriting one would start over."""
        others = ("overwrite=true", "stack=true")
        return shlex.join(["aetool", *(word for word in self.own_words if word not in others)])

    @property
    def own_words(self) -> list[str]:
        """The command that runs this point in a separate process."""
        options = [] if self.config_dir is None else ["--config-dir", str(self.config_dir)]
        return [self.command_name, *options, *(word for word in self.words if not word.startswith(HYDRA))]

    def words_of(self, names: Collection[str]) -> list[str]:
        """The words that set these keys, or anything in these groups."""
        keys = {word: word.lstrip("+~").partition("=")[0] for word in self.words}
        return [word for word in self.words if keys[word] in names or keys[word].partition(".")[0] in names]


def compose_points(
    command: str, schema: type[C], words: Sequence[str], multirun: bool = False, config_dir: str | Path | None = None
) -> list[Point[C]]:
    """All points of a sweep, or the single run; raises ConfigError with all problems of all points."""
    options = ["-m"] * multirun + ([] if config_dir is None else ["--config-dir", str(config_dir)])
    line = shlex.join(["aetool", command, *options, *words])
    with config_tree(config_dir) as loader:
        overrides = parse(words, loader)
        set_keys = [str(o.key_or_group) for o in overrides if o.is_sweep_override() or o.value() is not None]
        clashing = [*given_twice(command, set_keys), *refusals(command, overrides, multirun, loader)]
        if clashing:
            raise ConfigError(clashing)
        try:
            base = composed(command, [item.input_line for item in overrides if not item.is_sweep_override()])
        except COMPOSITION_ERRORS as error:
            raise diagnose(command, overrides, loader, multirun, error) from None
        multirun = multirun or str(OmegaConf.select(base, "hydra.mode")) == "RunMode.MULTIRUN"
        launcher = str(OmegaConf.select(base, "hydra.runtime.choices")["hydra/launcher"])
        if multirun:
            params = OmegaConf.select(base, "hydra.sweeper.params") or {}
            overrides += parse([f"{k}={v}" for k, v in params.items() if k not in set_keys], loader)
        elif any(item.is_sweep_override() for item in overrides):
            raise diagnose(command, overrides, loader, multirun, None)
        axes = [spelled_out(item) for item in overrides]
        _refuse_sweep(overrides, axes)
        swept = [index for index, item in enumerate(overrides) if item.is_sweep_override()]
        installed = installed_targets(loader) if any("_target_" in key for key in set_keys) or config_dir else None
        points: dict[str, Point[C]] = {}  # equal ones once, however their values are spelled
        problems: list[str] = []
        compose = Composer(command, overrides, loader)
        for values in itertools.product(*axes):
            try:
                values_of_point = plain(compose(values) if multirun else base)
                config = check(values_of_point, schema, typed=set_keys, installed=installed)
                _refuse_launcher(launcher, config, set_keys)
                own = [word for word in values if word]
                point = Point(config, [values[index] for index in swept], own, line, config_dir, launcher)
                points.setdefault(repr(config.model_dump()), point)
            except ConfigError as error:
                problems += error.problems
            except COMPOSITION_ERRORS as error:
                problems += diagnose(command, parse(values, loader), loader, multirun, error).problems
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))
        return list(points.values())


def _refuse_sweep(overrides: Sequence[Override], axes: Sequence[Sequence[str]]) -> None:
    """Raises ConfigError for too many points, and for several values of a key that says how the points are run."""
    keys = [str(item.key_or_group) for item, values in zip(overrides, axes, strict=True) if len(values) > 1]
    problems = [f"{key}: it says how a whole sweep is run; give one value" for key in keys if key in OF_SWEEP]
    if (size := math.prod(map(len, axes))) > POINTS:
        problems.append(f"{', '.join(keys)}: a sweep of {size} points, at most {POINTS}; give several commands")
    if problems:
        raise ConfigError(problems)


def _refuse_launcher(launcher: str, config: Node, set_keys: Collection[str]) -> None:
    """Raises ConfigError for keys that a launcher of Hydra's decides."""
    if launcher != BASIC and "jobs" in set_keys:
        raise ConfigError([f"jobs: {LAUNCHER}={launcher} decides it; leave out one of them"])
    if launcher != BASIC and getattr(config, "stack", False):
        alone = f"{LAUNCHER}={launcher} trains every point by itself"
        raise ConfigError([f"stack=true: {alone}; leave out one of them"])


def compose_one(
    command: str, schema: type[C], words: Sequence[str] = (), config_dir: str | Path | None = None
) -> Point[C]:
    """The single point of overrides without a sweep."""
    points = compose_points(command, schema, words, config_dir=config_dir)
    if len(points) > 1:
        raise ConfigError([f"{' '.join(words)}: several values of a key; give one of each"])
    return points[0]


def compose_each(
    group: str, words: Sequence[str], config_dir: Path | None = None
) -> dict[str, TrainConfig | ConfigError]:
    """The train config for each option of a group, or the reason why it does not compose."""
    found: dict[str, TrainConfig | ConfigError] = {}
    with config_tree(config_dir) as loader:
        lines = [item.input_line for item in parse(words, loader)]
        for option in group_options(loader, group):
            try:
                found[option] = check(plain(composed("train", [*lines, f"{group}={option}"])), TrainConfig)
            except ConfigError as error:
                found[option] = error
            except COMPOSITION_ERRORS as error:
                found[option] = ConfigError([first_line(error)])
    return found
