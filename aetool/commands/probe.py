"""aetool probe run=DIR"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aetool import signals
from aetool.commands.opening import opened
from aetool.commands.summary import print_probe
from aetool.compose import Point, known_targets
from aetool.config import build
from aetool.errors import UserError
from aetool.run import Run, read_json, write_json
from aetool.schema import ProbeKeys

if TYPE_CHECKING:
    from aetool.commands.session import Session
    from aetool.probes.base import ProbeResult

SETTINGS = ("labels_per_class", "label_fraction", "label_draws", "views", "max_features")  # beside the probe's own keys


def run(points: list[Point], config_dir: Path | None) -> int:
    """Probes every run, or prints what was measured before."""
    targets = known_targets(config_dir)
    for point in points:
        with opened(point.config["run"], targets) as run:
            metrics = measure(run, point.config)
            if stage(point.config) != stage(run.config):  # what the run itself was measured by stays its headline
                run.add_metrics(stage(point.config), metrics)
            print_probe(run, stage(point.config), metrics)
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
    settings = {"probe": config["probe"], "references": config["references"], "step": step}
    return run.measured(f"probe-{config['probe']['name']}", settings)


def measure(run: Run, config: dict[str, Any], session: "Session | None" = None) -> dict[str, float]:
    """The probe's numbers; from its folder when it was done before."""
    found = read_json(folder(run, config) / "metrics.json")
    if found is None:
        from aetool.commands.session import Session

        found = _probe(session or Session(run, config))
    return found


def _probe(session: "Session", following: bool = False) -> dict[str, float]:
    """Measures and draws; TensorBoard shows it, unless it is one of the many of `_follow`."""
    from aetool import figures
    from aetool.record import Events

    target = folder(session.run, session.config, session.step)
    target.mkdir(parents=True, exist_ok=True)
    metrics: dict[str, float] = {}
    names = session.dataset.class_names
    pictures = {}
    for tap, result in _results(session):
        metrics |= {f"{tap}/{key}": value for key, value in result.metrics.items()}
        classes = zip(names, result.per_class_accuracy.tolist(), strict=True)
        metrics |= {f"{tap}/test_class_accuracy/{name}": value for name, value in classes if value == value}
        title = f"{session.run.directory.name}, {tap}: {result.metrics['test_accuracy']:.4f}"
        pictures[tap] = figures.save_confusion(target / f"confusion-{tap}.png", result.confusion, names, title)
    if session.config["references"]:
        metrics |= _references(session, list(pictures))
        if "code" in pictures and "pca/test_accuracy" in metrics:
            metrics["code/gain_over_pca"] = metrics["code/test_accuracy"] - metrics["pca/test_accuracy"]
    if not following:
        name = stage(session.config)
        with Events(session.run.directory, name) as events:
            events.scalars(session.step, _scalars(name, metrics))
            for tap, picture in pictures.items():
                events.image(f"{name}/{tap}/confusion", picture, session.step)
        session.run.warn(events.warnings)
    write_json(target / "settings.json", {"probe": session.config["probe"], "step": session.step})
    write_json(target / "metrics.json", metrics)
    return metrics


def _follow(run: Run, config: dict[str, Any]) -> Path:
    """Probes every checkpoint, without references, and draws accuracy over epochs; returns the figure's path."""
    from aetool import figures
    from aetool.commands.session import Session
    from aetool.record import Events

    session = Session(run, config | {"references": False})
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
    return path


def _scalars(name: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{name}/{key}": value for key, value in metrics.items() if "/test_class_accuracy/" not in key}


def _results(session: "Session") -> Iterator[tuple[str, "ProbeResult"]]:
    """Tap after tap, so that the features of one are in memory at a time."""
    from aetool.stages.features import choose_taps
    from aetool.stages.probe import classify

    node = session.config["probe"]
    probe = build(node, ProbeKeys)
    network = session.trained.network
    for tap in choose_taps(network, session.dataset.val.images[:2].to(session.device), node["taps"]):
        features = session.features(network, tap)
        try:
            yield tap, classify(probe, features, session.dataset, session.budget, signals.poll)
        except ValueError as error:
            raise UserError(f"probe={node['name']}: {error}") from error


def _references(session: "Session", taps: list[str]) -> dict[str, float]:
    """Beside the run: the mean, PCA of equal size, pixels, and each tap of the untrained network."""
    from aetool.stages.features import at_tap, pooled

    node = session.config["probe"]
    probe, views, budget = build(node, ProbeKeys), session.views, session.budget
    settings = {key: value for key, value in node.items() if key not in ("taps", "max_features")}
    settings["views"] = list(views) if views.number else 0
    code = at_tap(session.trained.network, session.dataset.val.images[:1].to(session.device), "code")
    size = pooled(code, node["max_features"])[0].numel()
    metrics = session.references.probe(probe, settings, views, budget, size)
    untrained = session.untrained
    if untrained is None:
        return metrics
    for tap in taps:
        encode = functools.partial(session.features, untrained, tap)
        key = session.untrained_key | {"tap": tap, "max_features": node["max_features"]}
        found = session.references.untrained(probe, settings, budget, key, encode)
        metrics |= {f"random{'' if tap == 'code' else f'_{tap}'}/{name}": value for name, value in found.items()}
    return metrics
