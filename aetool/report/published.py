"""Published numbers next to those measured here: the last line of a run, and the table over all experiments."""

import shlex
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from aetool.config.groups import PublishedConfig
from aetool.config.identity import digest, identity
from aetool.config.published import Reproduction, reproductions
from aetool.config.schema import TrainConfig
from aetool.console import PlainConsole
from aetool.errors import UserError, suggest
from aetool.evaluation.catalogue import METRICS, PROBE, Metric, bounds, metric_of, split_probe_key
from aetool.files import make_folder, write_text
from aetool.measures.statistics import Stat
from aetool.report.findings import duplicates, excluded, outdated
from aetool.report.groups import Group, Row, Value, directory, format_stat, format_value, number, rank
from aetool.report.rows import MISSING, read_rows
from aetool.report.tables import Column, markdown, print_measures
from aetool.storage.folder import RunFolder
from aetool.storage.run import Run

BEGIN, END = "<!-- aetool results: begin -->", "<!-- aetool results: end -->"
TEMPLATE = f"# Results\n\n{BEGIN}\n{END}\n"
NOTE = (
    "Measured: mean ± standard deviation over n seeds. Met: the mean reaches the target or, where there is none, the "
    "published number. Seconds: mean time of one run, its measurements included."
)
NUMBERS = ("target", "measured", "n", "result", "seconds")


class Result(NamedTuple):
    """Completed runs of an experiment that differ only in the seed."""

    reproduction: Reproduction
    metric: Metric
    group: Group
    command: str  # for these runs
    seconds: float | None  # mean duration of a run, where known

    @property
    def published(self) -> PublishedConfig:
        return self.reproduction.published

    @property
    def measured(self) -> Stat:
        found = self.group.stat(self.metric.key)
        assert found is not None
        return found

    @property
    def is_met(self) -> bool:
        target = self.published.value if self.published.target is None else self.published.target
        return self.metric.cost(self.measured.mean) <= self.metric.cost(target)


def refuse_unknown_metric(published: PublishedConfig, sections: Collection[str]) -> None:
    """Raises UserError for a metric that no run with these sections in its metrics.json has."""
    section = published.metric.partition("/")[0]
    if section not in sections:
        raise UserError(f"published.metric={published.metric}: this run has no {section}; {suggest(section, sections)}")
    _metric(published)


def sentences(runs: Sequence[Run[TrainConfig]]) -> Iterator[str]:
    """The measured and published number for each setting that the runs reproduce, over its seeds."""
    settings: dict[PublishedConfig, dict[str, list[Row]]] = {}
    for run in runs:
        flat: dict[str, Value] = {
            f"{section}/{key}": value for section, found in run.metrics.items() for key, value in found.items()
        }
        published = run.config.published
        if published and published.metric in flat:
            row = {"run": run.directory.name, "seed": run.config.seed, **flat}
            setting = digest(identity(run.config.model_copy(update={"seed": 0})))
            settings.setdefault(published, {}).setdefault(setting, []).append(row)
    for published, groups in settings.items():
        target = "" if published.target is None else f", target {format_value(published.target)}"
        for rows in groups.values():
            measured = _with_spread(Group({}, rows), _metric(published))
            which = f" ({', '.join(str(row['run']) for row in rows)})" if len(groups) > 1 else ""
            yield f"{published.setting}: published {_cited(published)}{target}; here {measured}{which}"


def read_results(paths: Sequence[Path], config_dir: Path | None = None) -> tuple[list[Result], list[str]]:
    """The results of the runs at or below the paths, by dataset and experiment, and what is skipped and why.

    Raises UserError if there is no result.
    """
    rows = read_rows(paths)
    for row in rows:
        if row["state"] == MISSING:
            raise UserError(f"{row['directory']}: there is no such folder")
    runs = [(row, RunFolder(directory(row)).saved) for row in rows]
    results: list[Result] = []
    notes: list[str] = []
    for one in sorted(reproductions(config_dir), key=lambda one: (one.config.dataset.name, one.experiment)):
        mine = [(row, saved.get("config")) for row, saved in runs if one.is_of(saved.get("identity"))]
        found, left_out = _results(one, mine, config_dir)
        results += found
        notes += left_out if mine else [f"not run: {_command(one, [], config_dir)}"]
    if not results:
        raise UserError("\n".join([f"no published number is reproduced in {', '.join(map(str, paths))}", *notes]))
    return results, notes + duplicates([result.group for result in results])


