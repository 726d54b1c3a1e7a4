"""The config of a run trained again: whether the weights have the same bits, else by how much they deviate."""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from aetool.config.schema import ComputeConfig, TrainConfig
from aetool.errors import NoValidCheckpointError, UserError
from aetool.evaluation.catalogue import METRICS, PROBE
from aetool.evaluation.headline import headline
from aetool.evaluation.measurement import best_step
from aetool.evaluation.probe import stage
from aetool.storage.checkpoint import Checkpoint, Checkpoints
from aetool.storage.run import Run
from aetool.sweeps.autoencoder import bring_to_end
from aetool.sweeps.rehearsal import are_same_bits

ENVIRONMENT = ("torch", "threads", "device", "cpu", "compile", "cuda_graph", "stacked", "fingerprint")  # of a manifest


class Deviation(NamedTuple):
    """The largest absolute difference between two tensors, and that relative to the largest absolute value."""

    name: str
    absolute: float
    relative: float


class Reproduction(NamedTuple):
    """A run beside the same one trained again."""

    run: Run[TrainConfig]
    steps: tuple[int, int]  # of the best checkpoints
    tensors: int
    deviations: list[Deviation]  # of those that are not bit-equal, the largest first
    metrics: dict[str, tuple[float, float]]  # the headline metrics, by their label
    environment: dict[str, tuple[object, object]]  # what differs

    @property
    def is_exact(self) -> bool:
        return not self.deviations and self.steps[0] == self.steps[1]


def reproduce(run: Run[TrainConfig], compute: ComputeConfig, folder: Path) -> Reproduction:
    """Trains the config of a run again in a folder, with the run's device and threads unless others are given.

    Raises NoValidCheckpointError if the best checkpoint of the run is damaged, and UserError if the folder already
    holds this run.
    """
    recorded = _best(run)
    changes: dict[str, object] = {
        "output": str(folder),
        "name": None,
        "cache": compute.cache,
        "overwrite": False,
        "pause_after": None,
    }
    changes |= {"finetune": None, "supervised": False, "published": None, "halving": None}
    changes["device"] = recorded.manifest.get("device", "auto") if compute.device == "auto" else compute.device
    changes["threads"] = compute.threads or recorded.manifest.get("threads")
    again = Run.of(run.config.model_copy(update=changes), run.command)
    if again.status.get("state") == "completed":
        raise UserError(f"folder={folder}: it already holds this run, {again.directory.name}; give another folder")
    bring_to_end(again)
    found = _best(again)
    before, now = recorded.model(), found.model()
    different = [name for name in before if not are_same_bits(before[name], now.get(name))]
    deviations = [_deviation(name, before[name], now.get(name)) for name in different]
    return Reproduction(
        again,
        (recorded.step, found.step),
        len(before),
        sorted(deviations, key=lambda one: -one.absolute),
        {name: (value, _headlines(again).get(name, float("nan"))) for name, value in _headlines(run).items()},
        _environment(run, recorded, again, found),
    )


def _best(run: Run[TrainConfig]) -> Checkpoint:
    checkpoints = Checkpoints(run.directory / "checkpoints")
    found = checkpoints.at(best_step(run))
    if found is None:
        reason = "; ".join(checkpoints.warnings) or "it is missing"
        raise NoValidCheckpointError(
            f"run={run.directory}: its best checkpoint cannot be compared ({reason}); restore it"
        )
    return found


def _deviation(name: str, before: Tensor, now: Tensor | None) -> Deviation:
    if now is None or before.shape != now.shape:
        return Deviation(name, float("inf"), float("inf"))
    largest = before.double().abs().max().item()
    absolute = (before.double() - now.double()).abs().max().item()
    return Deviation(name, absolute, absolute / largest if largest else float("inf"))


def _headlines(run: Run[TrainConfig]) -> dict[str, float]:
    """The metrics at the end of a run, by their label."""
    stages = run.metrics | {PROBE: headline(run.metrics.get(stage(run.config.probe), {}))}
    values = {f"{name}/{key}": value for name, found in stages.items() for key, value in found.items()}
    return {metric.label: values[metric.key] for metric in METRICS if metric.headline and metric.key in values}


def _environment(
    run: Run[TrainConfig], recorded: Checkpoint, again: Run[TrainConfig], found: Checkpoint
) -> dict[str, tuple[object, object]]:
    """What the runs recorded of their environment, where both did and it differs."""
    pairs = {key: (recorded.manifest.get(key), found.manifest.get(key)) for key in ENVIRONMENT}
    pairs["aetool"] = run.saved.get("aetool"), again.saved.get("aetool")
    return {key: (before, now) for key, (before, now) in pairs.items() if before is not None and before != now}
