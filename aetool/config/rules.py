"""Parts of a config that are fine alone and make no sense together, by what their classes declare as `traits`."""

import importlib
from collections.abc import Collection
from typing import Any, TypeVar

from aetool.config.signature import signature
from aetool.traits import LossTraits, ModelTraits, PenaltyTraits, ScheduleTraits

T = TypeVar("T")


def disagreements(config: dict[str, Any]) -> list[str]:
    """The problems, each naming the key to change."""
    problems = _names(config)
    if "pretrain" in config:
        return problems + _finetune(config)
    if "probe" in config:
        problems += _budget("probe.", config["probe"])
    if "trainer" not in config:
        return problems
    problems += viewless(config["probe"], config["dataset"])
    return [*problems, *_images(config), *_model(config), *_corruption(config), *_penalties(config)]


def _traits(component: dict[str, Any], default: T) -> T:
    """What the target of a component declares; `default` for a target without traits, such as a plain function."""
    module, _, name = component["_target_"].rpartition(".")
    return getattr(getattr(importlib.import_module(module), name), "traits", default)


def given_twice(command: str, keys: Collection[str]) -> list[str]:
    """What a command line sets, by its keys, that something else decides: `run=`, or that there is no pretraining."""
    if command != "finetune":
        return []
    roots = {key: key.partition(".")[0].partition("@")[0] for key in keys}
    if "run" in keys:
        parts = ("model", "dataset", "loss", "penalty", "corruption")
        return [f"{key}: it is that of the run; leave out {key}=… or run=…" for key in keys if roots[key] in parts]
    unused = [key for key in keys if roots[key] in ("penalty", "corruption") and "pretrain" not in keys]
    return [f"{key}: it acts on the autoencoder alone; add pretrain=true or leave it out" for key in unused]


def _finetune(config: dict[str, Any]) -> list[str]:
    problems = []
    model, dataset = config["model"], config["dataset"]
    if config["run"] is None and (model is None or dataset is None):
        missing = [key for key in ("model", "dataset") if config[key] is None]
        problems.append(f"{' and '.join(missing)}: missing; set model=… dataset=…, or run=DIR of a trained run")
    if config["run"] is not None and config["pretrain"]:
        problems.append("pretrain=true: run=… is trained already; leave one of them out")
    if config["run"] is None and config["control"] and not config["pretrain"]:
        problems.append("control=true: there is nothing to compare with; give run=DIR or pretrain=true")
    problems += _budget("", config)
    if config["frozen_epochs"] > config["trainer"]["epochs"]:
        problems.append(
            f"frozen_epochs={config['frozen_epochs']}: at most trainer.epochs={config['trainer']['epochs']}"
        )
    return problems + (_bounded(model) + untrainable(model) if model else [])


def _budget(prefix: str, node: dict[str, Any]) -> list[str]:
    count, fraction = node["labels_per_class"], node["label_fraction"]
    if count is None or fraction is None:
        return []
    both = f"{prefix}labels_per_class={count} and {prefix}label_fraction={fraction:g}"
    return [f"{both}: they exclude each other; leave one of them null"]


def viewless(probe: dict[str, Any], dataset: dict[str, Any]) -> list[str]:
    """Why features cannot be averaged over views of the images of this dataset."""
    change = dataset.get("augmentation") or {}
    if probe["views"] and not any(change.values()):
        return [f"probe.views={probe['views']}: dataset.augmentation changes nothing; set probe.views=0"]
    return []


def untrainable(model: dict[str, Any]) -> list[str]:
    """Why gradient steps cannot train this model."""
    closed_form = _traits(model, ModelTraits()).closed_form
    return [f"model={model['name']}: it is fitted in closed form; nothing to fine-tune"] if closed_form else []


def _names(config: dict[str, Any]) -> list[str]:
    """Of those that a folder is called by."""
    parts = {f"{group}.name": (config.get(group) or {}).get("name") for group in ("model", "dataset", "probe")}
    return [
        f"{key}={name}: expected one folder name, not starting with a dot"
        for key, name in {"name": config.get("name"), **parts}.items()
        if name is not None and (not name or name.startswith(".") or "/" in name or "\\" in name)
    ]


