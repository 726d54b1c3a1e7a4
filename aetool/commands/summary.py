"""What a command prints at its end."""

from rich.console import Console

from aetool.report import print_measures
from aetool.run import Run

PROBE_ROWS = {"accuracy, test": "test_accuracy", "accuracy, validation": "val_accuracy", "L2 chosen": "l2"}
EVALUATION_ROWS = {
    "MSE": "mse",
    "PSNR, dB": "psnr",
    "SSIM": "ssim",
    "explained variance": "explained_variance",
    "active units (L0)": "l0",
    "dead units": "dead_units",
    "mean activation": "mean_activation",
}
COST_ROWS = {
    "parameters": "parameters",
    "FLOPs per image": "flops",
    "model bytes": "model_bytes",
    "images per second, encoding": "images_per_second",
}


def print_probe(run: Run, metrics: dict[str, float], console: Console | None = None) -> None:
    """Each tap and each reference across."""
    titles = {"code": run.config["model"]["name"], "pca": _pca(metrics)}
    taps = list(dict.fromkeys(name.partition("/")[0] for name in metrics))
    lines = {
        label: {titles.get(tap, tap.replace("_", " ")): metrics.get(f"{tap}/{key}") for tap in taps}
        for label, key in PROBE_ROWS.items()
    }
    print_measures("linear probe of the frozen features", lines, console)


def print_evaluation(run: Run, metrics: dict[str, float], console: Console | None = None) -> None:
    """The run and PCA across, on the test split."""
    model, pca = run.config["model"]["name"], _pca(metrics)
    lines = {}
    for label, key in EVALUATION_ROWS.items():
        lines[label] = {model: metrics.get(f"test/{key}")}
        if f"pca/test/{key}" in metrics:
            lines[label][pca] = metrics[f"pca/test/{key}"]
    lines |= {label: {model: metrics.get(key)} for label, key in COST_ROWS.items()}
    print_measures("test images", lines, console)


def _pca(metrics: dict[str, float]) -> str:
    """PCA with the number of its components: the code size, or all there are."""
    return f"PCA-{metrics['pca/components']:.0f}" if "pca/components" in metrics else "PCA"
