"""One complete fine-tune, with its pretraining and its control if requested."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aetool.config.check import Targets
from aetool.config.compose import Point, compose_one
from aetool.config.groups import DatasetConfig, ModelConfig, ProbeConfig
from aetool.config.rules import PARTS, untrainable
from aetool.config.schema import ClassifierConfig, FinetuneConfig, FinetuneRunConfig, ParentConfig, TrainConfig
from aetool.config.tree import known_targets
from aetool.errors import ConfigError, NoValidCheckpointError, UserError, deferred_signals, poll_signals
from aetool.evaluation import figures
from aetool.evaluation.background import Figures
from aetool.evaluation.correctness import CORRECT, Correct, read_correct, write_correct
from aetool.evaluation.hparams import write_hparams
from aetool.evaluation.probe import stage
from aetool.evaluation.session import DataSession, Session
from aetool.files import check_writable, replacing
from aetool.measures.statistics import Interval, paired_accuracy_interval
from aetool.storage.events import Events
from aetool.storage.notebook import html_table
from aetool.storage.opening import open_trained
from aetool.storage.run import Run
from aetool.storage.stored import damaged_file
from aetool.sweeps.autoencoder import bring_to_end, draw_curves
from aetool.training.decisions import decided
from aetool.training.finetune import Finetuned, finetune
from aetool.training.progress import TrainingProgress

STAGE, PREDICTIONS, SUPERVISED = "finetune", "predictions.npy", "supervised"
BESIDE = ("seed", "output", "device", "threads", "cache")  # keys of a run that its classifiers share
DECIDED = ("run", "pretrain", "control", "name", "overwrite")  # keys of a fine-tune that its run decides
NOTED = ("val/accuracy", "test/accuracy", "epochs")
PRETRAINING = (*PARTS, "seed", "output", "device", "threads", "cache", "trainer.precision")
log = logging.getLogger("aetool")


class Result(NamedTuple):
    """The result of one fine-tune: metrics by column (fine-tuned, from scratch, frozen), and the runs."""

    metrics: dict[str, dict[str, float]]
    correct: tuple[list[bool], list[bool]] | None  # by test image, of the fine-tune and of its control
    runs: list[Run[FinetuneRunConfig]]
    pretrained: Run[TrainConfig] | None  # by this command

    @property
    def gap(self) -> Interval | None:
        """Test accuracy minus that of the control, with its interval over test images; None without a control."""
        return None if self.correct is None else paired_accuracy_interval(*self.correct)

    def _repr_html_(self) -> str:
        return html_table("classification", self.metrics)


def finetune_point(point: Point[FinetuneConfig]) -> Result:
    """Runs one fine-tune, its pretraining and its control to completion, skipping finished work."""
    config = point.config
    pretrained = _pretrained(point) if config.pretrain else None
    directory = str(pretrained.directory) if pretrained else config.run
    parent = None if directory is None else open_parent(directory, known_targets(point.config_dir))
    tuned, *controls = classifier_runs(point, parent)
    name = "fine-tuned" if parent else "from scratch"
    metrics, correct = {name: finetuned(tuned, parent)}, None
    if parent is None:
        return Result(metrics, None, [tuned], None)
    for control in controls:
        metrics["from scratch"] = finetuned(control, None)
        correct = correct_images(tuned).tolist(), correct_images(control).tolist()
    frozen = _frozen(parent, config)
    if frozen:
        metrics["frozen, linear probe"] = frozen
    return Result(metrics, correct, [tuned, *controls], pretrained)


def classifier_runs(point: Point[FinetuneConfig], parent: Run[TrainConfig] | None) -> list[Run[FinetuneRunConfig]]:
    """The run of a fine-tune, and that of its control if it has one."""
    tuned = Run.of(_own(point.config, parent), point.own_command)
    has_control = point.config.control and parent is not None
    return [tuned, *([Run.of(_scratch(tuned.config), point.own_command)] if has_control else [])]


def correct_images(run: Run[FinetuneRunConfig]) -> Correct:
    """Which test images a finished fine-tune classifies correctly."""
    found = read_correct(run.directory / CORRECT, run.stored_metrics.files).get(STAGE)
    if found is not None:
        return found
    labels = DataSession(run.config, run.config).dataset.test.labels
    assert labels is not None
    correct: Correct = np.load(run.directory / PREDICTIONS) == labels.numpy()
    return correct


def supervised_baseline(run: Run[TrainConfig], config_dir: str | Path | None = None) -> None:
    """Trains the network of a run from scratch on all labels, and records its accuracy in the run's metrics.json.

    It is a separate run, trained once for all runs that differ only in their pretraining.
    """
    point = finetune_of(run.config, str(run.directory), [], config_dir)
    _note(run, SUPERVISED, finetuned(Run.of(_scratch(_own(point.config, run)), point.own_command), None))


def finetune_own(run: Run[TrainConfig], config_dir: str | Path | None = None) -> None:
    """Fine-tunes a run as its config says, as a separate run, and records its accuracy in the run's metrics.json."""
    point = finetune_of(run.config, str(run.directory), run.config.finetune or [], config_dir)
    _note(run, STAGE, finetuned(Run.of(_own(point.config, run), point.own_command), run))


