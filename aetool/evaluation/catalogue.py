"""The metrics by which runs are compared: one definition of their names, order and format."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple


class Metric(NamedTuple):
    key: str  # where it stands in a row: stage/metric
    label: str  # head of its column, at most 10 characters
    form: str  # format specification of its value
    better: Literal["higher", "lower"] | None
    title: str  # in figures and in the report


PROBE = "probe-linear"
TEST_ACCURACY = Metric(
    f"{PROBE}/code/test/accuracy", "test acc", ".4f", "higher", "linear probe of the code, test accuracy"
)
VAL_ACCURACY = Metric(
    f"{PROBE}/code/val/accuracy", "val acc", ".4f", "higher", "linear probe of the code, validation accuracy"
)
TUNED_ACCURACY = Metric("finetune/test/accuracy", "tuned acc", ".4f", "higher", "fine-tuned, test accuracy")
TUNED_VAL_ACCURACY = Metric("finetune/val/accuracy", "tuned val", ".4f", "higher", "fine-tuned, validation accuracy")
TEST_FVU = Metric("evaluate/test/fvu", "FVU", ".4f", "lower", "fraction of variance unexplained, test")
VAL_FVU = Metric("evaluate/val/fvu", "val FVU", ".4f", "lower", "fraction of variance unexplained, validation")
VAL_L0 = Metric("evaluate/val/l0", "val L0", ".1f", "lower", "active code units, validation")
CODE_SIZE = Metric("evaluate/code_size", "code size", ",.0f", "lower", "numbers in a code")
RATE = Metric("evaluate/compression/bytes_per_image", "bytes/img", ",.1f", "lower", "bytes of an 8-bit code, test")
CODED_PSNR = Metric(
    "evaluate/compression/quantized_psnr", "8-bit PSNR", ".2f", "higher", "PSNR from 8-bit codes in dB, test"
)
METRICS = (  # in the order in which a narrow terminal drops them, last first
    TEST_ACCURACY,
    Metric(f"{PROBE}/code/gain_over_pca", "gain", "+.4f", "higher", "test accuracy over that of PCA of equal size"),
    TUNED_ACCURACY,
    TEST_FVU,
    Metric("evaluate/test/l0", "L0", ".1f", "lower", "active code units, test"),
    Metric("evaluate/test/dead_fraction", "dead", ".1%", "lower", "dead code units, test"),
    Metric("pretrain/lambda", "lambda", ".3g", None, "lambda that penalty.target_l0 found"),
    Metric("pretrain/seconds", "seconds", ".0f", "lower", "training time, seconds"),
    VAL_ACCURACY,
    TUNED_VAL_ACCURACY,
    Metric(f"{PROBE}/pca/test/accuracy", "PCA acc", ".4f", "higher", "PCA of equal size, test accuracy"),
    Metric(f"{PROBE}/untrained/code/test/accuracy", "random acc", ".4f", "higher", "untrained encoder, test accuracy"),
    Metric("supervised/test/accuracy", "ceiling", ".4f", "higher", "same encoder trained with labels, test accuracy"),
    Metric(f"{PROBE}/pixels/test/accuracy", "pixels acc", ".4f", "higher", "linear probe of pixels, test accuracy"),
    Metric("evaluate/test/mse", "MSE", ".5f", "lower", "mean squared error, test"),
    Metric("evaluate/pca/test/fvu", "PCA FVU", ".4f", "lower", "PCA of equal size: variance unexplained, test"),
    Metric("evaluate/test/ssim", "SSIM", ".3f", "higher", "structural similarity, test"),
    Metric("evaluate/val/jacobian_norm", "‖J‖", ".3g", None, "norm of the encoder's Jacobian, validation"),
    Metric("evaluate/parameters", "parameters", ",.0f", "lower", "parameters"),
    Metric("evaluate/flops", "FLOPs", ",.0f", "lower", "FLOPs an image"),
    Metric("evaluate/model_bytes", "bytes", ",.0f", "lower", "bytes of the model"),
    Metric("evaluate/images_per_second", "images/s", ",.0f", "higher", "images a second, encoding"),
    RATE,
    CODED_PSNR,
    VAL_FVU,
    VAL_L0,
)
CHOICES = (  # by what the best group is chosen, and what is then reported of it; the first that a run has
    (VAL_ACCURACY, TEST_ACCURACY),
    (TUNED_VAL_ACCURACY, TUNED_ACCURACY),
    (VAL_FVU, TEST_FVU),
)


def measured(rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """The metrics that a row has, with the test accuracies of other probes than the linear one after that one's."""
    keys = {key for row in rows for key, value in row.items() if "/" in key and isinstance(value, int | float)}
    others = []
    for key in sorted(keys - {TEST_ACCURACY.key}):
        if key.startswith("probe-") and key.endswith("/code/test/accuracy"):
            name, _, budget = key.removeprefix("probe-").partition("/")[0].partition("-")
            label = f"{name[:6]} @{budget.partition('-')[0]}" if budget else f"{name[:6]} acc"
            title = f"{name} probe of the code{', ' if budget else ''}{budget.replace('-', ' ')}, test accuracy"
            others.append(Metric(key, label, ".4f", "higher", title))
    after = METRICS.index(VAL_ACCURACY) + 1
    return [metric for metric in (*METRICS[:after], *others, *METRICS[after:]) if metric.key in keys]
