"""aetool list [GROUP] [dataset=NAME]"""

from pathlib import Path
from typing import TYPE_CHECKING

from aetool.config import help
from aetool.config.tree import config_tree, description, group_options, plurals, text_of
from aetool.errors import ConfigError, UserError, suggest

if TYPE_CHECKING:
    from aetool.config.schema import TrainConfig

LEFT = 19  # columns of a name that shares the line with its description
DATASET = "dataset=mnist"  # that models are measured on by default


def run(words: list[str]) -> int:
    """Lists the options of one group or of all, with the first line of each YAML; models also with their cost."""
    parser = help.parser("list", "Every option of a group, or of all groups.")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="GROUP",
        help="models, penalties, …; dataset=NAME: the images that models are measured on",
    )
    parser.add_argument("-cd", "--config-dir", type=Path, help="also look for configs in DIR", metavar="DIR")
    options = parser.parse_intermixed_args(words)
    overrides = [word for word in options.words if "=" in word]
    chosen = [word for word in options.words if "=" not in word]
    with config_tree(options.config_dir) as loader:
        known = plurals(loader)
        for word in chosen:
            if word not in known and word not in known.values():
                raise UserError(f"{word}: no such group; {suggest(word, known)}")
        listed = [known.get(word, word) for word in chosen] or list(known.values())
        described = {
            group: {name: description(text_of(loader, f"{group}/{name}")) for name in group_options(loader, group)}
            for group in listed
        }
    measured = "model" in listed and bool(chosen)
    if overrides and not measured:
        raise UserError(f"{overrides[0]}: only models are measured on a dataset; aetool list models {overrides[0]}")
    costs = _costs(overrides, options.config_dir) if measured else {}
    for group, lines in described.items():
        print(group)
        for name, text in lines.items():
            print("\n".join(help.columns({name: text}, LEFT)))
            if group == "model" and measured:
                print("\n".join(help.wrapped(costs[name], " " * 6, " " * 6)))
    return 0


def _costs(overrides: list[str], config_dir: Path | None) -> dict[str, str]:
    """One line per model: its cost on the images of a dataset, or why it cannot be built."""
    from aetool.config.compose import compose_each, compose_one
    from aetool.config.schema import TrainConfig

    if not any(word.startswith("dataset=") for word in overrides):
        overrides = [DATASET, *overrides]
    dataset = compose_one("train", TrainConfig, overrides, config_dir).config.dataset  # its mistakes, once
    if dataset.image_shape is None:
        unknown = "the shape of its images is not known before they are read"
        raise UserError(f"dataset={dataset.name}: {unknown}; set dataset.image_shape=[C,H,W]")
    configs = compose_each("model", overrides, config_dir)
    return {name: _cost(config) for name, config in configs.items()}


def _cost(config: "TrainConfig | ConfigError") -> str:
    if isinstance(config, ConfigError):
        return "; ".join(config.problems)
    import torch

    from aetool.measures.cost import cost
    from aetool.training.assembly import make_model

    shape = config.dataset.image_shape or []
    try:
        model = make_model(config, tuple(shape)).eval()
        with torch.no_grad():
            code = model.encode(torch.zeros(1, *shape)).shape[1:]
        found = cost(model, shape)
    except Exception as error:  # a model of the user's may fail in any way
        return f"cannot be built: {type(error).__name__}: {error}"
    return (
        f"{found['parameters']:>11,} parameters {found['flops'] / 1e6:>8,.2f} MFLOPs "
        f"{found['model_bytes'] / 1e6:>7,.2f} MB  code {'×'.join(map(str, code))}"
    )
