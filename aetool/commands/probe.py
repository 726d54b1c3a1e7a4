"""aetool probe run=DIR"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aetool.config.check import build
from aetool.config.compose import Point, known_targets
from aetool.config.rules import viewless
from aetool.config.schema import ProbeKeys
from aetool.errors import UserError, poll_signals
from aetool.evaluation.catalogue import BASELINES
from aetool.report.summary import print_probe
from aetool.report.tables import print_measures
from aetool.storage.opening import opened
from aetool.storage.run import Run, read_json, write_json

if TYPE_CHECKING:
    from aetool.evaluation.frozen import Frozen
    from aetool.evaluation.probe import Budget
    from aetool.evaluation.session import Session
    from aetool.probes.base import Probe, ProbeResult


def run(points: list[Point], config_dir: Path | None) -> int:
    """Probes every run, or prints what was measured before."""
    targets = known_targets(config_dir)
    for point in points:
        with opened(point.config["run"], targets) as run:
            problems = viewless(point.config["probe"], run.config["dataset"])
            if problems:
                raise UserError(problems[0])
            metrics = measure(run, point.config)
            if _of_stage(run, point.config):
                run.add_metrics(stage(point.config), metrics)
            if len(points) > 1:
                print(run.directory)
            print_probe(run.config["model"]["name"], stage(point.config), metrics)
            if point.config["checkpoints"] == "all":
                print(_follow(run, point.config))
    return 0


def stage(config: dict[str, Any]) -> str:
    """`probe-<name>`, and the label budget where there is one."""
    node = config["probe"]
    name = f"probe-{node['name']}"
    if node["labels_per_class"] is not None:
        return f"{name}-{node['labels_per_class']}-labels-per-class"
    return name if node["label_fraction"] is None else f"{name}-{node['label_fraction']:g}-of-labels"


def folder(run: Run, config: dict[str, Any], step: int | None = None) -> Path:
    """Where the probe of a checkpoint, the best one by default, stands or will stand."""
    step = int(run.metrics["pretrain"]["best_step"]) if step is None else step
    settings = {"probe": config["probe"], "baselines": config["baselines"], "step": step}
    if config["probe"]["views"]:
        settings["augmentation"] = run.config["dataset"].get("augmentation")
    return run.measured(f"probe-{config['probe']['name']}", settings)


def measure(run: Run, config: dict[str, Any], session: "Session | None" = None) -> dict[str, float]:
    """The probe's numbers; from its folder when it was done before."""
    found = read_json(folder(run, config) / "metrics.json")
    if found is None:
        from aetool.evaluation.session import Session

        found = _probe(session or Session(run, config))
    return found


def _of_stage(run: Run, config: dict[str, Any]) -> bool:
    """Whether these are the numbers of their stage: a stage that the run itself measures is what it says there."""
    return stage(config) != stage(run.config) or folder(run, config) == folder(run, run.config)


def refuse(session: "Session") -> None:
    """Raises UserError for settings that could not be measured after the training, before it."""
    from aetool.models.taps import choose_taps
    from aetool.training.pretrain import initial_model

    node = session.config["probe"]
    build(node, ProbeKeys)
    if node["taps"] is not None:
        model, preprocessing = initial_model(session.run.config, session.dataset, session.device)
        images = session.dataset.val.images[:2].to(session.device)
        _refuse_names(choose_taps(model.eval(), preprocessing.to_input(images), node["taps"]))


def _refuse_names(taps: list[str]) -> None:
    for tap in taps:
        if tap in BASELINES:
            raise UserError(f"probe.taps=[{tap}]: this name is reserved for a baseline; choose another tap")


