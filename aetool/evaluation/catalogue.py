"""The catalogue of metrics: one definition of the key, names, unit, format and direction of each; no torch.

Keys are `stage/[subject/]split/name`: `evaluate/test/fvu`, `evaluate/pca/test/fvu`, `probe-linear/code/test/accuracy`,
`probe-linear/untrained/code/test/accuracy`. The subject is a tap of the network or a baseline. The results of a run's
own probe at its headline tap are in the stage `probe`, without the tap: `probe/test/accuracy`,
`probe/untrained/test/accuracy`. A key may be accompanied by the bounds of its 95 % interval over test images (`…_low`,
`…_high`), or by its standard error over validation images (`…_se`).
"""

from collections.abc import Iterable, Mapping
from enum import Flag, auto
from typing import Literal, NamedTuple

PROTOCOL = 7  # of evaluation and probes; numbers measured under another protocol do not compare
LOSSLESS_PSNR = 100.0  # dB, the cap of measures.reconstruction: says no more than that a reconstruction is lossless
BASELINES = {  # by name, in the order of tables: what each is
    "pca": "PCA with as many components as the code has values",
    "pixels": "raw pixels",
    "untrained": "the same network before training",
    "mean": "the mean image, or the most frequent class",
    "supervised": "the same network trained from scratch with labels",
}


class Shown(Flag):
    """Where a metric is shown."""

    COMPARE = auto()  # column of the tables of aetool compare
    FIGURE = auto()  # figures over many runs
    TABLE = auto()  # full table of a run


COMPARE, FIGURE, TABLE = Shown
WIDELY = COMPARE | FIGURE | TABLE


