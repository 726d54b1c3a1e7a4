"""What goes with what: contradictions between parts of a config that are each fine alone.

`of_values` needs the config alone and imports no torch. `of_classes` reads what the classes declare (see ModelTraits,
PenaltyTraits, LossTraits and ScheduleTraits), which imports them. Every problem names the key to change.
"""

from collections.abc import Collection

from aetool.components import LossTraits, ModelTraits, PenaltyTraits
from aetool.config.schema import (
    ClassifierConfig,
    Component,
    DatasetConfig,
    FinetuneConfig,
    ModelConfig,
    Node,
    PenaltyConfig,
    ProbeCommandConfig,
    ProbeConfig,
    RunConfig,
    TrainConfig,
)


def of_values(config: Node) -> list[str]:
    """Problems that the config alone shows."""
    problems = _names(config)
    match config:
        case FinetuneConfig():
            problems += [*_finetune(config), *_label_budget("", config)]
        case TrainConfig():
            problems += [*_label_budget("probe.", config.probe), *viewless(config.probe, config.dataset)]
            problems += [*_images(config), *_weightless(config.penalty)]
        case ProbeCommandConfig():
            problems += _label_budget("probe.", config.probe)
    return problems


def of_classes(config: Node) -> list[str]:
    """Problems that only the classes of the components show."""
    match config:
        case FinetuneConfig(model=ModelConfig() as model):
            return [*_contract(config), *_bounded(model), *untrainable(model)]
        case TrainConfig():
            return _contract(config) or [*_model(config), *_corruption(config), *_penalties(config)]
    return []


def given_twice(command: str, keys: Collection[str]) -> list[str]:
    """Keys of a command line that something else decides: `run=`, or that there is no pretraining."""
    if command != "finetune":
        return []
    roots = {key: key.partition(".")[0].partition("@")[0] for key in keys}
    if "run" in keys:
        parts = ("model", "dataset", "loss", "penalty", "corruption")
        return [f"{key}: run=… decides it; leave out {key}=… or run=…" for key in keys if roots[key] in parts]
    unused = [key for key in keys if roots[key] in ("penalty", "corruption") and "pretrain" not in keys]
    return [f"{key}: it only affects pretraining; add pretrain=true or leave it out" for key in unused]


def viewless(probe: ProbeConfig, dataset: DatasetConfig) -> list[str]:
    """Why features cannot be averaged over views of the images of this dataset."""
    change = dataset.augmentation
    if probe.views and not (change and (change.flip or change.shift)):
        return [f"probe.views={probe.views}: dataset.augmentation changes nothing; set probe.views=0"]
    return []


def untrainable(model: ModelConfig) -> list[str]:
    """Why gradient steps cannot train this model."""
    closed_form = _of_model(model).closed_form
    return [f"model={model.name}: it is fitted in closed form; there is nothing to fine-tune"] if closed_form else []


def missing_extras(penalty: str, term: Component, model: ModelConfig, offered: Collection[str]) -> list[str]:
    """What a penalty needs of the model's output and does not find there."""
    missing = [extra for extra in _of_penalty(term).needs if extra not in offered]
    outputs = f"outputs {' and '.join(f'`{extra}`' for extra in missing)}"
    plural = "them" if len(missing) > 1 else "it"
    return [f"penalty={penalty} needs {outputs}; model={model.name} does not provide {plural}"] if missing else []


def _of_model(model: ModelConfig) -> ModelTraits:
    from aetool.config.targets import load

    traits: ModelTraits = load(model.target).traits
    return traits


def _of_penalty(term: Component) -> PenaltyTraits:
    from aetool.config.targets import load

    traits: PenaltyTraits = load(term.target).traits
    return traits


def _contract(config: RunConfig | FinetuneConfig) -> list[str]:
    """Models and penalties that do not subclass the contract."""
    from aetool.config.targets import load
    from aetool.models.base import Autoencoder
    from aetool.penalties.base import Penalty

    expected: list[tuple[str, Component, type]] = []
    if config.model is not None:
        expected.append(("model", config.model, Autoencoder))
    if isinstance(config, TrainConfig):
        expected += [(f"penalty.terms.{name}", term, Penalty) for name, term in config.penalty.terms.items()]
    problems = []
    for path, component, base in expected:
        found = load(component.target)
        if not (isinstance(found, type) and issubclass(found, base)):
            wanted = f"{base.__module__}.{base.__name__}"
            problems.append(f"{path}._target_={component.target}: expected a subclass of {wanted}")
    return problems


def _names(config: Node) -> list[str]:
    """Of those that name a folder."""
    parts = {
        f"{group}.name": getattr(getattr(config, group, None), "name", None) for group in ("model", "dataset", "probe")
    }
    return [
        f"{key}={name}: expected one folder name, not starting with a dot"
        for key, name in {"name": getattr(config, "name", None), **parts}.items()
        if name is not None and (not name or name.startswith(".") or "/" in name or "\\" in name)
    ]


