"""Parts of a config that are fine alone and make no sense together; knows no torch.

What a part needs and offers is declared by class attributes of its target, which are read from the source.

- A model: `extras`, the extras that it always returns; `logits = False` where its output cannot be logits;
  `closed_form = True` where it is not trained by gradient steps; `at_most = {"k": "code_size"}` for arguments that
  bound each other; `steerable`, whether lambda changes how many of its units are active; `squares = "key"` for an
  argument under which only a loss with `squared = True` makes sense.
- A penalty: `needs`, the extras that it reads; `requires = {"code_activation": ("sigmoid",)}`, the values that it asks
  of the model's arguments; `sparsifies = True` where a larger lambda leaves fewer units active.
- A schedule: `compares_losses = True` where it watches the validation loss.
"""

from collections.abc import Collection
from typing import Any

from aetool.config.signature import constants, signature


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
    closed_form = constants(model["_target_"]).get("closed_form")
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
    model, declared = config["model"], constants(config["model"]["_target_"])
    problems = _bounded(model)
    if config["loss"]["logits"] and not declared.get("logits", True):
        problems.append(f"loss: the output of model={model['name']} cannot be logits; choose loss=mse")
    if model.get(declared.get("squares", "")) and not constants(config["loss"]["_target_"]).get("squared"):
        key = declared["squares"]
        problems.append(
            f"model.{key}={str(model[key]).lower()}: its weights are those of a squared error; choose loss=mse"
        )
    if declared.get("closed_form"):
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
    for key, bound in constants(model["_target_"]).get("at_most", {}).items():
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
    declared = constants(model["_target_"])
    sparse = declared.get("steerable", model.get("code_activation") == "relu")
    if "extras" in declared and not sparse:
        problems.append(f"{key}: lambda does not change how many units of model={model['name']} are active")
    if not (
        penalty["weight"] > 0 and any(constants(t["_target_"]).get("sparsifies") for t in penalty["terms"].values())
    ):
        problems.append(f"{key}: there is no lambda to steer; add penalty=l1 with penalty.weight > 0")
    if model.get("code_size") is not None and target >= model["code_size"]:
        problems.append(f"{key}: it has to be below model.code_size={model['code_size']}")
    if config["trainer"]["patience"] is not None:
        problems.append(f"{key}: losses at a changing lambda do not compare; set trainer.patience=null")
    if constants(config["scheduler"]["_target_"]).get("compares_losses"):
        problems.append(f"{key}: losses at a changing lambda do not compare; choose scheduler=cosine")
    return problems


def _penalties(config: dict[str, Any]) -> list[str]:
    problems = []
    model, penalty = config["model"], config["penalty"]
    if penalty["weight"] > 0 and not penalty["terms"]:
        problems.append(f"penalty.weight={penalty['weight']}: there is no penalty to weigh; add penalty=l1")
    if penalty["target_l0"] is not None:
        problems += _target_l0(config, penalty["target_l0"])
    offered = constants(model["_target_"]).get("extras")
    for name, term in penalty["terms"].items():
        declared = constants(term["_target_"])
        missing = [extra for extra in declared.get("needs", ()) if offered is not None and extra not in offered]
        if missing:
            problems.append(
                f"penalty={name}: it acts on {', '.join(missing)}, which model={model['name']} does not return"
            )
        for key, allowed in declared.get("requires", {}).items():
            if model.get(key) not in allowed:
                choices = " or ".join(map(str, allowed))
                problems.append(
                    f"penalty={name}: it needs model.{key}={choices}; model={model['name']} does not have it"
                )
    return problems
