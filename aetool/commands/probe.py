"""aetool probe run=DIR"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aetool import signals
from aetool.commands.opening import opened
from aetool.commands.summary import print_probe
from aetool.compose import Point, known_targets
from aetool.config import build
from aetool.run import Run, read_json, write_json
from aetool.schema import ProbeKeys

if TYPE_CHECKING:
    from aetool.commands.session import Session


def run(points: list[Point], config_dir: Path | None) -> int:
    """Probes every run, or prints what was measured before."""
    targets = known_targets(config_dir)
    for point in points:
        with opened(point.config["run"], targets) as run:
            print_probe(run, measure(run, point.config))
    return 0


def stage(config: dict[str, Any]) -> str:
    return f"probe-{config['probe']['name']}"


def folder(run: Run, config: dict[str, Any], step: int | None = None) -> Path:
    """Where the probe of a checkpoint, the best one by default, stands or will stand."""
    step = int(run.metrics["pretrain"]["best_step"]) if step is None else step
    settings = {"probe": config["probe"], "references": config["references"], "step": step}
    return run.measured(stage(config), settings)


def measure(run: Run, config: dict[str, Any], session: "Session | None" = None) -> dict[str, float]:
    """The probe's numbers; from its folder when it was done before."""
    found = read_json(folder(run, config) / "metrics.json")
    if found is None:
        from aetool.commands.session import Session

        found = _probe(session or Session(run, config))
    return found


def _probe(session: "Session") -> dict[str, float]:
    from aetool import figures
    from aetool.stages.probe import probe_taps

    node = session.config["probe"]
    target = folder(session.run, session.config, session.step) / "metrics.json"
    probe = build(node, ProbeKeys)
    measured = (session.trained, session.dataset, probe, node["taps"], node["max_features"])
    probed = probe_taps(*measured, session.device, signals.poll)
    metrics = dict(probed.metrics)
    if session.config["references"]:
        settings = {key: value for key, value in node.items() if key not in ("taps", "max_features")}
        metrics |= session.references.probe(probe, settings, probed.features)
    target.parent.mkdir(parents=True, exist_ok=True)
    names = session.dataset.class_names
    for tap, result in probed.results.items():
        title = f"{session.run.directory.name}, {tap}: {result.metrics['test_accuracy']:.4f}"
        figures.save_confusion(target.parent / f"confusion-{tap}.png", result.confusion, names, title)
    write_json(target, metrics)
    return metrics
