"""What a command prints at its end."""

from rich.console import Console

from aetool.report.tables import print_measures
from aetool.storage.run import Run

PROBE_ROWS = {
    "accuracy, test": "test/accuracy",
    "its spread over draws of labels": "test/accuracy_std",
    "gain over PCA": "gain_over_pca",
    "top-5 accuracy, test": "test/top5_accuracy",
    "accuracy, validation": "val/accuracy",
    "calibration error, test": "test/calibration_error",
}
CHOSEN = {
    "l2": "L2",
    "c": "C",
    "k": "k",
    "temperature": "temperature",
    "weight_decay": "weight decay",
    "epoch": "epoch",
}
BASELINES = ("pca", "pixels", "untrained", "mean")
EVALUATION_ROWS = {
    "MSE": "mse",
    "PSNR, dB": "psnr",
    "SSIM": "ssim",
    "explained variance": "explained_variance",
    "active units (L0)": "l0",
    "dead units": "dead_units",
    "effective rank of the code": "effective_rank",
}
FAMILY_ROWS = {
    "Jacobian norm, validation": "val/jacobian_norm",
    "trustworthiness, validation": "val/trustworthiness",
    "continuity, validation": "val/continuity",
    "intrinsic dimension of the code": "val/intrinsic_dimension",
    "intrinsic dimension of the pixels": "pixels/val/intrinsic_dimension",
    "silhouette by class, code": "val/silhouette",
    "silhouette by class, pixels": "pixels/val/silhouette",
    "class selectivity of units": "val/class_selectivity",
    "bytes per image, 8-bit code": "compression/bytes_per_image",
    "compression ratio": "compression/compression_ratio",
    "PSNR of the 8-bit code, dB": "compression/quantized_psnr",
    "ELBO, nats per image": "likelihood/elbo",
    "-log p(x) bound, nats": "likelihood/nll",
    "bits per dimension": "likelihood/bits_per_dim",
    "active units of the posterior": "likelihood/active_units",
}
COST_ROWS = {
    "parameters": "parameters",
    "FLOPs per image": "flops",
    "model bytes": "model_bytes",
    "images per second, encoding": "images_per_second",
}


def print_probe(run: Run, stage: str, metrics: dict[str, float], console: Console | None = None) -> None:
    """Each tap and each baseline across."""
    found = list(dict.fromkeys(map(_subject, metrics)))
    taps = [name for name in found if name.partition("/")[0] not in BASELINES]
    columns = taps + [name for name in found if name.partition("/")[0] in BASELINES]
    model = run.config["model"]["name"]
    titles = {"code": "code" if model in columns else model, "pca": _pca(metrics), "mean": "largest class"}
    mean = ", mean over draws" if any(name.endswith("/test/accuracy_std") for name in metrics) else ""
    rows = PROBE_ROWS | {f"{label} chosen{mean}": key for key, label in CHOSEN.items()}
    lines = {
        label: {titles.get(name, name.replace("_", " ")): metrics.get(f"{name}/{key}") for name in columns}
        for label, key in rows.items()
        if any(f"{name}/{key}" in metrics for name in columns)
    }
    print_measures(f"{stage.replace('-', ' ')}, frozen features", lines, console)


def _subject(key: str) -> str:
    """What a metric is of: a tap, a baseline, or the untrained encoder at a tap."""
    first, _, rest = key.partition("/")
    return f"{first}/{rest.partition('/')[0]}" if first == "untrained" else first


def print_evaluation(run: Run, metrics: dict[str, float], console: Console | None = None) -> None:
    """The run and PCA across, on the test split."""
    model, pca = run.config["model"]["name"], _pca(metrics)
    lines = {}
    for label, key in EVALUATION_ROWS.items():
        lines[label] = {model: metrics.get(f"test/{key}")}
        if f"pca/test/{key}" in metrics:
            lines[label][pca] = metrics[f"pca/test/{key}"]
    levels = [key.split("/")[1] for key in metrics if key.startswith("denoising/") and key.endswith("/psnr_gain")]
    denoising = {f"PSNR gain, dB, noise {level}": f"denoising/{level}/psnr_gain" for level in levels}
    found = {label: key for label, key in (FAMILY_ROWS | denoising).items() if key in metrics}
    lines |= {label: {model: metrics.get(key)} for label, key in (found | COST_ROWS).items()}
    print_measures("test images", lines, console)


def _pca(metrics: dict[str, float]) -> str:
    """PCA with the number of its components: the code size, or all there are."""
    return f"PCA-{metrics['pca/components']:.0f}" if "pca/components" in metrics else "PCA"
