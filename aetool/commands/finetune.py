"""aetool finetune run=DIR"""

from collections.abc import Sequence
from pathlib import Path

from aetool.commands.train import print_result
from aetool.config.compose import BASIC, Point, compose_one
from aetool.config.schema import FinetuneConfig
from aetool.errors import Interrupted, UserError
from aetool.report.summary import print_finetune
from aetool.sweeps.classifier import Result, finetune_point
from aetool.sweeps.control import print_points, sentence
from aetool.sweeps.outcome import Outcome
from aetool.sweeps.sweep import Work, conclude, each, entry, folder_of, note, tried, write_sweep


def finetune(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> Result:
    """Classification end to end, from a run (`run=DIR`) or from scratch (`model=…`, `dataset=…`)."""
    return finetune_point(compose_one("finetune", FinetuneConfig, overrides, config_dir))


def run(points: Sequence[Point[FinetuneConfig]], full: bool = False) -> int:
    """Fine-tunes one run, or a sweep if there are several points."""
    if len(points) > 1 or points[0].launcher != BASIC:
        return _sweep(points)
    result = finetune_point(points[0])
    if result.pretrained:
        print_result(result.pretrained, full)
    print_finetune(points[0].config.tap, result.metrics)
    if result.gap is not None:
        print(sentence({"the test images of this seed": result.gap}))
    return 0


def _sweep(points: Sequence[Point[FinetuneConfig]]) -> int:
    if points[0].config.name is not None and len(points) > 1:
        raise UserError(f"name={points[0].config.name}: points of a sweep need folders of their own; leave it out")
    folder = folder_of(points, [" ".join(point.words) for point in points])
    results: dict[int, Result] = {}
    outcomes: dict[int, Outcome] = {}
    interrupted: Interrupted | None = None
    work = Work(
        do=lambda index: results.update({index: finetune_point(points[index])}),
        read=lambda index: results.update({index: finetune_point(_resuming(points[index]))}),
    )
    try:
        outcomes.update(each(points, work, folder))
    except Interrupted as error:
        interrupted = error
    print()
    print_points(points, outcomes, results)
    unwritten = 0
    if results:
        runs = [(run, index) for index, result in results.items() for run in result.runs]
        entries = [entry(folder, run, points[index]) for run, index in runs]
        for at, (_, index) in enumerate(runs):
            note(entries, at, outcomes[index], folder)
        unwritten = tried(lambda: write_sweep(folder, points, entries))
        unwritten = unwritten or tried(lambda: conclude(folder, drawn=interrupted is None, printed=False))
    if interrupted:
        raise interrupted
    return max(unwritten, *(outcome.exit_code for outcome in outcomes.values()))


def _resuming(point: Point[FinetuneConfig]) -> Point[FinetuneConfig]:
    """The point without `overwrite`, so that it finds completed work."""
    return point._replace(config=point.config.model_copy(update={"overwrite": False}))
