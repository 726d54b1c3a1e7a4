"""The typed config of every command: the fixed keys with their types and ranges; imports no torch.

All other keys of a component are the arguments of its `_target_`, described by the signature of that class. A key
identifies the run unless it is marked `NotIdentifying`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Len, MinLen

from aetool.components import (
    BelowOne,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    OpenFraction,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
)
from aetool.config.node import Component, Node, Text, Unidentifying


class ModelConfig(Component):
    given = ("image_shape", "mean_image", "input_mean", "input_std", "pca", "train_images")
    name: Text


class LossConfig(Component):
    given = ("pca", "input_std")
    logits: bool  # reconstructions are logits of pixels in [0, 1]
    pixels: bool  # it compares pixels in [0, 1]


class TermConfig(Component):
    given = ("code_size", "num_classes", "train_labels")
    scale: NonNegativeFloat  # of this term within lambda * sum(scale * R)


class PenaltyConfig(Node):
    weight: NonNegativeFloat  # lambda
    warmup: Fraction  # fraction of all steps over which lambda rises from 0
    target_l0: PositiveFloat | None
    terms: dict[str, TermConfig]


class CorruptionConfig(Component):
    given = ("pca",)
    level: NonNegativeFloat  # strength; 0: none


class OptimizerConfig(Component):
    given = ("params", "fused", "capturable", "differentiable")
    ranges: ClassVar[Mapping[str, Any]] = {  # of torch's own optimizers
        "betas": tuple[BelowOne, BelowOne],
        "momentum": BelowOne,
        **dict.fromkeys(("dampening", "alpha", "rho"), Fraction),
        **dict.fromkeys(("weight_decay", "eps", "lr_decay", "initial_accumulator_value"), NonNegativeFloat),
        "momentum_decay": NonNegativeFloat,
    }
    lr: PositiveFloat


class SchedulerConfig(Component):
    pass


class AugmentationConfig(Node):
    flip: bool  # left to right
    shift: NonNegativeInt  # pixels


class DatasetConfig(Component):
    given = ("cache_dir",)
    name: Text
    image_shape: Annotated[list[PositiveInt], Len(3, 3)] | None  # C, H, W
    num_train: PositiveInt | None  # before the validation split is carved out
    num_classes: PositiveInt | None
    val_fraction: OpenFraction
    standardize: bool
    epochs: Unidentifying[PositiveInt]  # the default of trainer.epochs
    batch_size: Unidentifying[PositiveInt]
    augmentation: Unidentifying[AugmentationConfig | None] = None  # a dataset may not mention it


class TrainerConfig(Node):
    epochs: PositiveInt
    batch_size: PositiveInt
    precision: Literal["auto", "fp32", "bf16"]
    compile: Unidentifying[bool]
    cuda_graph: Unidentifying[bool]
    clip_norm: PositiveFloat | None
    patience: PositiveInt | None
    log_every: Unidentifying[PositiveInt]
    checkpoint_every: Unidentifying[PositiveInt | None]
    keep_checkpoints: Unidentifying[PositiveInt | None]


class ProbeConfig(Component):
    name: Text
    taps: Annotated[list[Text], MinLen(1)] | None  # layers to probe; None: the code, and the feature map if there is
    max_features: PositiveInt  # larger maps are average-pooled
    labels_per_class: PositiveInt | None
    label_fraction: PositiveFraction | None
    label_draws: PositiveInt
    views: NonNegativeInt
    mirror: bool


class EvaluationConfig(Node):
    denoising_levels: list[PositiveFloat]  # multiples of corruption.level
    importance_samples: PositiveInt
    jacobian_images: PositiveInt
    firing_images: NonNegativeInt
    geometry_images: NonNegativeInt
    neighbors: PositiveInt
    atlas_units: NonNegativeInt
    projector_images: NonNegativeInt


class LatentConfig(Component):
    given = ("has_prior",)


class PublishedConfig(Node):
    """A published number that a run reproduces."""

    setting: str  # what was measured, in a few words
    metric: str  # its key in metrics.json, section first
    value: float
    target: float | None = None  # at least, for a metric that is better when higher, else at most; None: the value
    source: str


class ComputeConfig(Node):
    """The compute device, and the location of prepared datasets."""

    device: Unidentifying[str]
    threads: Unidentifying[PositiveInt | None]
    cache: Unidentifying[Text | None]


class MeasureConfig(ComputeConfig):
    """Settings for measuring a run, shared by all commands that do so."""

    baselines: Unidentifying[bool]


class SweepConfig(Node):
    """How the points of a sweep run on this machine."""

    jobs: Unidentifying[Literal["auto"] | PositiveInt]  # processes at once
    retries: Unidentifying[NonNegativeInt]  # of a point whose process was killed
    fail_fast: Unidentifying[bool]


class FitConfig(ComputeConfig):
    """Settings that every training run has."""

    seed: NonNegativeInt
    output: Unidentifying[Text]
    name: Unidentifying[Text | None]
    overwrite: Unidentifying[bool]
    optimizer: OptimizerConfig
    scheduler: SchedulerConfig
    trainer: TrainerConfig


class RunConfig(FitConfig):
    """Settings that every trained run has: an architecture and its data."""

    model: ModelConfig
    dataset: DatasetConfig


class TrainConfig(RunConfig, MeasureConfig, SweepConfig):
    loss: LossConfig
    penalty: PenaltyConfig
    corruption: CorruptionConfig
    stack: Unidentifying[bool]
    halving: Unidentifying[Annotated[int, Ge(2)] | None]
    pause_after: Unidentifying[PositiveInt | None]  # epochs
    supervised: Unidentifying[bool]
    finetune: Unidentifying[list[Text] | None]  # overrides of a fine-tune
    probe: Unidentifying[ProbeConfig]
    evaluation: Unidentifying[EvaluationConfig]
    published: Unidentifying[PublishedConfig | None]


class RemeasureConfig(MeasureConfig):
    """A trained run to re-evaluate."""

    run: Text
    step: NonNegativeInt | None  # of the checkpoint; None: the best one
    overwrite: bool


class ProbeCommandConfig(RemeasureConfig):
    checkpoints: Literal["best", "all"]
    probe: ProbeConfig


class EvaluateConfig(RemeasureConfig):
    evaluation: EvaluationConfig


class VerifyConfig(ComputeConfig):
    run: Text


class ReproduceConfig(ComputeConfig):
    run: Text
    folder: Text | None  # None: a temporary one


class SampleConfig(ComputeConfig):
    run: Text
    step: NonNegativeInt | None  # of the checkpoint; None: the best one
    latent: LatentConfig
    count: PositiveInt
    images: PositiveInt
    seed: NonNegativeInt


class EncodeConfig(ComputeConfig):
    run: Text
    step: NonNegativeInt | None  # of the checkpoint; None: the best one
    splits: list[Literal["train", "val", "test"]]
    tap: Text
    file: Text | None


class ClassifierConfig(FitConfig):
    """How a classifier is trained on an encoder."""

    tap: Text
    max_features: PositiveInt
    frozen_epochs: NonNegativeInt
    label_smoothing: Fraction
    min_steps: PositiveInt
    labels_per_class: PositiveInt | None
    label_fraction: PositiveFraction | None
    label_draw: NonNegativeInt | None  # None: the seed


class FinetuneConfig(ClassifierConfig, SweepConfig):
    """The config that a user composes: one fine-tune, optionally with pretraining and control."""

    run: Text | None  # the run to start from
    layer_decay: PositiveFraction | None  # None: LAYER_DECAY, 1 from scratch
    pretrain: bool
    control: bool
    augment: bool
    loss: LossConfig
    penalty: PenaltyConfig
    corruption: CorruptionConfig
    probe: ProbeConfig  # of the pretrained run
    model: ModelConfig | None
    dataset: DatasetConfig | None


class LabelsConfig(MeasureConfig):
    """Classification of trained runs with few labels: by a probe, fine-tuned, and from scratch."""

    run: Text
    labels: list[PositiveInt | None]  # per class; None: all
    finetune: bool
    output: Unidentifying[Text]
    probe: ProbeConfig
    tap: Text
    layer_decay: PositiveFraction | None
    frozen_epochs: NonNegativeInt
    label_smoothing: Fraction
    min_steps: PositiveInt
    augment: bool
    optimizer: OptimizerConfig
    scheduler: SchedulerConfig
    trainer: TrainerConfig


class ParentConfig(Node):
    """The checkpoint that a fine-tune starts from."""

    id: str  # of its run
    step: NonNegativeInt
    weights: str  # the first digits of the SHA-256 of its model


class FinetuneRunConfig(ClassifierConfig, RunConfig):
    """One fine-tune; model and dataset come from its parent, if any."""

    parent: ParentConfig | None  # None: from scratch
    run: Unidentifying[str | None]  # the parent's folder, next to this one
    layer_decay: PositiveFraction
    label_draw: NonNegativeInt
    augmentation: AugmentationConfig | None  # of the training images


class BenchFeaturesConfig(Node):
    samples: PositiveInt
    width: PositiveInt
    classes: Annotated[int, Ge(2)]
    l2: PositiveFloat
    tolerance: PositiveFloat
    gradient_tolerance: PositiveFloat


class BenchConfig(TrainConfig):
    measure: Literal["trainer", "probe"]
    seconds: Unidentifying[PositiveFloat]  # of every loop in a round
    rounds: Unidentifying[PositiveInt]
    features: BenchFeaturesConfig


SCHEMAS: dict[str, type[Node]] = {
    "train": TrainConfig,
    "probe": ProbeCommandConfig,
    "finetune": FinetuneConfig,
    "labels": LabelsConfig,
    "evaluate": EvaluateConfig,
    "sample": SampleConfig,
    "encode": EncodeConfig,
    "verify": VerifyConfig,
    "reproduce": ReproduceConfig,
    "bench": BenchConfig,
}
