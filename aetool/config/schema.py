"""The fixed part of every config: its keys, their types and ranges; knows no torch.

Every other key of a component is described by the signature of the `_target_` beside it.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from aetool.ranges import (
    Fraction,
    Interval,
    NonNegativeFloat,
    NonNegativeInt,
    OpenFraction,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
)


@dataclass(frozen=True)
class Component:
    """Marks a node with a `_target_`: `given` are the arguments that the program passes when it builds the target."""

    given: tuple[str, ...] = ()


GIVEN_TO_MODEL = ("image_shape", "mean_image", "input_std", "pca")


@dataclass
class ModelConfig:
    name: str


@dataclass
class LossConfig:
    logits: bool  # reconstructions are logits of pixels in [0, 1]
    pixels: bool  # it compares pixels in [0, 1]


@dataclass
class TermConfig:
    scale: NonNegativeFloat  # of this term within lambda * sum(scale * R)


@dataclass
class PenaltyConfig:
    weight: NonNegativeFloat  # lambda
    warmup: Fraction  # share of all steps over which lambda rises from 0
    target_l0: PositiveFloat | None
    terms: dict[str, Annotated[TermConfig, Component(("code_size", "num_classes", "train_labels"))]]


@dataclass
class CorruptionConfig:
    level: NonNegativeFloat  # strength; 0: none


@dataclass
class OptimizerConfig:
    lr: PositiveFloat


@dataclass
class AugmentationConfig:
    flip: bool  # left to right
    shift: NonNegativeInt  # pixels


@dataclass
class DatasetConfig:
    name: str
    image_shape: list[PositiveInt] | None  # C, H, W
    num_train: PositiveInt | None  # before the validation split is carved out
    num_classes: PositiveInt | None
    val_fraction: OpenFraction
    standardize: bool
    epochs: PositiveInt
    batch_size: PositiveInt
    augmentation: AugmentationConfig | None = None  # a dataset may say nothing of it


@dataclass
class TrainerConfig:
    epochs: PositiveInt
    batch_size: PositiveInt
    precision: Literal["fp32", "bf16"]
    clip_norm: PositiveFloat | None
    patience: PositiveInt | None
    log_every: PositiveInt
    checkpoint_every: PositiveInt | None
    keep_checkpoints: PositiveInt | None


@dataclass
class ProbeKeys:
    name: str
    taps: list[str] | None  # where features are read; None: the code, and the feature map where there is one
    max_features: PositiveInt  # larger maps are average-pooled
    labels_per_class: PositiveInt | None
    label_fraction: PositiveFraction | None
    label_draws: PositiveInt
    views: NonNegativeInt


@dataclass
class EvaluationConfig:
    denoising_levels: list[PositiveFloat]  # multiples of corruption.level
    importance_samples: PositiveInt
    jacobian_images: PositiveInt
    geometry_images: NonNegativeInt
    neighbors: PositiveInt
    atlas_units: NonNegativeInt
    projector_images: NonNegativeInt


@dataclass
class NoFixedKeys:
    """A component whose keys are all its target's."""


@dataclass
class ComputeConfig:
    """Where a command computes, and where it finds prepared datasets."""

    device: str
    threads: PositiveInt | None
    cache: str | None


@dataclass
class MeasureConfig(ComputeConfig):
    """What measuring a run needs, whichever command asks for it."""

    baselines: bool


@dataclass
class TrainingConfig(ComputeConfig):
    """What a run is trained with, by whichever command."""

    seed: NonNegativeInt
    output: str
    name: str | None
    overwrite: bool
    loss: Annotated[LossConfig, Component()]
    penalty: PenaltyConfig
    corruption: Annotated[CorruptionConfig, Component(("pca",))]
    optimizer: Annotated[OptimizerConfig, Component(("params",))]
    scheduler: Annotated[NoFixedKeys, Component()]
    trainer: TrainerConfig


@dataclass
class TrainConfig(MeasureConfig, TrainingConfig):
    supervised: bool
    model: Annotated[ModelConfig, Component(GIVEN_TO_MODEL)]
    dataset: Annotated[DatasetConfig, Component(("cache_dir",))]
    probe: Annotated[ProbeKeys, Component()]
    evaluation: EvaluationConfig


@dataclass
class ProbeConfig(MeasureConfig):
    run: str
    checkpoints: Literal["best", "all"]
    probe: Annotated[ProbeKeys, Component()]


@dataclass
class EvaluateConfig(MeasureConfig):
    run: str
    evaluation: EvaluationConfig


@dataclass
class SampleConfig(ComputeConfig):
    run: str
    latent: Annotated[NoFixedKeys, Component(("has_prior",))]
    count: PositiveInt
    images: PositiveInt
    seed: NonNegativeInt


@dataclass
class EncodeConfig(ComputeConfig):
    run: str
    splits: list[Literal["train", "val", "test"]]
    tap: str
    file: str | None


@dataclass
class FinetuneConfig(TrainingConfig):
    run: str | None  # the run to start from
    pretrain: bool
    control: bool
    tap: str
    max_features: PositiveInt
    layer_decay: PositiveFraction
    frozen_epochs: NonNegativeInt
    label_smoothing: Fraction
    labels_per_class: PositiveInt | None
    label_fraction: PositiveFraction | None
    augment: bool
    model: Annotated[ModelConfig, Component(GIVEN_TO_MODEL)] | None
    dataset: Annotated[DatasetConfig, Component(("cache_dir",))] | None


@dataclass
class BenchFeaturesConfig:
    samples: PositiveInt
    width: PositiveInt
    classes: Annotated[int, Interval(low=2)]
    l2: PositiveFloat
    tolerance: PositiveFloat
    gradient_tolerance: PositiveFloat


@dataclass
class BenchConfig(TrainConfig):
    measure: Literal["trainer", "probe"]
    steps: PositiveInt
    rounds: PositiveInt
    features: BenchFeaturesConfig


SCHEMAS: dict[str, type] = {
    "train": TrainConfig,
    "probe": ProbeConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "sample": SampleConfig,
    "encode": EncodeConfig,
    "bench": BenchConfig,
}
