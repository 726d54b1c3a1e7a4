"""aetool: an experiment bench for autoencoders.

Every function here does what the command of its name does, and takes the same overrides as words, such as
``["model=sparse", "penalty.weight=0.01"]``. All raise ``aetool.errors.UserError`` for a config or data that is wrong.
"""

from collections.abc import Sequence
from pathlib import Path as _Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aetool.config.schema import TrainConfig
    from aetool.evaluation.inference import TrainedRun
    from aetool.report.comparison import Comparison
    from aetool.report.rows import Value
    from aetool.storage.metrics import Metrics
    from aetool.storage.run import Run
    from aetool.sweeps.finetune import Result

__all__ = ["compare", "evaluate", "finetune", "load", "probe", "runs", "train"]


def train(overrides: Sequence[str] = (), config_dir: str | _Path | None = None) -> "Run[TrainConfig]":
    """Trains an autoencoder, then evaluates and probes it; a finished run is found, an interrupted one resumes."""
    from aetool.config.compose import compose_one
    from aetool.config.schema import TrainConfig
    from aetool.storage.run import Run
    from aetool.sweeps.finetune import supervised_baseline
    from aetool.sweeps.train import train

    point = compose_one("train", TrainConfig, overrides, _folder(config_dir))
    run = train(Run.of(point.config, point.own_command))
    if run.config.supervised:
        supervised_baseline(run)
    return run


def evaluate(
    run: "Run[TrainConfig] | str | _Path", overrides: Sequence[str] = (), config_dir: str | _Path | None = None
) -> "Metrics":
    """Reconstruction, code and cost metrics of a trained run by `split/name`, beside the baselines."""
    from aetool.config.compose import compose_one
    from aetool.config.schema import EvaluateConfig
    from aetool.config.tree import known_targets
    from aetool.evaluation.evaluate import evaluate
    from aetool.evaluation.session import Session
    from aetool.storage.metrics import Metrics
    from aetool.storage.opening import opened

    config = compose_one("evaluate", EvaluateConfig, [_run_word(run), *overrides], _folder(config_dir)).config
    with opened(config.run, known_targets(_folder(config_dir))) as found:
        return Metrics(evaluate(Session(found, config), config.evaluation, config.baselines, config.overwrite))


def probe(
    run: "Run[TrainConfig] | str | _Path", overrides: Sequence[str] = (), config_dir: str | _Path | None = None
) -> "Metrics":
    """Classification on the frozen features of a trained run: metrics by `tap/split/name`, beside the baselines."""
    from aetool.config.compose import compose_one
    from aetool.config.schema import ProbeCommandConfig
    from aetool.config.tree import known_targets
    from aetool.evaluation.probe import probe
    from aetool.evaluation.session import Session
    from aetool.storage.metrics import Metrics
    from aetool.storage.opening import opened

    config = compose_one("probe", ProbeCommandConfig, [_run_word(run), *overrides], _folder(config_dir)).config
    with opened(config.run, known_targets(_folder(config_dir))) as found:
        return Metrics(probe(Session(found, config), config.probe, config.baselines, config.overwrite))


def finetune(overrides: Sequence[str] = (), config_dir: str | _Path | None = None) -> "Result":
    """Classification end to end, from a run (`run=DIR`) or from scratch (`model=…`, `dataset=…`)."""
    from aetool.config.compose import compose_one
    from aetool.config.schema import FinetuneConfig
    from aetool.sweeps.finetune import run_finetune

    return run_finetune(compose_one("finetune", FinetuneConfig, overrides, _folder(config_dir)))


def compare(
    directories: Sequence[str | _Path] = ("outputs",), where: Sequence[str] = (), sort: str | None = None
) -> "Comparison":
    """Runs side by side: a table over seeds, and what the differences allow to say."""
    from aetool.report.comparison import open_comparison

    return open_comparison([_Path(directory) for directory in directories], where, sort)


def load(directory: str | _Path, device: str = "auto", config_dir: str | _Path | None = None) -> "TrainedRun":
    """The trained network of a run folder, in eval mode, with its preprocessing."""
    from aetool.evaluation.inference import load

    return load(directory, device, config_dir)


def runs(directory: str | _Path = "outputs") -> "list[dict[str, Value]]":
    """One flat row for every run in a folder: name, state, config keys, metrics as `stage/metric`; ready for pandas."""
    from aetool.report.rows import FOREIGN, MISSING, read_rows

    return [row for row in read_rows([_Path(directory)]) if row["state"] not in (FOREIGN, MISSING)]


def _folder(config_dir: str | _Path | None) -> _Path | None:
    return None if config_dir is None else _Path(config_dir)


def _run_word(run: "Run[TrainConfig] | str | _Path") -> str:
    return f"run={run if isinstance(run, str | _Path) else run.directory}"


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("aetool")
    raise AttributeError(f"module 'aetool' has no attribute {name!r}")
