"""The output at the end of a command: the headline metrics of a run, or every metric of a stage."""

import re
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console

from aetool.console import PlainConsole
from aetool.evaluation.catalogue import (
    BASELINES,
    COMPARED,
    LOSSLESS_PSNR,
    METRICS,
    PROBE,
    PROBED,
    TUNED,
    Metric,
    baseline_key,
    bounds,
    gain_name,
    split_probe_key,
    table_metrics,
)
from aetool.evaluation.headline import headline, headline_tap
from aetool.report.tables import print_measures

Lines = dict[str, dict[str, str | None]]  # cells by row and column
DENOISING = re.compile(r"denoising/(?P<level>\d[^/]*)/psnr_gain")


def print_summary(
    title: str,
    metrics: Mapping[str, Mapping[str, float]],
    probe_stage: str | None,
    model: str,
    full: bool = False,
    console: Console | None = None,
) -> None:
    """The headline metrics of a run and its baselines; with `full` also every metric of its evaluation and probe.

    `metrics` is the content of metrics.json; `probe_stage` is the stage of the run's own probe, if any.
    """
    own = metrics.get(probe_stage, {}) if probe_stage else {}
    tap, probe = headline_tap(own) or "code", (probe_stage or "probe-linear").split("-")[1]
    stages = {**metrics, PROBE: headline(own)}
    values = {f"{stage}/{name}": value for stage, found in stages.items() for name, value in found.items()}
    lines: Lines = {}
    for metric in METRICS:
        if metric.headline and metric.key in values:
            words = metric.heading.replace(PROBED, f"{probe} probe ")
            words += f" ({tap})" if metric.key.startswith(f"{PROBE}/") and tap != "code" else ""
            lines[words] = _beside(metric, values, _run_column(model), metrics.get("evaluate", {}))
    print_measures(title, _filled(lines), console)
    _print_intervals(probe, own, [tap], console)
    if full and "evaluate" in metrics:
        print_evaluation(model, metrics["evaluate"], console)
    if full and probe_stage and probe_stage in metrics:
        print_probe(model, probe_stage, metrics[probe_stage], console)


def print_evaluation(model: str, metrics: Mapping[str, float], console: Console | None = None) -> None:
    """Every metric of the stage `evaluate`; the run and its baselines across."""
    values = {f"evaluate/{name}": value for name, value in metrics.items()}
    rows = [*table_metrics("evaluate"), *_denoising(metrics)]
    lines = {
        metric.heading: _beside(metric, values, _run_column(model), metrics) for metric in rows if metric.key in values
    }
    print_measures("evaluation", _filled(lines), console)


def print_probe(model: str, stage: str, metrics: Mapping[str, float], console: Console | None = None) -> None:
    """Every metric of a probe stage; each tap and each baseline across."""
    found = list(dict.fromkeys(split_probe_key(name)[0] for name in metrics))
    taps = [name for name in found if name.partition("/")[0] not in BASELINES]
    baselines = [name for baseline in BASELINES for name in found if name.partition("/")[0] == baseline]
    titles = {"code": _run_column(model), "pca": _pca(metrics)}
    titles |= {"untrained/code": "untrained"} if taps == ["code"] else {}
    titles = {name: titles.get(name, name.replace("_", " ")) for name in [*taps, *baselines]}
    lines = {}
    for metric in table_metrics(stage):
        cells = {titles[subject]: _cell(metric, metrics.get(f"{subject}/{metric.name}")) for subject in titles}
        lines[metric.heading.removeprefix(PROBED)] = cells
    draws = ", mean over label draws" if any(name.endswith("/accuracy_std") for name in metrics) else ""
    print_measures(f"{stage.replace('-', ' ')}, frozen features{draws}", _filled(lines), console)
    _print_intervals(stage.split("-")[1], metrics, taps, console)


def print_finetune(tap: str, results: Mapping[str, Mapping[str, float]], console: Console | None = None) -> None:
    """Every metric of fine-tuning; the networks across, and the most frequent class as baseline `mean`.

    `results` are the metrics of the stage `finetune` by the name of the network: fine-tuned, from scratch, ….
    """
    mean = {name.removeprefix("mean/"): value for found in results.values() for name, value in found.items()
            if name.startswith("mean/")}  # fmt: skip
    lines = {}
    for metric in table_metrics("finetune"):
        cells = {name: _cell(metric, found.get(metric.name)) for name, found in {**results, "mean": mean}.items()}
        lines[metric.heading.removeprefix(TUNED)] = cells
    print_measures(f"classification, tap {tap}", _filled(lines), console)


def _print_intervals(
    probe: str, metrics: Mapping[str, float], taps: Iterable[str], console: Console | None = None
) -> None:
    """The test accuracy of each tap, and its gain over the baselines, with intervals if available."""
    console = console or PlainConsole()
    names = {baseline: _pca(metrics) if baseline == "pca" else baseline for baseline in COMPARED}
    width = max(map(len, names.values()))
    for tap in taps:
        if found := _with_bounds(metrics, f"{tap}/test/accuracy", ".4f"):
            subject = f"{probe} probe" if tap == "code" else tap
            console.print(f"{subject} accuracy {found} (95 % intervals over test images)")
        for baseline, name in names.items():
            if found := _with_bounds(metrics, f"{tap}/{gain_name(baseline)}", "+.4f"):
                console.print(f"  minus {name:<{width}}  {found}")


def _with_bounds(metrics: Mapping[str, float], key: str, form: str) -> str | None:
    """`0.9712 [0.9700, 0.9724]`; None without the bounds."""
    values = [metrics[name] for name in (key, *bounds(key)) if name in metrics]
    if len(values) < 3:
        return None
    value, low, high = (format(value, form) for value in values)
    return f"{value} [{low}, {high}]"


def _beside(metric: Metric, values: Mapping[str, float], run: str, pca: Mapping[str, float]) -> dict[str, str | None]:
    """The cells of the run and of its baselines."""
    keys = {_pca(pca) if name == "pca" else name: baseline_key(metric.key, name) for name in BASELINES}
    return {name: _cell(metric, values.get(key)) for name, key in {run: metric.key, **keys}.items()}


def _cell(metric: Metric, value: float | None) -> str | None:
    return None if value is None or (metric.unit == "dB" and value >= LOSSLESS_PSNR) else metric.text(value)


def _filled(lines: Lines) -> Lines:
    """Without empty rows and columns."""
    columns = {name for cells in lines.values() for name, cell in cells.items() if cell is not None}
    rows = {label: {name: cells[name] for name in cells if name in columns} for label, cells in lines.items()}
    return {label: cells for label, cells in rows.items() if any(cell is not None for cell in cells.values())}


def _denoising(names: Iterable[str]) -> Sequence[Metric]:
    """The denoising gain at each measured noise level."""
    matches = [match for name in names if (match := DENOISING.fullmatch(name))]
    return [
        Metric(f"evaluate/{m[0]}", "gain", f"PSNR gain, noise {m['level']}", ".2f", "higher", unit="dB")
        for m in matches
    ]


def _run_column(model: str) -> str:
    return "code" if model in BASELINES else model


def _pca(metrics: Mapping[str, float]) -> str:
    """PCA with the number of its components: the code size, or as many as there are."""
    return f"PCA-{metrics['pca/components']:.0f}" if "pca/components" in metrics else "pca"