def _results(
    one: Reproduction, runs: Sequence[tuple[Row, object]], config_dir: Path | None
) -> tuple[list[Result], list[str]]:
    """The results of the runs of one experiment, by precision, and why runs are skipped."""
    metric = _metric(one.published)
    section = metric.key.partition("/")[0]
    groups: dict[Value, list[Row]] = {}
    notes: list[str] = []
    for row, config in runs:
        own = {key: value for key, value in row.items() if "/" not in key or key.startswith(f"{section}/")}
        changed = one.measured_otherwise(config)
        reasons = [*excluded([row]), *outdated([own])]
        reasons += [f"{row['run']}: measured with {', '.join(changed)}"] if changed else []
        if not reasons and number(row.get(metric.key)) is None:
            reasons = [f"{row['run']}: there is no {metric.key} in its metrics.json"]
        notes += reasons
        if not reasons:
            groups.setdefault(row.get("trainer.precision"), []).append(row)
    found = []
    for rows in groups.values():
        spent = [number(RunFolder(directory(row)).status.get("seconds")) for row in rows]
        known = [value for value in spent if value is not None]
        seconds = Stat.of(known).mean if known else None
        found.append(Result(one, metric, Group({}, rows), _command(one, rows, config_dir), seconds))
    return found, notes


def print_results(results: Sequence[Result], notes: Sequence[str], console: Console | None = None) -> None:
    """A line per result, then the notes."""
    console = console or PlainConsole()
    lines: dict[str, dict[str, str]] = {}
    for result in results:
        cells = _cells(result) | {"published": format_value(result.published.value)}
        name = " ".join([result.reproduction.experiment, *result.reproduction.overrides])
        shown = {head: cells[head] for head in ("published", *NUMBERS)}
        lines[name if name not in lines else f"{name} {result.group.value('trainer.precision')}"] = shown
    print_measures("published results", lines, console)
    for note in notes:
        console.print(f"• {note}")


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Writes the table into a markdown file between its two markers, and keeps what is around them.

    Raises UserError if an existing file has no markers, or it cannot be written.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else TEMPLATE
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UserError(f"{path}: cannot read it: {reason}; give another file") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{path}: no place for the table; add two lines to it: {BEGIN} and {END}")
    cells = [_cells(result) for result in results]
    columns = [Column(head, [one[head] for one in cells], head in NUMBERS) for head in cells[0]]
    make_folder(path.parent)
    write_text(path, f"{before}{BEGIN}\n{markdown(columns)}\n{NOTE}\n{END}{after}")


def _cells(result: Result) -> dict[str, str]:
    """A line of the table by its heads."""
    published = result.published
    return {
        "setting": published.setting,
        "dataset": result.reproduction.config.dataset.name,
        "published": _cited(published),
        "target": "" if published.target is None else format_value(published.target),
        "measured": format_stat(result.measured, result.metric.format),
        "n": str(result.measured.n),
        "result": "met" if result.is_met else "missed",
        "seconds": "" if result.seconds is None else f"{result.seconds:,.0f}",
        "command": f"`{result.command}`",
    }


def _cited(published: PublishedConfig) -> str:
    return f"{format_value(published.value)} ({published.source})"


def _with_spread(group: Group, metric: Metric) -> str:
    """`0.9925 ± 0.0010 (3 seeds)`; for one seed, with its interval over test images if available."""
    found = group.stat(metric.key)
    assert found is not None
    text = format_stat(found, metric.format)
    if found.n > 1:
        return f"{text} ({found.n} seeds)"
    low, high = (number(group.value(key)) for key in bounds(metric.key))
    return text if low is None or high is None else f"{text} [{metric.text(low)}, {metric.text(high)}]"


def _command(one: Reproduction, rows: Sequence[Row], config_dir: Path | None) -> str:
    """The command that reproduces these runs of an experiment; without runs, the experiment's command."""
    seeds = [format_value(value) for value in sorted({row.get("seed") for row in rows}, key=rank)]
    options = ["-m"] * (len(seeds) > 1) + ([] if config_dir is None else ["--config-dir", str(config_dir)])
    words = [f"experiment={one.experiment}", *one.overrides, *([f"seed={','.join(seeds)}"] if seeds else [])]
    if rows and one.config.trainer.precision == "auto":
        words.append(f"trainer.precision={rows[0].get('trainer.precision')}")
    return shlex.join(["aetool", "train", *options, *words])


def _metric(published: PublishedConfig) -> Metric:
    """Raises UserError for a metric that is unknown, or that has no better direction."""
    key = published.metric
    found = metric_of(key)
    if found is None or found.direction is None:
        reason = "there is no such metric" if found is None else "neither large nor small values of it are better"
        raise UserError(f"published.metric={key}: {reason}; {suggest(key, _alike(key))}")
    return found


def _alike(key: str) -> list[str]:
    """The keys of metrics with a better direction in the section of this key; those of the same tap, if of a probe."""
    own = known = f"{key.partition('/')[0]}/"
    if key.startswith("probe-"):
        own, known = f"{own}{split_probe_key(key.partition('/')[2])[0]}/", f"{PROBE}/"
    found = (metric.key for metric in METRICS if metric.direction)
    return [own + other.removeprefix(known) for other in found if other.startswith(known)]
