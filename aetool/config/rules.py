"""Compatibility rules: contradictions between parts of a config that are each valid on their own.

`of_values` needs only the config and imports no torch. `of_classes` imports the classes and reads their traits (see
ModelTraits, PenaltyTraits, LossTraits and ScheduleTraits). Every problem names the key to change.
"""

from collections.abc import Collection, Mapping
from typing import TypeVar

from aetool.components import LossTraits, ModelTraits, PenaltyTraits, ScheduleTraits
from aetool.config.describe import show
from aetool.config.groups import DatasetConfig, ModelConfig, ProbeConfig
from aetool.config.names import LONGEST, misnamed
from aetool.config.node import Component, Node
from aetool.config.schema import (
    SCHEMAS,
    BenchConfig,
    ClassifierConfig,
    FinetuneConfig,
    FitConfig,
    LabelsConfig,
    ProbeCommandConfig,
    TrainConfig,
)
from aetool.config.targets import load

PARTS = ("model", "dataset", "loss", "penalty", "corruption", "probe")  # that a trained run has already
FIXED = {*PARTS, "optimizer", "scheduler", "trainer", "seed"} - {"probe"}  # that it was trained with
Traits = TypeVar("Traits", LossTraits, ModelTraits, PenaltyTraits, ScheduleTraits)


def of_values(config: Node) -> list[str]:
    """Problems visible from the config alone."""
    problems = [*_names(config), *_nesterov(config)]
    match config:
        case FinetuneConfig():
            problems += [*_finetune(config), *_label_budget("", config)]
        case TrainConfig():
            if config.halving and config.pause_after:
                problems.append(f"pause_after={config.pause_after}: halving decides it; leave out one of them")
            problems += _stack(config)
            problems += [*_label_budget("probe.", config.probe), *viewless(config.probe, config.dataset)]
            problems += _images(config)
        case ProbeCommandConfig():
            problems += _label_budget("probe.", config.probe)
        case LabelsConfig():
            problems += _labels(config)
    return problems


def of_classes(config: Node) -> list[str]:
    """Problems visible only from the components' classes."""
    match config:
        case FinetuneConfig(model=ModelConfig() as model):
            return [*_bounded(model), *untrainable(model)]
        case TrainConfig():
            return [*_model(config), *_penalties(config)]
    return []


def given_twice(command: str, keys: Collection[str]) -> list[str]:
    """Overridden keys that have no effect, because `run=` or the lack of pretraining decides them."""
    taken = SCHEMAS[command].model_fields
    roots = {key: key.partition(".")[0].partition("@")[0] for key in keys}
    if command != "finetune":
        fixed = FIXED - taken.keys() if "run" in taken else ()
        return [f"{key}: run=… decides it; leave it out" for key in keys if roots[key] in fixed]
    if "run" in keys:
        return [f"{key}: run=… decides it; leave out {key}=… or run=…" for key in keys if roots[key] in PARTS]
    unused = [key for key in keys if roots[key] in ("penalty", "corruption", "probe") and "pretrain" not in keys]
    return [f"{key}: it only affects pretraining; add pretrain=true or leave it out" for key in unused]


def viewless(probe: ProbeConfig, dataset: DatasetConfig) -> list[str]:
    """Why features cannot be averaged over views of the images of this dataset."""
    change = dataset.augmentation
    if probe.views and not (change and (change.flip or change.shift)):
        return [f"probe.views={probe.views}: dataset.augmentation changes nothing; set probe.views=0"]
    return []


def untrainable(model: ModelConfig) -> list[str]:
    """Why gradient steps cannot train this model."""
    closed_form = _traits(model, ModelTraits).closed_form
    return [f"model={model.name}: it is fitted in closed form; there is nothing to fine-tune"] if closed_form else []


def missing_extras(penalty: str, term: Component, model: ModelConfig, offered: Collection[str]) -> list[str]:
    """Model outputs that a penalty needs but the model does not provide."""
    missing = [extra for extra in _traits(term, PenaltyTraits).needs if extra not in offered]
    outputs = f"outputs {' and '.join(f'`{extra}`' for extra in missing)}"
    plural = "them" if len(missing) > 1 else "it"
    return [f"penalty={penalty} needs {outputs}; model={model.name} does not provide {plural}"] if missing else []