def finetune_of(
    config: TrainConfig, directory: str, words: Sequence[str], config_dir: str | Path | None = None
) -> Point[FinetuneConfig]:
    """The fine-tune of a run with these overrides; raises ConfigError for those fixed by the run."""
    keys = [word.lstrip("+~").partition("=")[0] for word in words]
    clashing = [f"finetune=[{key}=…]: the run decides it; leave it out" for key in keys if key in (*BESIDE, *DECIDED)]
    if clashing:
        raise ConfigError(clashing)
    own = [f"{key}={getattr(config, key)}" for key in BESIDE if getattr(config, key) is not None]
    try:
        return compose_one("finetune", FinetuneConfig, [f"run={directory}", *own, *words], config_dir)
    except ConfigError as error:
        raise ConfigError([f"finetune: {problem}" for problem in error.problems]) from None


def _note(run: Run[TrainConfig], section: str, metrics: dict[str, float]) -> None:
    """Writes the accuracy of a classifier into the metrics.json of the run that it belongs to."""
    found = {key: value for key, value in metrics.items() if key.startswith(NOTED)}
    if run.metrics.get(section) != found:
        with run.hold():
            run.add_metrics(section, found)


def _pretrained(point: Point[FinetuneConfig]) -> Run[TrainConfig]:
    """The autoencoder of the same config groups, trained first."""
    pretraining = compose_one("train", TrainConfig, point.words_of(PRETRAINING), config_dir=point.config_dir)
    run = Run.of(decided(pretraining.config), pretraining.own_command)
    bring_to_end(run)
    return run


def open_parent(directory: str, targets: Targets) -> Run[TrainConfig]:
    """A trained run to fine-tune; raises UserError for one that is fitted in closed form."""
    parent = open_trained(directory, targets)
    problems = untrainable(parent.config.model)
    if problems:
        raise UserError(f"run={directory}: {problems[0]}")
    return parent


def _own(config: FinetuneConfig, parent: Run[TrainConfig] | None) -> FinetuneRunConfig:
    """The config of one fine-tune, with the model and the dataset of its parent."""
    model, dataset = (parent.config.model, parent.config.dataset) if parent else (config.model, config.dataset)
    assert isinstance(model, ModelConfig)
    assert isinstance(dataset, DatasetConfig)  # required by the rules if there is no parent
    values = {key: getattr(config, key) for key in ClassifierConfig.model_fields}
    values["label_draw"] = config.seed if config.label_draw is None else config.label_draw
    own = FinetuneRunConfig.model_construct(
        **values,
        model=model,
        dataset=dataset,
        augmentation=dataset.augmentation if config.augment else None,
        parent=_origin(parent) if parent else None,
        run=parent.directory.name if parent else None,
    )
    return decided(own)


def _origin(parent: Run[TrainConfig]) -> ParentConfig:
    step = int(parent.metrics["pretrain"]["best_step"])
    weights = (
        parent.manifest(step).get("files", {}).get("model.safetensors", {}).get("sha256")
    )  # of other data, other weights
    if not isinstance(weights, str):
        remedy = "restore it, or train it again with overwrite=true"
        raise NoValidCheckpointError(f"run={parent.directory}: its best checkpoint, step {step}, is damaged; {remedy}")
    return ParentConfig(id=parent.id, step=step, weights=weights[:8])