class Metric(NamedTuple):
    key: str
    label: str  # column head, at most 10 characters
    title: str  # in figures, reports and the tables of a run
    format: str  # format specification of its value
    direction: Literal["higher", "lower"] | None = None  # which values are better
    shown: Shown = TABLE
    unit: str = ""
    headline: bool = False  # in the short summary at the end of a run
    words: tuple[str, str] | None = None  # for the values 0 and 1; what lies between is a mean, written as a number

    @property
    def name(self) -> str:
        """The key within its stage."""
        return self.key.partition("/")[2]

    @property
    def heading(self) -> str:
        """The title with the unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def text(self, value: float) -> str:
        return self.words[int(value)] if self.words and value in (0, 1) else format(value, self.format)

    def cost(self, value: float) -> float:
        """The value, negated if higher is better, so that lower is always better."""
        return -value if self.direction == "higher" else value


def baseline_key(key: str, baseline: str) -> str:
    """The key of a baseline's metric that corresponds to the run's metric `key`."""
    stage, _, name = key.partition("/")
    return f"{baseline}/{name}" if baseline == "supervised" else f"{stage}/{baseline}/{name}"


def bounds(key: str) -> tuple[str, str]:
    """The keys of the bounds of the 95 % interval of a metric over test images."""
    return f"{key}_low", f"{key}_high"


def error_key(key: str) -> str:
    """The key of the standard error of a metric over validation images."""
    return f"{key}_se"


def is_uncertainty(key: str) -> bool:
    """Whether a key is such a bound or standard error."""
    return key.endswith(("_low", "_high", "_se"))


def gain_name(baseline: str) -> str:
    """The name of a metric of a tap: its test accuracy minus that of a baseline."""
    return f"gain_over_{baseline}"


def _of_baseline(metric: Metric, baseline: str, label: str) -> Metric:
    key, title = baseline_key(metric.key, baseline), f"{metric.title}: {baseline}"
    return metric._replace(key=key, label=label, title=title, shown=COMPARE, headline=False)


PROBE = "probe"  # stage of a run's own probe, whichever that is, at its headline tap
COMPARED = ("untrained", "pca", "pixels")  # baselines that the test accuracy of a tap is compared with
PROBED, TUNED = "probe ", "fine-tuned "  # first words of the titles of these stages
TEST_ACCURACY = Metric(
    f"{PROBE}/test/accuracy", "test acc", f"{PROBED}accuracy, test", ".4f", "higher", WIDELY, headline=True
)
VAL_ACCURACY = TEST_ACCURACY._replace(
    key=f"{PROBE}/val/accuracy", label="val acc", title=f"{PROBED}accuracy, validation", headline=False
)
TUNED_ACCURACY = Metric("finetune/test/accuracy", "tuned acc", f"{TUNED}accuracy, test", ".4f", "higher",
                        WIDELY, headline=True)  # fmt: skip
TUNED_VAL_ACCURACY = Metric(
    "finetune/val/accuracy", "tuned val", f"{TUNED}accuracy, validation", ".4f", "higher", COMPARE | TABLE
)
TEST_FVU = Metric("evaluate/test/fvu", "FVU", "fraction of variance unexplained, test", ".4f", "lower",
                  COMPARE | FIGURE)  # fmt: skip
VAL_FVU = Metric("evaluate/val/fvu", "val FVU", "fraction of variance unexplained, validation", ".4f", "lower", COMPARE)
DIVERGED = 10.0  # validation FVU, 1 for the mean image, above which training has diverged
TRAIN_FVU = Metric("evaluate/train/fvu", "train FVU", "fraction of variance unexplained, train", ".4f", "lower",
                   COMPARE)  # fmt: skip
VAL_L0 = Metric("evaluate/val/l0", "val L0", "active units (L0), validation", ".1f", "lower", COMPARE)
CODE_SIZE = Metric("evaluate/code_size", "code size", "values in a code", ",.0f", "lower", Shown(0))
RATE = Metric("evaluate/compression/bytes_per_image", "bytes/img", "8-bit code size per image", ",.1f", "lower",
              COMPARE | TABLE, "bytes")  # fmt: skip
CODED_PSNR = Metric("evaluate/compression/quantized_psnr", "8-bit PSNR", "PSNR of 8-bit codes, test", ".2f", "higher",
                    COMPARE | TABLE, "dB")  # fmt: skip
METRICS = (  # a narrow terminal drops the last columns first
    TEST_ACCURACY,
    Metric(f"{PROBE}/{gain_name('pca')}", "gain", f"{PROBED}accuracy minus that of pca, test", "+.4f", "higher",
           WIDELY),
    TUNED_ACCURACY,
    TEST_FVU,
    Metric("evaluate/train/explained_variance", "train EV", "explained variance, train", ".4f", "higher",
           headline=True),
    Metric("evaluate/test/explained_variance", "expl. var", "explained variance, test", ".4f", "higher", headline=True),
    Metric("evaluate/test/l0", "L0", "active units (L0), test", ".1f", "lower", WIDELY, headline=True),
    Metric("evaluate/test/dead_fraction", "dead", "dead units, test", ".1%", "lower", WIDELY),
    Metric("evaluate/train/dead_fraction", "dead train", "dead units, train", ".1%", "lower",
           COMPARE | TABLE, headline=True),
    Metric("evaluate/train/rare_fraction", "rare train", "units active on under 0.1 % of images, train", ".1%", "lower",
           COMPARE | TABLE),
    Metric("pretrain/lambda", "lambda", "lambda found for penalty.target_l0", ".3g", None, COMPARE),
    Metric("pretrain/seconds", "seconds", "training time", ".0f", "lower", COMPARE, "s"),
    VAL_ACCURACY,
    Metric(f"{PROBE}/{gain_name('pixels')}", "vs pixels", f"{PROBED}accuracy minus that of pixels, test", "+.4f",
           "higher"),
    Metric(f"{PROBE}/{gain_name('untrained')}", "vs untr.", f"{PROBED}accuracy minus that of untrained, test",
           "+.4f", "higher"),
    Metric(f"{PROBE}/test/accuracy_std", "acc std", f"{PROBED}accuracy, test: spread over label draws", ".4f"),
    Metric(f"{PROBE}/test/top5_accuracy", "top-5", f"{PROBED}top-5 accuracy, test", ".4f", "higher"),
    Metric(f"{PROBE}/test/calibration_error", "ECE", f"{PROBED}calibration error, test", ".4f", "lower"),
    Metric(f"{PROBE}/l2", "L2", f"{PROBED}L2 chosen", ".3g"),
    Metric(f"{PROBE}/c", "C", f"{PROBED}C chosen", ".3g"),
    Metric(f"{PROBE}/common_scale", "common", f"{PROBED}common scale chosen", ".0%", words=("no", "yes")),
    Metric(f"{PROBE}/k", "k", f"{PROBED}k chosen", ".3g"),
    Metric(f"{PROBE}/temperature", "temp.", f"{PROBED}temperature chosen", ".3g"),
    Metric(f"{PROBE}/weight_decay", "decay", f"{PROBED}weight decay chosen", ".3g"),
    Metric(f"{PROBE}/epoch", "epoch", f"{PROBED}epoch chosen", ".3g"),
    TUNED_VAL_ACCURACY,
    Metric("finetune/test/top5_accuracy", "tuned top5", f"{TUNED}top-5 accuracy, test", ".4f", "higher"),
    Metric("finetune/test/calibration_error", "tuned ECE", f"{TUNED}calibration error, test", ".4f", "lower"),
    Metric("finetune/labels", "labels", "labelled images", ",.0f"),
    Metric("finetune/parameters", "trained", "trained parameters", ",.0f", "lower"),
    Metric("finetune/epochs", "epochs", "epochs", ".0f"),
    _of_baseline(TEST_ACCURACY, "pca", "pca acc"),
    _of_baseline(TEST_ACCURACY, "untrained", "untrained"),
    _of_baseline(TEST_ACCURACY, "supervised", "supervised"),
    _of_baseline(TEST_ACCURACY, "pixels", "pixels acc"),
    Metric("evaluate/test/mse", "MSE", "mean squared error, test", ".5f", "lower", COMPARE | TABLE),
    Metric("evaluate/test/squared_error", "sq. error", "squared error per image, test", ".2f", "lower"),
    Metric("evaluate/val/mse", "val MSE", "mean squared error, validation", ".5f", "lower", Shown(0)),
    _of_baseline(TEST_FVU, "pca", "pca FVU"),
    Metric("evaluate/test/psnr", "PSNR", "PSNR of clamped images, test", ".2f", "higher", TABLE, "dB"),
    Metric("evaluate/test/ssim", "SSIM", "structural similarity, test", ".3f", "higher", COMPARE | TABLE),
    Metric("evaluate/val/norm_ratio", "‖x̂‖/‖x‖", "‖x̂ - x̄‖ / ‖x - x̄‖, validation", ".3g"),
    Metric("evaluate/val/hidden_mse", "hidden MSE", "mean squared error on hidden patches, validation", ".5f", "lower"),
    Metric("evaluate/val/visible_mse", "seen MSE", "mean squared error on visible patches, validation", ".5f", "lower"),
    Metric("evaluate/denoising/trained/psnr_gain", "PSNR gain", "PSNR gain at the noise level of training, test", ".2f",
           "higher", unit="dB"),
    Metric("evaluate/test/effective_rank", "eff. rank", "effective rank of the code, test", ".1f"),
    Metric("evaluate/val/jacobian_norm", "‖J‖", "norm of the encoder's Jacobian, validation", ".3g", None,
           COMPARE | TABLE),
    Metric("evaluate/val/relative_jacobian", "‖J‖ / σ", "Jacobian relative to the spread of codes, validation", ".3g",
           None, TABLE),
    Metric("evaluate/val/trustworthiness", "trustw.", "trustworthiness, validation", ".4f", "higher",
           TABLE),
    Metric("evaluate/val/continuity", "continuity", "continuity, validation", ".4f", "higher", TABLE),
    Metric("evaluate/val/intrinsic_dimension", "int. dim", "intrinsic dimension, validation", ".2f", None,
           TABLE),
    Metric("evaluate/val/silhouette", "silhouette", "silhouette by class, validation", ".4f", "higher",
           TABLE),
    Metric("evaluate/val/class_selectivity", "selectiv.", "class selectivity of units, validation", ".4f", None,
           TABLE),
    Metric("evaluate/likelihood/elbo", "ELBO", "evidence lower bound, test", ".2f", "higher", unit="nats"),
    Metric("evaluate/likelihood/nll", "NLL", "bound on -log p(x), test", ".2f", "lower", unit="nats"),
    Metric("evaluate/likelihood/bits_per_dim", "bits/dim", "bits per dimension, test", ".3f", "lower"),
    Metric("evaluate/likelihood/active_units", "AU", "active units of the posterior, test", ".0f"),
    Metric("evaluate/rate_distortion/rate_nats", "rate", "rate: KL of the posterior, validation", ".2f", unit="nats"),
    Metric("evaluate/rate_distortion/rate_bits", "rate bits", "rate: KL of the posterior, validation", ".2f",
           unit="bits"),
    Metric("evaluate/rate_distortion/distortion_nats", "distortion", "distortion: -log p(x|h), validation", ".2f",
           "lower", unit="nats"),
    Metric("evaluate/rate_distortion/distortion_mse", "distn. MSE", "distortion: mean squared error, validation",
           ".5f", "lower"),
    Metric("evaluate/parameters", "parameters", "parameters", ",.0f", "lower", COMPARE | TABLE,
           headline=True),
    Metric("evaluate/flops", "FLOPs", "FLOPs per image", ",.0f", "lower", COMPARE | TABLE),
    Metric("evaluate/model_bytes", "bytes", "model size", ",.0f", "lower", COMPARE | TABLE, "bytes"),
    Metric("evaluate/images_per_second", "images/s", "images encoded a second", ",.0f", "higher", COMPARE | TABLE),
    RATE,
    CODED_PSNR,
    Metric("evaluate/compression/compression_ratio", "ratio", "compression ratio of 8-bit codes", ".3g", "higher"),
    TRAIN_FVU,
    VAL_FVU,
    VAL_L0,
    CODE_SIZE,
)  # fmt: skip
SELECTION = (  # validation metric that selects the best group, test metric reported of it; first present
    (VAL_ACCURACY, TEST_ACCURACY),
    (TUNED_VAL_ACCURACY, TUNED_ACCURACY),
    (VAL_FVU, TEST_FVU),
)
FRONTS = (  # Pareto fronts: letter in tables, the two metrics
    ("s", VAL_L0, VAL_FVU),
    ("r", RATE, CODED_PSNR),
    ("a", VAL_L0, VAL_ACCURACY),
)


RESULTS = {  # one number each that TensorBoard sorts runs by, in its alphabetical order: the first of these metrics
    "accuracy": (TEST_ACCURACY.key, TUNED_ACCURACY.key),
    "fvu": (TEST_FVU.key,),
    "l0": ("evaluate/test/l0",),
    "parameters": ("evaluate/parameters", "finetune/parameters"),
    "psnr": ("evaluate/test/psnr",),
    "seconds": ("pretrain/seconds", "finetune/seconds"),
    "ssim": ("evaluate/test/ssim",),
    "units_dead": ("evaluate/train/dead_fraction",),
    "val_accuracy": (VAL_ACCURACY.key, TUNED_VAL_ACCURACY.key),
    "val_loss": ("pretrain/val/loss", "finetune/val/loss"),
}


def table_metrics(stage: str) -> list[Metric]:
    """The rows of a full table of a stage; the same for every probe, with keys in the stage PROBE."""
    own = PROBE if stage.startswith("probe-") else stage
    return [metric for metric in METRICS if TABLE in metric.shown and metric.key.startswith(f"{own}/")]


def split_probe_key(name: str) -> tuple[str, str]:
    """The subject and the metric of a key within a probe stage: `untrained/code/val/accuracy` to `untrained/code` and
    `val/accuracy`."""
    subject, _, metric = name.partition("/")
    if subject == "untrained":
        tap, _, metric = metric.partition("/")
        subject = f"{subject}/{tap}"
    return subject, metric


def metric_of(key: str) -> Metric | None:
    """The metric with this key, of any probe, tap or baseline; None where there is no such metric."""
    stage, _, name = key.partition("/")
    known = key
    if stage.startswith("probe-"):
        known = f"{PROBE}/{split_probe_key(name)[1]}"
    elif stage == "evaluate" and name.partition("/")[0] in BASELINES:
        known = f"{stage}/{name.partition('/')[2]}"
    return next((metric._replace(key=key) for metric in METRICS if metric.key == known), None)


def measured(rows: Iterable[Mapping[str, object]]) -> list[Metric]:
    """The columns of a comparison: metrics that some row has, with the test accuracies of other probes after the run's
    own.
    """
    rows = list(rows)
    keys = {key for row in rows for key, value in row.items() if "/" in key and isinstance(value, int | float)}
    suffix = f"/code/{TEST_ACCURACY.name}"
    others = {
        key.removesuffix(suffix)
        for row in rows
        for key in row.keys() & keys
        if key.startswith("probe-") and key.endswith(suffix) and key != f"probe-{row.get('probe')}{suffix}"
    }
    after = METRICS.index(VAL_ACCURACY) + 1
    known = (*METRICS[:after], *(_of_probe(stage) for stage in sorted(others) if "/" not in stage), *METRICS[after:])
    return [metric for metric in known if COMPARE in metric.shown and metric.key in keys]


def _of_probe(stage: str) -> Metric:
    """Test accuracy of the code in a stage `probe-<name>[-<label budget>]`."""
    name, _, budget = stage.removeprefix("probe-").partition("-")
    label = f"{name[:6]} @{budget.partition('-')[0]}" if budget else f"{name[:6]} acc"
    title = f"{name} probe accuracy{', ' if budget else ''}{budget.replace('-', ' ')}, test"
    return Metric(f"{stage}/code/{TEST_ACCURACY.name}", label, title, ".4f", "higher", shown=COMPARE)
