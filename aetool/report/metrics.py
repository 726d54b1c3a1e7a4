"""The metrics by which runs are compared: one definition of their names, order and format."""

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    key: str  # where it stands in a row: stage/metric
    label: str  # head of its column, at most 10 characters
    form: str  # format specification of its value
    better: Literal["higher", "lower"] | None
    title: str  # in figures and in the report


PROBE = "probe-linear"
METRICS = (  # in the order in which a narrow terminal drops them, last first
    Metric(f"{PROBE}/code/test_accuracy", "test acc", ".4f", "higher", "linear probe of the code, test accuracy"),
    Metric(f"{PROBE}/code/gain_over_pca", "gain", "+.4f", "higher", "test accuracy over that of PCA of equal size"),
    Metric("finetune/test_accuracy", "tuned acc", ".4f", "higher", "fine-tuned, test accuracy"),
    Metric("evaluate/test/fvu", "FVU", ".4f", "lower", "fraction of variance unexplained, test"),
    Metric("evaluate/test/l0", "L0", ".1f", "lower", "active code units, test"),
    Metric("evaluate/test/dead_fraction", "dead", ".1%", "lower", "dead code units, test"),
    Metric("pretrain/seconds", "seconds", ".0f", "lower", "training time, seconds"),
    Metric(f"{PROBE}/code/val_accuracy", "val acc", ".4f", "higher", "linear probe of the code, validation accuracy"),
    Metric(f"{PROBE}/pca/test_accuracy", "PCA acc", ".4f", "higher", "PCA of equal size, test accuracy"),
    Metric(f"{PROBE}/random/test_accuracy", "random acc", ".4f", "higher", "untrained encoder, test accuracy"),
    Metric(f"{PROBE}/pixels/test_accuracy", "pixels acc", ".4f", "higher", "linear probe of pixels, test accuracy"),
    Metric("evaluate/test/mse", "MSE", ".5f", "lower", "mean squared error, test"),
    Metric("evaluate/pca/test/fvu", "PCA FVU", ".4f", "lower", "PCA of equal size: variance unexplained, test"),
    Metric("evaluate/test/ssim", "SSIM", ".3f", "higher", "structural similarity, test"),
    Metric("evaluate/val/jacobian_norm", "‖J‖", ".3g", None, "norm of the encoder's Jacobian, validation"),
    Metric("evaluate/parameters", "parameters", ",.0f", "lower", "parameters"),
    Metric("evaluate/flops", "FLOPs", ",.0f", "lower", "FLOPs an image"),
    Metric("evaluate/model_bytes", "bytes", ",.0f", "lower", "bytes of the model"),
    Metric("evaluate/images_per_second", "images/s", ",.0f", "higher", "images a second, encoding"),
)
