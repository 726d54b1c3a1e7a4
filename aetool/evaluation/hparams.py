"""TensorBoard's HParams tab: the config of a run, and one number for each of its headline results."""

from collections.abc import Mapping
from typing import Any

from aetool.config.identity import identity
from aetool.config.schema import RunConfig, TrainConfig
from aetool.evaluation.catalogue import PROBE, RESULTS
from aetool.evaluation.headline import headline, probe_stage
from aetool.files import flatten
from aetool.storage.events import Events
from aetool.storage.run import C, Run

LEFT_OUT = (  # keys that nobody compares runs by; runs that differ in the seed alone are one row
    "seed",
    "_target_",
    "dataset.num_classes",
    "dataset.num_train",
    "dataset.val_fraction",
    "loss.logits",
    "loss.pixels",
)
# One dot per run, for the HParams tab alone. Its columns are in the order of code points, where the space comes before
# the slash of `loss/train`; in the other tabs, where a slash comes before all else, the curves are shown first.
GROUP = "loss & results"


def write_hparams(run: Run[C]) -> None:
    """Declares the identifying config of a run and its results so far, replacing earlier ones."""
    scalars = ((k, v) for k, v in flatten(identity(run.config)) if isinstance(v, bool | int | float | str))
    training = next(iter(run.metrics.values()), {})
    with Events(run.directory, "hparams") as events:
        events.hparams({key: value for key, value in scalars if not key.endswith(LEFT_OUT)})
        events.scalars(int(training.get("best_step", 0)), results(run.metrics, run.config))
    run.warn(events.warnings)


def results(metrics: Mapping[str, Mapping[str, Any]], config: RunConfig) -> dict[str, float]:
    """What TensorBoard shows of the content of metrics.json: `loss & results/accuracy`, `…/fvu`, …"""
    stages = dict(metrics)
    if isinstance(config, TrainConfig):
        own = config.probe
        probed = metrics.get(probe_stage(own.name, own.labels_per_class, own.label_fraction), {})
        stages[PROBE] = headline(probed)
    values = {f"{stage}/{name}": value for stage, found in stages.items() for name, value in found.items()}
    found = {name: [values[key] for key in keys if key in values] for name, keys in RESULTS.items()}
    return {f"{GROUP}/{name}": several[0] for name, several in found.items() if several}
