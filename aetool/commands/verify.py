"""aetool verify run=DIR"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from aetool.config.compose import Point, compose_one
from aetool.config.schema import TrainConfig, VerifyConfig
from aetool.config.tree import known_targets
from aetool.errors import UserError
from aetool.evaluation.verification import DAMAGED, Check
from aetool.evaluation.verification import verify as verification
from aetool.report.rows import read
from aetool.storage.opening import open_run, word_for
from aetool.storage.run import Run
from aetool.sweeps.rehearsal import resuming_differences

WIDTH, MARGIN = 80, 21  # columns of a line, and of what was checked


def verify(
    run: Run[TrainConfig] | str | Path,
    overrides: Sequence[str] = (),
    config_dir: str | Path | None = None,
    resume: bool = False,
) -> list[Check]:
    """Whether a run folder is whole, as a list of checks; with `resume`, also whether its training resumes exactly."""
    return _verify(compose_one("verify", VerifyConfig, [word_for(run), *overrides], config_dir), resume)


def run(points: Sequence[Point[VerifyConfig]], resume: bool = False) -> int:
    """A line per check; the exit code is 0, or that of the first problem."""
    worst = 0
    for point in points:
        if len(points) > 1:
            print(point.config.run)
        for one in _verify(point, resume):
            state = "damaged" if one.exit_code else "ok" if one.tried else "skipped"
            head = f"{state:<8}{one.name:<13}"
            print(textwrap.fill(one.text, WIDTH, initial_indent=head, subsequent_indent=" " * MARGIN))
            worst = worst or one.exit_code
    if worst == DAMAGED:
        print("restore what is damaged, or train the run again with overwrite=true")
    return worst


def _verify(point: Point[VerifyConfig], resume: bool) -> list[Check]:
    directory, targets = Path(point.config.run), known_targets(point.config_dir)
    if not directory.is_dir():
        raise UserError(f"run={directory}: there is no such folder")
    if read(directory)["state"] == "running":
        raise UserError(f"run={directory}: it is being trained; verify it when that has ended")
    checks = verification(directory, targets)
    if resume and not any(one.name == "config" and one.exit_code for one in checks):
        try:
            checks.append(_of_resuming(resuming_differences(open_run(directory, targets), point.config)))
        except UserError as error:  # no dataset, or a classifier
            checks.append(Check("resuming", f"not tried: {error}", error.exit_code))
    return checks


def _of_resuming(differences: list[str] | None) -> Check:
    if differences is None:
        return Check("resuming", "the model is fitted in closed form, without steps")
    if differences:
        return Check("resuming", f"on a few batches it changes {', '.join(differences)}", DAMAGED)
    return Check("resuming", "interrupted and resumed, a few batches end in the same bits")