def _probe(session: "Session", following: bool = False) -> dict[str, float]:
    """Measures and draws; TensorBoard shows what metrics.json has for the stage, and `_follow` its many by itself."""
    from aetool.evaluation import figures
    from aetool.evaluation.probe import Budget
    from aetool.storage.record import Events

    node, names = session.config["probe"], session.dataset.class_names
    probe = build(node, ProbeKeys)
    budget = Budget(node["labels_per_class"], node["label_fraction"], node["label_draws"])
    frozen = session.frozen
    _refuse_names(frozen.taps)
    target = folder(session.run, session.config, session.step)
    metrics: dict[str, float] = {}
    pictures = {}
    for tap, result in _results(session, probe, budget, frozen):
        metrics |= {f"{tap}/{key}": value for key, value in result.metrics.items()}
        classes = zip(names, result.per_class_accuracy.tolist(), strict=True)
        metrics |= {f"{tap}/test/class_accuracy/{name}": value for name, value in classes if value == value}
        title = f"{session.run.directory.name}, {tap}: {result.metrics['test/accuracy']:.4f}"
        target.mkdir(exist_ok=True)
        pictures[tap] = figures.save_confusion(target / f"confusion-{tap}.png", result.confusion, names, title)
    if session.config["baselines"]:
        metrics |= _baselines(session, probe, budget, frozen)
        if "code" in pictures and "pca/test/accuracy" in metrics:
            metrics["code/gain_over_pca"] = metrics["code/test/accuracy"] - metrics["pca/test/accuracy"]
    if not following and _of_stage(session.run, session.config):
        name = stage(session.config)
        with Events(session.run.directory, name) as events:
            events.scalars(session.step, _scalars(name, metrics))
            for tap, picture in pictures.items():
                events.image(f"{name}/{tap}/confusion", picture, session.step)
        session.run.warn(events.warnings + _beaten(metrics))
    write_json(target / "settings.json", {"probe": node, "step": session.step})
    write_json(target / "metrics.json", metrics)
    return metrics


def _beaten(metrics: dict[str, float]) -> list[str]:
    """A warning where the code, on validation, is worth less than a baseline."""
    own, baselines = metrics.get("code/val/accuracy", 1.0), {}
    titles = {"untrained/code": "that of the untrained encoder", "pca": "PCA of equal size", "pixels": "the pixels"}
    for name, title in titles.items():
        if own < metrics.get(f"{name}/val/accuracy", 0.0):
            baselines[title] = metrics[f"{name}/val/accuracy"]
    better = ", ".join(f"{title} ({accuracy:.4f})" for title, accuracy in baselines.items())
    return [f"the code (accuracy {own:.4f} on validation) is worth less than {better}"] if better else []


def _follow(run: Run, config: dict[str, Any]) -> Path:
    """Probes every checkpoint, without baselines, and draws accuracy over epochs; returns the figure's path."""
    from aetool.evaluation import figures
    from aetool.evaluation.session import Session
    from aetool.storage.record import Events

    session = Session(run, config | {"baselines": False})
    curve, name = {}, f"{stage(config)}-epochs"
    with Events(run.directory, name) as events:
        for step in session.trained_steps:
            found = read_json(folder(run, session.config, step) / "metrics.json")
            metrics = found or _probe(session.at(step), following=True)
            events.scalars(step, _scalars(name, metrics))
            curve[step / session.steps_per_epoch] = metrics
    run.warn(events.warnings)
    path = session.figure(f"{name}.png")
    figures.save_probe_curve(path, curve, f"{run.directory.name}, {config['probe']['name']} probe")
    suffix = "/val/accuracy"
    shown = {
        f"epoch {epoch:.4g}": {key.removesuffix(suffix): value for key, value in found.items() if key.endswith(suffix)}
        for epoch, found in curve.items()
    }
    print_measures("accuracy on validation", shown)
    return path


def _scalars(name: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{name}/{key}": value for key, value in metrics.items() if "/test/class_accuracy/" not in key}


def _results(
    session: "Session", probe: "Probe", budget: "Budget", frozen: "Frozen"
) -> Iterator[tuple[str, "ProbeResult"]]:
    """Tap after tap, so that the features of one are in memory at a time."""
    from aetool.evaluation.probe import classify, labels_of

    labels_of(session.dataset)  # refused before anything is encoded
    for tap in frozen.taps:
        try:
            yield tap, classify(probe, frozen.features(tap), session.dataset, budget, poll_signals)
        except ValueError as error:
            raise UserError(f"probe={session.config['probe']['name']}: {error}") from error


def _baselines(session: "Session", probe: "Probe", budget: "Budget", frozen: "Frozen") -> dict[str, float]:
    """Beside the run: the mean, PCA of equal size, pixels, and each tap of the untrained network."""
    views = frozen.views
    settings = {key: value for key, value in session.config["probe"].items() if key not in ("taps", "max_features")}
    settings["views"] = list(views) if views.number else 0
    metrics = session.baselines.probe(probe, settings, views, budget, frozen.code_size)
    if frozen.untrained is None:
        return metrics
    for tap in frozen.taps:
        encode = functools.partial(frozen.untrained_features, tap)
        found = session.baselines.untrained(probe, settings, budget, frozen.untrained_key(tap), encode)
        metrics |= {f"untrained/{tap}/{name}": value for name, value in found.items()}
    return metrics
