"""The typed config of every group: the fixed keys with their types and ranges; imports no torch.

All other keys of a component are the arguments of its `_target_`, described by the signature of that class. A key
identifies the run unless it is marked `Unidentifying`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Len, MinLen

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
