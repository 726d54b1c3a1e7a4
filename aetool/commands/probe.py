"""aetool probe run=DIR"""

from collections.abc import Sequence

from aetool.config.compose import Point
from aetool.config.schema import ProbeCommandConfig
from aetool.config.tree import known_targets
from aetool.evaluation.probe import probe, probe_checkpoints, stage
from aetool.evaluation.session import Session
from aetool.report.summary import print_probe
from aetool.report.tables import print_measures
from aetool.storage.opening import opened


def run(points: Sequence[Point[ProbeCommandConfig]]) -> int:
    """Probes every run, or prints what was measured before."""
    targets = known_targets(points[0].config_dir)
    for point in points:
        config = point.config
        with opened(config.run, targets) as found:
            session = Session(found, config)
            metrics = probe(session, config.probe, config.baselines, config.overwrite)
            if len(points) > 1:
                print(found.directory)
            print_probe(found.config.model.name, stage(config.probe), metrics)
            if config.checkpoints == "all":
                _print_curve(session, config)
    return 0


def _print_curve(session: Session, config: ProbeCommandConfig) -> None:
    curve, figure = probe_checkpoints(session, config.probe)
    suffix = "/val/accuracy"
    shown = {
        f"epoch {epoch:.4g}": {key.removesuffix(suffix): value for key, value in found.items() if key.endswith(suffix)}
        for epoch, found in curve.items()
    }
    print_measures("validation accuracy", shown)
    print(figure)