def _finetune(config: FinetuneConfig) -> list[str]:
    problems = []
    if config.run is None and (config.model is None or config.dataset is None):
        missing = [key for key in ("model", "dataset") if getattr(config, key) is None]
        problems.append(f"{' and '.join(missing)}: missing; set model=… dataset=…, or run=DIR of a trained run")
    if config.run is not None and config.pretrain:
        problems.append("pretrain=true: run=… is trained already; leave one of them out")
    if config.run is None and config.control and not config.pretrain:
        problems.append("control=true: there is nothing to compare with; give run=DIR or pretrain=true")
    if config.frozen_epochs > config.trainer.epochs:
        problems.append(f"frozen_epochs={config.frozen_epochs}: at most trainer.epochs={config.trainer.epochs}")
    return problems


def _label_budget(prefix: str, node: ProbeConfig | ClassifierConfig) -> list[str]:
    count, fraction = node.labels_per_class, node.label_fraction
    if count is None or fraction is None:
        return []
    both = f"{prefix}labels_per_class={count} and {prefix}label_fraction={fraction:g}"
    return [f"{both}: mutually exclusive; set one of them to null"]


def _images(config: TrainConfig) -> list[str]:
    problems = []
    dataset, batch_size = config.dataset, config.trainer.batch_size
    train = dataset.num_train and int(dataset.num_train * (1 - dataset.val_fraction))
    if train and batch_size > train:
        problems.append(f"trainer.batch_size={batch_size}: {dataset.name} has {train} training images")
    if (config.loss.logits or config.loss.pixels) and dataset.standardize:
        problems.append("dataset.standardize=true: this loss needs pixels in [0, 1]; set dataset.standardize=false")
    shape, shift = dataset.image_shape, dataset.augmentation.shift if dataset.augmentation else 0
    if shape and shift >= min(shape[1:]):
        problems.append(f"dataset.augmentation.shift={shift}: at most {min(shape[1:]) - 1} for images {shape}")
    return problems


def _weightless(penalty: PenaltyConfig) -> list[str]:
    if penalty.weight > 0 and not penalty.terms:
        return [f"penalty.weight={penalty.weight}: there is no penalty to weight; add penalty=l1"]
    return []


def _model(config: TrainConfig) -> list[str]:
    from aetool.config.targets import load

    model, traits = config.model, _of_model(config.model)
    problems = _bounded(model)
    if config.loss.logits and not traits.logits:
        problems.append(f"loss: the output of model={model.name} cannot be logits; choose loss=mse")
    loss = getattr(load(config.loss.target), "traits", LossTraits())
    key = traits.needs_squared_error_if
    if key and model.arguments.get(key) and not loss.squared:
        problems.append(f"model.{key}=true: its weights are those of a squared error; choose loss=mse")
    if traits.closed_form:
        because = f"model={model.name} is fitted in closed form"
        if config.supervised:
            problems.append(f"supervised=true: {because}; set supervised=false")
        if config.penalty.terms:
            problems.append(f"penalty={', '.join(config.penalty.terms)}: {because}; set penalty=none")
        if config.corruption.level:
            problems.append(f"corruption.level={config.corruption.level:g}: {because}; set corruption=none")
    return problems


def _bounded(model: ModelConfig) -> list[str]:
    problems = []
    for key, bound in _of_model(model).at_most.items():
        value, limit = model.arguments.get(key), model.arguments.get(bound)
        if value is not None and limit is not None and value > limit:
            problems.append(f"model.{key}={value}: at most model.{bound}={limit}")
    return problems


def _corruption(config: TrainConfig) -> list[str]:
    from aetool.config.targets import signature

    takes = signature(config.corruption.target)
    if "level" in takes.annotations or takes.takes_any:
        return []
    return [f"corruption._target_={config.corruption.target}: it must take `level`, its strength"]


def _penalties(config: TrainConfig) -> list[str]:
    problems = []
    model, penalty = config.model, config.penalty
    if penalty.target_l0 is not None:
        problems += _target_l0(config, penalty.target_l0)
    for name, term in penalty.terms.items():
        problems += missing_extras(name, term, model, _of_model(model).extras)
        for key, allowed in _of_penalty(term).requires.items():
            if model.arguments.get(key) not in allowed:
                choices = " or ".join(map(str, allowed))
                problems.append(f"penalty={name} needs model.{key}={choices}; model={model.name} does not have it")
    return problems


def _target_l0(config: TrainConfig, target: float) -> list[str]:
    from aetool.config.targets import load

    problems = []
    model, penalty, key = config.model, config.penalty, f"penalty.target_l0={target:g}"
    sparse = _of_model(model).l0_depends_on_lambda
    if not (model.arguments.get("code_activation", "relu") == "relu" if sparse is None else sparse):
        problems.append(f"{key}: lambda does not change how many units of model={model.name} are active")
    if not (penalty.weight > 0 and any(_of_penalty(term).sparsifies for term in penalty.terms.values())):
        problems.append(f"{key}: there is no lambda to adjust; add penalty=l1 with penalty.weight > 0")
    code_size = model.arguments.get("code_size")
    if code_size is not None and target >= code_size:
        problems.append(f"{key}: it must be below model.code_size={code_size}")
    if config.trainer.patience is not None:
        problems.append(f"{key}: losses are not comparable while lambda changes; set trainer.patience=null")
    if load(config.scheduler.target).traits.compares_losses:
        problems.append(f"{key}: losses are not comparable while lambda changes; choose scheduler=cosine")
    return problems
