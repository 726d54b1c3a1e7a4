"""Imports go one way, and leaf modules know nothing of the config."""

import ast
from pathlib import Path

import pytest

import aetool

ROOT = Path(aetool.__file__).parent
LAYERS = [  # a module may import from its own layer and from those below it
    {"__main__", "cli", "__init__"},
    {"commands"},
    {"sweeps", "bench"},
    {"evaluation", "report"},
    {"training"},
    {"storage"},
    {"config"},
    {"models", "losses", "penalties", "data", "probes", "measures"},
    {"components", "console", "errors", "faults", "files", "randomness", "system", "terminal", "users_code"},
]
LEAVES = {"models", "losses", "penalties", "data", "probes", "measures"}
TORCH_FREE = {  # packages and modules
    "cli",
    "config",
    "components",
    "console",
    "errors",
    "faults",
    "files",
    "report",
    "system/cgroup",
    "system/environment",
    "system/torchrun",
    "terminal",
    "users_code",
}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if "conf" not in path.parts)


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def names(path: Path) -> set[str]:
    """The top-level package or module that a module is in, and itself."""
    return {part(path), str(path.relative_to(ROOT).with_suffix(""))}


def layer(name: str) -> int:
    return next(index for index, names in enumerate(LAYERS) if name in names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    own = part(path)
    for name in imports(path, top_level_only=own == "cli" or own == "completion"):
        words = name.split(".")
        if words[0] == "aetool" and len(words) > 1 and (ROOT / words[1]).exists() | (ROOT / f"{words[1]}.py").exists():
            assert layer(own) <= layer(words[1]), f"{own} imports {name}"


@pytest.mark.parametrize("path", [path for path in modules() if part(path) in LEAVES], ids=lambda path: path.name)
def test_leaves_know_no_config(path):
    forbidden = ("hydra", "omegaconf", "aetool.config.check", "aetool.config.compose", "aetool.storage.run")
    assert not [name for name in imports(path) if name.startswith(forbidden)]


@pytest.mark.parametrize("path", [path for path in modules() if TORCH_FREE & names(path)], ids=lambda path: path.name)
def test_the_way_to_a_config_error_is_free_of_torch(path):
    assert not [name for name in imports(path, top_level_only=True) if name.startswith(("torch", "matplotlib"))]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 330