def _scratch(config: FinetuneRunConfig) -> FinetuneRunConfig:
    """The same network from scratch, without settings that only protect pretrained weights."""
    changes = {"layer_decay": 1.0, "frozen_epochs": 0, "parent": None, "run": None, "name": None, "overwrite": False}
    return config.model_copy(update=changes)


def finetuned(run: Run[FinetuneRunConfig], parent: Run[TrainConfig] | None) -> dict[str, float]:
    """Runs a fine-tune to completion and returns its metrics; `parent` is what it starts from."""
    if not run.config.overwrite and is_finished(run):
        log.info(f"{run.directory}: already finished; overwrite=true trains it again")
        return run.metrics[STAGE]
    session = DataSession(run.config, run.config)
    with deferred_signals():
        if run.config.overwrite:  # nothing is deleted for a run that cannot start
            check_writable(run.directory)
            _ = session.device, session.dataset
        with run.claim():
            start = parent.directory if parent else "scratch"
            damage = _damage(run)
            if damage:
                run.warn_now(f"{damage}; measured again")
            if run.config.overwrite or damage or STAGE not in run.metrics:  # nor in another point meanwhile
                log.info(f"{run.config.model.name} on {run.config.dataset.name} from {start} → {run.directory}")
                _train(run, parent, session)
            write_hparams(run)
        poll_signals()  # a signal since the last poll still ends a sweep
    return run.metrics[STAGE]


def is_finished(run: Run[FinetuneRunConfig]) -> bool:
    """Raises UserError if its folder holds something else."""
    completed = run.agree() and run.status.get("state") == "completed" and STAGE in run.metrics
    return completed and _damage(run) is None and (run.directory / PREDICTIONS).exists()


def _damage(run: Run[FinetuneRunConfig]) -> str | None:
    """What is wrong with stored results, if anything."""
    stored = run.stored_metrics
    return stored.damage or damaged_file(run.directory, stored.files)


def _train(run: Run[FinetuneRunConfig], parent: Run[TrainConfig] | None, session: DataSession) -> None:
    trained = None
    if parent is not None:
        source = Session(parent, run.config)
        source.dataset = session.dataset
        trained = source.trained
    with TrainingProgress() as progress:
        result = finetune(run, trained, session.dataset, session.device, progress)
    predictions = result.predictions.numpy()
    with replacing(run.directory / PREDICTIONS, predictions.nbytes) as temporary, temporary.open("wb") as file:
        np.save(file, predictions)
    write_correct(run.directory / CORRECT, {STAGE: result.correct.numpy()})
    _draw(run, result, session.dataset.class_names)
    run.add_metrics(STAGE, result.metrics, [PREDICTIONS, CORRECT])  # last: all else is there then


def _draw(run: Run[FinetuneRunConfig], result: Finetuned, class_names: Sequence[str]) -> None:
    """The figures, and the confusion matrix in TensorBoard."""
    metrics = result.metrics
    title = f"{run.directory.name}: {metrics['test/accuracy']:.4f}"
    path = run.directory / "figures" / "confusion.png"
    with Figures(run) as drawn:
        confusion = drawn.draw(figures.save_confusion, path, result.confusion.cpu().numpy(), class_names, title)
        draw_curves(drawn, {"loss.png": "loss", "accuracy.png": "accuracy"})
    with Events(run.directory, STAGE) as events:
        events.images(int(metrics["best_step"]), {"test/confusion": confusion.picture()})
    run.warn(events.warnings)


def _frozen(parent: Run[TrainConfig], config: FinetuneConfig) -> dict[str, float]:
    """The linear probe's result at the same tap, with the same label budget."""
    own = parent.config.probe
    budget = {"labels_per_class": config.labels_per_class, "label_fraction": config.label_fraction}
    linear: ProbeConfig = own.model_copy(update={"name": "linear", **budget})
    metrics = parent.metrics.get(stage(linear), {})
    return {k.removeprefix(f"{config.tap}/"): value for k, value in metrics.items() if k.startswith(f"{config.tap}/")}