def _traits(component: Component, kind: type[Traits]) -> Traits:
    """What a component's class declares."""
    traits: Traits = getattr(load(component.target), "traits", kind())
    return traits


def _true(problems: Mapping[str, object]) -> list[str]:
    """The problems whose condition holds."""
    return [problem for problem, holds in problems.items() if holds]


def _names(config: Node) -> list[str]:
    """Of those that name a folder."""
    names = {"name": getattr(config, "name", None)}
    for group in ("model", "dataset", "probe"):
        names[f"{group}.name"] = getattr(getattr(config, group, None), "name", None)
    return [
        f"{key}={show(name)}: {reason}"
        for key, name in names.items()
        if name is not None and (reason := misnamed(name, LONGEST[key]))
    ]


def _nesterov(config: Node) -> list[str]:
    arguments = config.optimizer.arguments if isinstance(config, FitConfig | LabelsConfig) else {}
    able = arguments.get("momentum", 1) and not arguments.get("dampening")
    needs = "it needs optimizer.momentum > 0 and no dampening; set optimizer.nesterov=false"
    return [f"optimizer.nesterov=true: {needs}"] if arguments.get("nesterov") and not able else []


def _finetune(config: FinetuneConfig) -> list[str]:
    scratch, missing = config.run is None, [key for key in ("model", "dataset") if getattr(config, key) is None]
    complete = "set model=… dataset=…, or run=DIR of a trained run"
    epochs, frozen = config.trainer.epochs, config.frozen_epochs
    return _true(
        {
            f"{' and '.join(missing)}: missing; {complete}": scratch and missing,
            "pretrain=true: run=… is trained already; leave one of them out": not scratch and config.pretrain,
            "control=true: there is nothing to compare with; give run=DIR or pretrain=true": (
                scratch and config.control and not config.pretrain
            ),
            f"frozen_epochs={frozen}: at most trainer.epochs={epochs}": frozen > epochs,
            f"label_draw={config.label_draw}: all labels are used; set labels_per_class=… or leave it out": (
                config.label_draw is not None and config.labels_per_class is config.label_fraction is None
            ),
        }
    )


def _stack(config: TrainConfig) -> list[str]:
    until = {"halving": config.halving, "pause_after": config.pause_after}
    return [
        f"stack=true: stacked points are trained to their ends; set {key}=null, or stack=false"
        for key, value in until.items()
        if config.stack and value is not None
    ]


def _label_budget(prefix: str, node: ProbeConfig | ClassifierConfig) -> list[str]:
    count, fraction = node.labels_per_class, node.label_fraction
    if count is None or fraction is None:
        return []
    both = f"{prefix}labels_per_class={count} and {prefix}label_fraction={fraction:g}"
    return [f"{both}: mutually exclusive; set one of them to null"]


def _labels(config: LabelsConfig) -> list[str]:
    given, probe = config.labels, config.probe
    decided = {"labels_per_class": "labels", "label_fraction": "labels", "taps": "tap"}
    return [
        *(["labels=[…]: name one or more numbers, each once"] if not given or len(set(given)) < len(given) else []),
        *(f"probe.{k}: {by}=… decides it; leave it out" for k, by in decided.items() if getattr(probe, k) is not None),
    ]


def _images(config: TrainConfig) -> list[str]:
    dataset, loss, penalty, batch_size = config.dataset, config.loss, config.penalty, config.trainer.batch_size
    train = int((dataset.num_train or 0) * (1 - dataset.val_fraction))
    shape, shift = dataset.image_shape, dataset.augmentation.shift if dataset.augmentation else 0
    largest = min(shape[1:]) - 1 if shape else shift
    return _true(
        {
            f"trainer.batch_size={batch_size}: {dataset.name} has {train} training images": 0 < train < batch_size,
            "dataset.standardize=true: this loss needs pixels in [0, 1]; set dataset.standardize=false": (
                dataset.standardize and (loss.logits or loss.pixels)
            ),
            f"dataset.augmentation.shift={shift}: at most {largest} for images {shape}": shift > largest,
            f"penalty.weight={penalty.weight}: there is no penalty to weight; add penalty=l1": (
                penalty.weight > 0 and not penalty.terms
            ),
        }
    )


