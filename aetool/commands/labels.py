"""aetool labels run=DIR"""

from collections.abc import Sequence
from pathlib import Path

from aetool.config.compose import Point
from aetool.config.identity import digest, identity
from aetool.config.schema import LabelsConfig
from aetool.errors import UserError
from aetool.files import check_writable
from aetool.report.labels import print_curves, write_curves
from aetool.sweeps.labels import over_labels


def run(points: Sequence[Point[LabelsConfig]]) -> int:
    """Prints and plots test accuracy against the number of labels; several points are several seeds of a run."""
    swept = {word.partition("=")[0] for point in points for word in point.overrides} - {"run"}
    if swept:
        raise UserError(f"-m: {', '.join(sorted(swept))}: aetool labels takes several values of run= alone")
    config = points[0].config
    check_writable(Path(config.output))
    result = over_labels(points)
    model, dataset = (getattr(result.runs[0].config, group).name for group in ("model", "dataset"))
    settings = identity(config.model_copy(update={"run": sorted(run.id for run in result.runs)}))
    folder = Path(config.output) / f"labels-{model}-{dataset}-{digest(settings)}"
    names = write_curves(result.curves, folder, f"{model} on {dataset}", result.images, points[0].command)
    print()
    print_curves(result.curves)
    print(f"{folder}: {', '.join(names)}")
    return 0
