"""The typed config of every command, made of those of the groups; imports no torch."""

from typing import Annotated, Literal

from annotated_types import Ge

from aetool.components import Fraction, NonNegativeInt, PositiveFloat, PositiveFraction, PositiveInt
from aetool.config.groups import (
    AugmentationConfig,
    CorruptionConfig,
    DatasetConfig,
    EvaluationConfig,
    LatentConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    PenaltyConfig,
    ProbeConfig,
    PublishedConfig,
    SchedulerConfig,
    TrainerConfig,
)
from aetool.config.node import Node, Text, Unidentifying


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
    layer_decay: PositiveFraction
    frozen_epochs: NonNegativeInt
    label_smoothing: Fraction
    min_steps: PositiveInt
    labels_per_class: PositiveInt | None
    label_fraction: PositiveFraction | None
    label_draw: NonNegativeInt | None  # None: the seed


class FinetuneConfig(ClassifierConfig, SweepConfig):
    """The config that a user composes: one fine-tune, optionally with pretraining and control."""

    run: Text | None  # the run to start from
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
    layer_decay: PositiveFraction
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
