"""aetool: an experiment bench for autoencoders.

Each function does the same as the command of that name and takes the same overrides, as a list such as
``["model=sparse", "penalty.weight=0.01"]``. An invalid config or invalid data raises ``aetool.errors.UserError``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aetool.commands.compare import compare as compare
    from aetool.commands.evaluate import evaluate as evaluate
    from aetool.commands.finetune import finetune as finetune
    from aetool.commands.probe import probe as probe
    from aetool.commands.reproduce import reproduce as reproduce
    from aetool.commands.train import train as train
    from aetool.commands.verify import verify as verify
    from aetool.evaluation.inference import load as load
    from aetool.report.rows import runs as runs

_HOMES = {  # imported when first used, since most of them import torch
    "compare": "aetool.commands.compare",
    "evaluate": "aetool.commands.evaluate",
    "finetune": "aetool.commands.finetune",
    "load": "aetool.evaluation.inference",
    "probe": "aetool.commands.probe",
    "reproduce": "aetool.commands.reproduce",
    "runs": "aetool.report.rows",
    "train": "aetool.commands.train",
    "verify": "aetool.commands.verify",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module, metadata

    if name == "__version__":
        return metadata.version("aetool")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'aetool' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*_HOMES, "__version__"]