def _model(config: TrainConfig) -> list[str]:
    model, traits, level = config.model, _traits(config.model, ModelTraits), config.corruption.level
    key, because = traits.needs_squared_error_if or "", f"model={model.name} is fitted in closed form"
    compares, closed = _traits(config.loss, LossTraits), traits.closed_form
    terms = config.penalty.terms
    return _bounded(model) + _true(
        {
            f"loss: the output of model={model.name} cannot be logits; choose loss=mse": (
                config.loss.logits and not traits.logits
            ),
            "loss.logits=false: this loss takes logits; set loss.logits=true": (
                compares.logits and not config.loss.logits
            ),
            f"loss.logits=true: {config.loss.target} does not declare whether it takes logits; derive it from "
            "aetool.losses.Loss, with traits = LossTraits(logits=True) if it does": (
                config.loss.logits and not hasattr(load(config.loss.target), "traits")
            ),
            f"model.{key}=true: its weights are those of a squared error; choose loss=mse": (
                model.arguments.get(key) and not compares.squared
            ),
            f"supervised=true: {because}; set supervised=false": closed and config.supervised,
            f"finetune: {because}; set finetune=null": closed and config.finetune is not None,
            f"penalty={', '.join(terms)}: {because}; set penalty=none": closed and terms,
            f"corruption.level={level:g}: {because}; set corruption=none": closed and level,
            f"corruption.level={level:g}: model={model.name} is trained on patches; set corruption=none": (
                traits.patches and level
            ),
            f"model={model.name}: it is trained on patches; the loops to compare with take whole images": (
                traits.patches and isinstance(config, BenchConfig) and config.measure == "trainer"
            ),
            f"loss: the output of model={model.name} is whitened patches; choose loss=mse": (
                traits.patches and not config.loss.logits and (config.loss.pixels or compares.whole_images)
            ),
        }
    )


def _bounded(model: ModelConfig) -> list[str]:
    problems = []
    for key, bound in _traits(model, ModelTraits).at_most.items():
        value, limit = model.arguments.get(key), model.arguments.get(bound)
        if value is not None and limit is not None and value > limit:
            problems.append(f"model.{key}={value}: at most model.{bound}={limit}")
    return problems


def _penalties(config: TrainConfig) -> list[str]:
    model, target, offered = config.model, config.penalty.target_l0, _traits(config.model, ModelTraits)
    problems = [] if target is None else _target_l0(config, target)
    for name, term in config.penalty.terms.items():
        traits = _traits(term, PenaltyTraits)
        problems += missing_extras(name, term, model, offered.extras)
        if traits.whole_images and offered.patches:
            problems.append(f"penalty={name} needs codes of whole images; model={model.name} is trained on patches")
        for key, allowed in traits.requires.items():
            if model.arguments.get(key) not in allowed:
                choices = " or ".join(map(str, allowed))
                problems.append(f"penalty={name} needs model.{key}={choices}; model={model.name} does not have it")
    return problems


def _target_l0(config: TrainConfig, target: float) -> list[str]:
    model, penalty, key = config.model, config.penalty, f"penalty.target_l0={target:g}"
    traits, arguments = _traits(model, ModelTraits), model.arguments
    depends = traits.l0_depends_on_lambda
    if depends is None:
        depends = arguments.get("code_activation", "relu") == "relu"
    fixed = [f"model.{name}={arguments[name]}" for name in traits.l0_fixed_by if arguments.get(name) is not None]
    sparsifies = any(_traits(term, PenaltyTraits).sparsifies for term in penalty.terms.values())
    size, moving = arguments.get("code_size"), f"{key}: losses are not comparable while lambda changes"
    return _true(
        {
            f"{key}: lambda does not change how many units of model={model.name} are active": not depends,
            f"{key}: {', '.join(fixed)} sets how many units are active; set one of them to null": fixed,
            f"{key}: there is no lambda to adjust; add penalty=l1 with penalty.weight > 0": (
                not sparsifies or penalty.weight == 0
            ),
            f"{key}: it must be below model.code_size={size}": size is not None and target >= size,
            f"{moving}; set trainer.patience=null": config.trainer.patience is not None,
            f"{moving}; choose scheduler=cosine": _traits(config.scheduler, ScheduleTraits).compares_losses,
        }
    )
