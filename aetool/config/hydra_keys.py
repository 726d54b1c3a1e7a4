"""Hydra's own keys: those that aetool follows, and what to use instead of the others."""

from collections.abc import Iterator, Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override

from aetool.errors import suggest

FOLLOWED = ("hydra.launcher", "hydra.mode", "hydra.sweeper.params")  # and what is below them
LAUNCHER = "hydra/launcher"
EXTRAS = {  # what to install for a launcher
    "joblib": "aetool[joblib]",
    "submitit_local": "aetool[submitit]",
    "submitit_slurm": "aetool[submitit]",
    "ray": "hydra-ray-launcher",
}
LAUNCHED = ("train", "finetune")  # commands whose points a launcher may run
FOLDERS = "every run has a folder of its own; set output=… or name=…"
LOGGING = "use -v or -q; every run keeps aetool.log"
INSTEAD = {
    "hydra.run": FOLDERS,
    "hydra.sweep": FOLDERS,
    "hydra.output_subdir": "every run keeps its config in config.json",
    "hydra.verbose": LOGGING,
    "hydra.job_logging": LOGGING,
    "hydra.hydra_logging": LOGGING,
    "hydra.searchpath": "use --config-dir DIR",
    "hydra.sweeper": "a sweep is the grid of its values: key=a,b,c",
}


def refusals(command: str, overrides: Sequence[Override], multirun: bool, loader: ConfigLoader) -> Iterator[str]:
    """Why these overrides of Hydra's own keys are not supported."""
    for item in overrides:
        key = str(item.key_or_group)
        path = key.replace("/", ".")
        if not path.startswith("hydra.") and path != "hydra":
            continue
        if not _below(path, FOLLOWED):
            instead = next((text for name, text in INSTEAD.items() if _below(path, (name,))), "leave it out")
            yield f"{key}: aetool does not take it from Hydra; {instead}"
        elif _below(path, ("hydra.sweeper.params",)):
            yield f"{key}: a file of configs sets it; on the command line, add -m and give the values: key=a,b,c"
        elif _below(path, ("hydra.launcher",)) and command not in LAUNCHED:
            yield f"{key}: only aetool {' and '.join(LAUNCHED)} take a launcher; leave it out"
        elif _below(path, ("hydra.launcher",)) and not multirun:
            yield f"{key}: a launcher runs the points of a sweep; add -m"
        elif key == LAUNCHER and item.is_sweep_override():
            yield f"{key}: one launcher runs all points; give one value"
        elif key == LAUNCHER:
            yield from _not_installed(str(item.value()), loader.get_group_options(LAUNCHER))


def _not_installed(name: str, known: Sequence[str]) -> Iterator[str]:
    if name in EXTRAS and name not in known:
        yield f"{LAUNCHER}={name}: not installed; pip install '{EXTRAS[name]}'"
    elif name not in known:
        yield f"{LAUNCHER}={name}: no such option; {suggest(name, {*known, *EXTRAS})}"


def _below(path: str, names: Sequence[str]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in names)
