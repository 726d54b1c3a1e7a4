"""aetool evaluate run=DIR"""

from collections.abc import Sequence
from pathlib import Path

from aetool.config.compose import Point, compose_one
from aetool.config.schema import EvaluateConfig, TrainConfig
from aetool.config.tree import known_targets
from aetool.evaluation import evaluate as evaluation
from aetool.evaluation.session import Session
from aetool.report.summary import print_evaluation
from aetool.storage.notebook import Metrics
from aetool.storage.opening import named, opened, word_for
from aetool.storage.run import Run


def evaluate(
    run: Run[TrainConfig] | str | Path, overrides: Sequence[str] = (), config_dir: str | Path | None = None
) -> Metrics:
    """Reconstruction, code and cost metrics of a trained run by `split/name`, with the baselines."""
    return _evaluate(compose_one("evaluate", EvaluateConfig, [word_for(run), *overrides], config_dir))[1]


def run(points: Sequence[Point[EvaluateConfig]]) -> int:
    """Evaluates every run, or prints existing results."""
    for point in points:
        found, metrics = _evaluate(point)
        if len(points) > 1 or point.config.step is not None:
            print(named(found, point.config.step))
        print_evaluation(found.config.model.name, metrics)
    return 0


def _evaluate(point: Point[EvaluateConfig]) -> tuple[Run[TrainConfig], Metrics]:
    config = point.config
    with opened(config.run, known_targets(point.config_dir)) as run:
        session = Session(run, config, config.step)
        return run, Metrics(evaluation.evaluate(session, config.evaluation, config.baselines, config.overwrite))
