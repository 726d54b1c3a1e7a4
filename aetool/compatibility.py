"""Parts of a config that are fine alone and make no sense together; knows no torch.

What a part needs and offers is declared by class attributes of its target, which are read from the source.
A model declares `extras`, the extras that it always returns; `logits = False` where its output cannot be logits;
`closed_form = True` where it is not trained by gradient steps; `at_most = {"k": "code_size"}` for arguments that bound
each other. A penalty declares `needs`, the extras that it reads, and `requires = {"code_activation": ("sigmoid",)}`,
the values that it asks of the model's arguments.
"""

from typing import Any

from aetool.signature import constants


def disagreements(config: dict[str, Any]) -> list[str]:
    """The problems, each naming the key to change."""
    if "trainer" not in config:
        return []
    return [*_run(config), *_images(config), *_model(config), *_penalties(config)]


def _run(config: dict[str, Any]) -> list[str]:
    name = config["name"]
    if name is not None and (not name or name.startswith(".") or "/" in name or "\\" in name):
        return [f"name={name}: expected one folder name inside output, not starting with a dot"]
    return []


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
    return problems


def _model(config: dict[str, Any]) -> list[str]:
    problems = []
    model, declared = config["model"], constants(config["model"]["_target_"])
    for key, bound in declared.get("at_most", {}).items():
        value, limit = model.get(key), model.get(bound)
        if value is not None and limit is not None and value > limit:
            problems.append(f"model.{key}={value}: at most model.{bound}={limit}")
    if config["loss"]["logits"] and not declared.get("logits", True):
        problems.append(f"loss: the output of model={model['name']} cannot be logits; choose loss=mse")
    if declared.get("closed_form"):
        because = f"model={model['name']} is fitted in closed form"
        if config["penalty"]["terms"]:
            problems.append(f"penalty={', '.join(config['penalty']['terms'])}: {because}; set penalty=none")
        if config["corruption"]["level"]:
            problems.append(f"corruption.level={config['corruption']['level']:g}: {because}; set corruption=none")
    return problems


def _penalties(config: dict[str, Any]) -> list[str]:
    problems = []
    model, penalty = config["model"], config["penalty"]
    if penalty["weight"] > 0 and not penalty["terms"]:
        problems.append(f"penalty.weight={penalty['weight']}: there is no penalty to weigh; add penalty=l1")
    if penalty["target_l0"] is not None and not (penalty["terms"] and penalty["weight"] > 0):
        problems.append(
            f"penalty.target_l0={penalty['target_l0']:g}: there is no lambda to steer; "
            "add penalty=l1 with penalty.weight > 0"
        )
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
