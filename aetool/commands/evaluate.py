"""aetool evaluate run=DIR"""

from collections.abc import Sequence

from aetool.config.compose import Point
from aetool.config.schema import EvaluateConfig
from aetool.config.tree import known_targets
from aetool.evaluation.evaluate import evaluate
from aetool.evaluation.session import Session
from aetool.report.summary import print_evaluation
from aetool.storage.opening import opened


def run(points: Sequence[Point[EvaluateConfig]]) -> int:
    """Evaluates every run, or prints what was measured before."""
    targets = known_targets(points[0].config_dir)
    for point in points:
        config = point.config
        with opened(config.run, targets) as found:
            metrics = evaluate(Session(found, config), config.evaluation, config.baselines, config.overwrite)
            if len(points) > 1:
                print(found.directory)
            print_evaluation(found.config.model.name, metrics)
    return 0
