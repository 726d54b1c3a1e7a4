"""The command that trains a run again, from what its sweep or its config says; no torch."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from aetool.config.check import ConfigError, flatten
from aetool.config.compose import compose_points, option_names
from aetool.report.rows import NAMED, SWEEP
from aetool.storage.run import CONFIG, identity, read_json

COMPOSED = 20  # configs of one report; a tenth of a second each
PLAIN = re.compile(r"[\w./-]+")  # text that Hydra's grammar takes without quotes


class Reproducer:
    """Finds commands: in the sweeps beside the runs, else by composing configs, of which a report has only so many."""

    def __init__(self) -> None:
        self._swept: dict[Path, dict[str, str]] = {}
        self._composed: dict[tuple[str, ...], dict[str, Any] | None] = {}
        self._agreed: set[tuple[str, ...]] = set()

    def command(self, directory: Path) -> str | None:
        """The command, None where no command line is known to give the config of this run."""
        folder = directory.parent
        if folder not in self._swept:
            self._swept[folder] = swept(folder)
        if directory.name in self._swept[folder]:
            return self._swept[folder][directory.name]
        saved = read_json(directory / CONFIG) or {}
        try:
            words = self._derived(identity(saved["config"]))
        except (KeyError, TypeError, AttributeError):
            return None
        return shlex.join(["aetool", "train", *words]) if words else None

    def _derived(self, wanted: dict[str, Any]) -> list[str] | None:
        """The overrides of the default config that give this one, tried out once for every kind of them."""
        words = [f"model={wanted['model']['name']}", f"dataset={wanted['dataset']['name']}"]
        base = self._compose(words)
        if base is None:
            return None
        words += _options(wanted, base)
        base = self._compose(words)
        if base is None:
            return None
        now, target = _leaves(base), _leaves(wanted)
        if now.keys() - target.keys():
            return None
        changed = {key: value for key, value in target.items() if key not in now or now[key] != value}
        words += [f"{'' if key in now else '+'}{key}={_typed(value)}" for key, value in changed.items()]
        kind = (*words[: len(words) - len(changed)], *changed)
        if changed and kind not in self._agreed:
            if self._compose(words) != wanted:
                return None
            self._agreed.add(kind)
        return words

    def _compose(self, words: list[str]) -> dict[str, Any] | None:
        """What decides the network in the config of these overrides; None where they do not compose."""
        if tuple(words) not in self._composed:
            if len(self._composed) >= COMPOSED:
                return None
            try:
                self._composed[tuple(words)] = identity(compose_points("train", words)[0].config)
            except ConfigError:
                self._composed[tuple(words)] = None
        return self._composed[tuple(words)]


def swept(folder: Path) -> dict[str, str]:
    """The command of each run that a sweep beside it has trained, by the name of its folder."""
    found = {}
    for path in sorted(folder.glob(f"*/{SWEEP}")):
        sweep = read_json(path) or {}
        line, entries = sweep.get("command"), sweep.get("runs")
        if not isinstance(line, str) or not isinstance(entries, list):
            continue
        for entry in entries:
            if isinstance(entry, dict) and isinstance(entry.get("overrides"), list):
                found[str(entry.get("directory"))] = point_command(line, [str(word) for word in entry["overrides"]])
    return found


def point_command(line: str, overrides: list[str]) -> str:
    """The command of one point of a sweep: that of the sweep with the point's own values in place of the axes."""
    own = {word.partition("=")[0] for word in overrides}
    kept = [
        word for word in shlex.split(line) if word not in ("-m", "--multirun") and word.partition("=")[0] not in own
    ]
    return shlex.join([*kept, *overrides])


def _options(wanted: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """The options of groups that differ from the base."""
    words = []
    if wanted["penalty"]["terms"].keys() != base["penalty"]["terms"].keys():
        terms = ",".join(wanted["penalty"]["terms"])
        words.append(f"penalty=[{terms}]" if "," in terms else f"penalty={terms or 'none'}")
    for group in NAMED:
        target = wanted[group]["_target_"]
        if target != base[group]["_target_"]:
            called = target.rpartition(".")[2].lower()
            names = {name.replace("_", ""): name for name in option_names(group)} | {"identity": "none"}
            words += [f"{group}={names[called]}"] if called in names else []
    return words


def _leaves(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flatten(config) if not isinstance(value, dict) or not value}


def _typed(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    return json.dumps(value)
