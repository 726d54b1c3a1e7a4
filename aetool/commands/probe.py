"""aetool probe run=DIR"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from aetool.config.compose import Point, compose_one
from aetool.config.schema import ProbeCommandConfig, TrainConfig
from aetool.config.tree import known_targets
from aetool.evaluation import probe as probing
from aetool.evaluation.catalogue import COMPARED, TEST_ACCURACY
from aetool.evaluation.headline import headline, headline_tap
from aetool.evaluation.session import Session
from aetool.report.summary import print_probe
from aetool.report.tables import print_measures
from aetool.storage.notebook import Metrics
from aetool.storage.opening import named, opened, word_for
from aetool.storage.run import Run


def probe(
    run: Run[TrainConfig] | str | Path, overrides: Sequence[str] = (), config_dir: str | Path | None = None
) -> Metrics:
    """Classification on the frozen features of a trained run: metrics by `tap/split/name`, with the baselines."""
    point = compose_one("probe", ProbeCommandConfig, [word_for(run), *overrides], config_dir)
    with opened(point.config.run, known_targets(point.config_dir)) as found:
        config = _config(point, found)
        return _probe(Session(found, config, config.step), config)


def run(points: Sequence[Point[ProbeCommandConfig]]) -> int:
    """Probes every run, or prints existing results; several points end with one table."""
    table: dict[str, dict[str, str]] = {}
    for point in points:
        with opened(point.config.run, known_targets(point.config_dir)) as found:
            config = _config(point, found)
            session = Session(found, config, config.step)
            metrics = _probe(session, config)
            if len(points) > 1 or config.step is not None:
                print(named(found, config.step))
            print_probe(found.config.model.name, probing.stage(config.probe), metrics)
            if config.checkpoints == "all":
                curve, figure = probing.probe_checkpoints(session, config.probe)
                _print_curve(curve)
                print(figure)
            table[" ".join(point.overrides)] = _line(metrics)
    if len(points) > 1:
        print_measures("accuracy", table)
    return 0


def _config(point: Point[ProbeCommandConfig], run: Run[TrainConfig]) -> ProbeCommandConfig:
    """Uses the run's own probe if none is given."""
    return point.config if point.words_of(["probe"]) else point.config.model_copy(update={"probe": run.config.probe})


def _probe(session: Session, config: ProbeCommandConfig) -> Metrics:
    return Metrics(probing.probe(session, config.probe, config.baselines, config.overwrite))


def _line(metrics: Metrics) -> dict[str, str]:
    """Accuracies at the headline tap, by column."""
    found = headline(metrics)
    keys = {"val": "val/accuracy", "test": "test/accuracy"} | {name: f"{name}/test/accuracy" for name in COMPARED}
    cells = {column: format(found[key], TEST_ACCURACY.format) for column, key in keys.items() if key in found}
    return {"tap": headline_tap(metrics) or ""} | cells


def _print_curve(curve: Mapping[float, Mapping[str, float]]) -> None:
    suffix = "/val/accuracy"
    shown = {
        f"epoch {epoch:.4g}": {key.removesuffix(suffix): value for key, value in found.items() if key.endswith(suffix)}
        for epoch, found in curve.items()
    }
    print_measures("validation accuracy", shown)