def _images(config: dict[str, Any]) -> list[str]:
    problems = []
    dataset, batch_size = config["dataset"], config["trainer"]["batch_size"]
    train = dataset["num_train"] and int(dataset["num_train"] * (1 - dataset["val_fraction"]))
    if train and batch_size > train:
        problems.append(f"trainer.batch_size={batch_size}: {dataset['name']} has {train} training images")
    if (config["loss"]["logits"] or config["loss"]["pixels"]) and dataset["standardize"]:
        problems.append(
            "dataset.standardize=true: this loss compares with pixels in [0, 1]; set dataset.standardize=false"
        )
    shape, shift = dataset["image_shape"], (dataset.get("augmentation") or {}).get("shift", 0)
    if shape and shift >= min(shape[1:]):
        problems.append(f"dataset.augmentation.shift={shift}: at most {min(shape[1:]) - 1} for images {shape}")
    return problems


def _model(config: dict[str, Any]) -> list[str]:
    model, traits = config["model"], _traits(config["model"], ModelTraits())
    problems = _bounded(model)
    if config["loss"]["logits"] and not traits.logits:
        problems.append(f"loss: the output of model={model['name']} cannot be logits; choose loss=mse")
    key = traits.needs_squared_error_if
    if key and model.get(key) and not _traits(config["loss"], LossTraits()).squared:
        problems.append(
            f"model.{key}={str(model[key]).lower()}: its weights are those of a squared error; choose loss=mse"
        )
    if traits.closed_form:
        because = f"model={model['name']} is fitted in closed form"
        if config["supervised"]:
            problems.append(f"supervised=true: {because}; set supervised=false")
        if config["penalty"]["terms"]:
            problems.append(f"penalty={', '.join(config['penalty']['terms'])}: {because}; set penalty=none")
        if config["corruption"]["level"]:
            problems.append(f"corruption.level={config['corruption']['level']:g}: {because}; set corruption=none")
    return problems


def _bounded(model: dict[str, Any]) -> list[str]:
    problems = []
    for key, bound in _traits(model, ModelTraits()).at_most.items():
        value, limit = model.get(key), model.get(bound)
        if value is not None and limit is not None and value > limit:
            problems.append(f"model.{key}={value}: at most model.{bound}={limit}")
    return problems


def _corruption(config: dict[str, Any]) -> list[str]:
    node = config["corruption"]
    found = signature(node["_target_"])
    if "level" in found.parameters or found.takes_any:
        return []
    return [f"corruption._target_={node['_target_']}: it has to take `level`, its strength"]


def _target_l0(config: dict[str, Any], target: float) -> list[str]:
    problems = []
    model, penalty, key = config["model"], config["penalty"], f"penalty.target_l0={target:g}"
    steerable = _traits(model, ModelTraits()).l0_depends_on_lambda
    if steerable is None:
        steerable = model.get("code_activation", "relu") == "relu"
    if not steerable:
        problems.append(f"{key}: lambda does not change how many units of model={model['name']} are active")
    if not (
        penalty["weight"] > 0 and any(_traits(term, PenaltyTraits()).sparsifies for term in penalty["terms"].values())
    ):
        problems.append(f"{key}: there is no lambda to steer; add penalty=l1 with penalty.weight > 0")
    if model.get("code_size") is not None and target >= model["code_size"]:
        problems.append(f"{key}: it has to be below model.code_size={model['code_size']}")
    if config["trainer"]["patience"] is not None:
        problems.append(f"{key}: losses at a changing lambda do not compare; set trainer.patience=null")
    if _traits(config["scheduler"], ScheduleTraits()).compares_losses:
        problems.append(f"{key}: losses at a changing lambda do not compare; choose scheduler=cosine")
    return problems


def _penalties(config: dict[str, Any]) -> list[str]:
    problems = []
    model, penalty = config["model"], config["penalty"]
    if penalty["weight"] > 0 and not penalty["terms"]:
        problems.append(f"penalty.weight={penalty['weight']}: there is no penalty to weigh; add penalty=l1")
    if penalty["target_l0"] is not None:
        problems += _target_l0(config, penalty["target_l0"])
    offered = _traits(model, ModelTraits()).extras
    for name, term in penalty["terms"].items():
        traits = _traits(term, PenaltyTraits())
        missing = [extra for extra in traits.needs if extra not in offered]
        if missing:
            problems.append(
                f"penalty={name}: it acts on {', '.join(missing)}, which model={model['name']} does not return"
            )
        for key, allowed in traits.requires.items():
            if model.get(key) not in allowed:
                choices = " or ".join(map(str, allowed))
                problems.append(
                    f"penalty={name}: it needs model.{key}={choices}; model={model['name']} does not have it"
                )
    return problems
