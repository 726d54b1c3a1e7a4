"""aetool probe run=DIR"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aetool import signals
from aetool.compose import Point
from aetool.run import Run, read_json, write_json

if TYPE_CHECKING:
    from aetool.commands.session import Session


def run(points: list[Point], config_dir: Path | None) -> int:
    """Probes every run, or prints what was measured before."""
    from aetool.commands.opening import each_run
    from aetool.commands.summary import print_probe

    for opened, config in each_run(points, config_dir):
        print_probe(opened, measure(opened, config))
    return 0


def stage(config: dict[str, Any]) -> str:
    return f"probe-{config['probe']['name']}"


def folder(run: Run, config: dict[str, Any]) -> Path:
    """Where the probe with these settings stands or will stand."""
    best = run.metrics.get("pretrain", {}).get("best_step")
    settings = {"probe": config["probe"], "references": config["references"], "step": best}
    return run.measured(stage(config), settings)


def measure(run: Run, config: dict[str, Any], session: "Session | None" = None) -> dict[str, float]:
    """The probe's numbers; from its folder when it was done before."""
    target = folder(run, config) / "metrics.json"
    found = read_json(target)
    if found is None:
        from aetool.commands.session import Session

        found = _probe(session or Session(run, config), target)
    run.add_metrics(stage(config), found)
    return found


def _probe(session: "Session", target: Path) -> dict[str, float]:
    from aetool import figures
    from aetool.assembly import make_probe
    from aetool.stages.probe import probe_taps

    node = session.config["probe"]
    session.run.update(stage=stage(session.config))
    probe = make_probe(node)
    probed = probe_taps(session.trained, session.dataset, probe, node["taps"], session.device, signals.poll)
    metrics = dict(probed.metrics)
    if session.config["references"]:
        settings = {key: value for key, value in node.items() if key != "taps"}
        metrics |= session.references.probe(probe, settings, probed.code_size)
    target.parent.mkdir(parents=True, exist_ok=True)
    names = session.dataset.class_names
    for tap, result in probed.results.items():
        title = f"{session.run.directory.name}, {tap}: {result.metrics['test_accuracy']:.4f}"
        figures.save_confusion(target.parent / f"confusion-{tap}.png", result.confusion, names, title)
    write_json(target, metrics)
    return metrics
