"""Calls that run code found in data, or write where an archive says, are kept out: what ruff's rules do not know."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import aetool

ROOT = Path(aetool.__file__).parent
REPOSITORY = ROOT.parent
IMPORTING = {  # modules that import by name, and whose names these are
    "__init__.py",  # the package's own
    "cli.py",  # the package's own
    "config/targets.py",  # of the conf tree, or typed by the user
    "sweeps/processes.py",  # the package's own
}
UNPICKLING = {
    "evaluation/figure_process.py",  # what its parent process writes to its stdin
}
NEVER = {"extractall", "unsafe_load", "full_load", "register_new_resolver", "register_resolver"}
IMPORTS = {"import_module", "__import__", "run_path", "run_module", "exec_module"}
UNPICKLES = {"Unpickler", "read_pickle"}


def problems(source: str, name: str) -> list[str]:
    """Dangerous calls in a module of the package, by line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            bases = {_last(base) for base in node.bases}
            found += [f"{node.lineno}: Unpickler"] if bases & UNPICKLES and name not in UNPICKLING else []
        if not isinstance(node, ast.Call):
            continue
        called, options = _last(node.func), {word.arg: word.value for word in node.keywords}
        whole = ast.unparse(node.func)
        is_true = {key for key, value in options.items() if isinstance(value, ast.Constant) and value.value is True}
        bad = called in NEVER
        bad |= called in IMPORTS and name not in IMPORTING
        bad |= called in UNPICKLES and name not in UNPICKLING
        bad |= whole in ("pickle.load", "pickle.loads") and name not in UNPICKLING
        bad |= whole in ("os.system", "os.popen")
        bad |= whole == "torch.load" and "weights_only" not in is_true
        bad |= whole.startswith("yaml.") and called in ("load", "load_all")
        bad |= "weights_only" in options and "weights_only" not in is_true
        bad |= "allow_pickle" in is_true
        found += [f"{node.lineno}: {whole}"] if bad else []
    return found


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def test_the_package_has_none():
    modules = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}
    assert {name: found for name, text in modules.items() if (found := problems(text, name))} == {}
    for name in IMPORTING | UNPICKLING:  # no exception is left that nothing needs
        assert problems(modules[name], "other.py"), name


@pytest.mark.parametrize(
    "call",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=weights)",
        "model.restore(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "archive.extractall(folder)",
        "yaml.load(text, Loader)",
        "yaml.unsafe_load(text)",
        "os.system(command)",
        "OmegaConf.register_new_resolver('eval', eval)",
        "importlib.import_module(name)",
        "class Any(pickle.Unpickler): ...",
    ],
)
def test_each_is_found(call):
    assert problems(call, "models/mine.py")


def test_safe_forms_are_not():
    safe = "torch.load(path, weights_only=True); np.load(path); np.load(path, allow_pickle=False); yaml.safe_load(text)"
    assert not problems(safe, "models/mine.py")


def test_ruff_finds_the_others():
    """The rules in pyproject.toml are on."""
    calls = ["exec(a)", "eval(a)", "pickle.loads(a)", "yaml.load(a)", "subprocess.run(a, shell=True)", "os.system(a)"]
    text = "\n".join(["import os, pickle, subprocess, yaml, jinja2", *calls, "jinja2.Environment()", ""])
    words = ["check", "--output-format=concise", "--stdin-filename=aetool/found.py", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *words], input=text, capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    codes = {line.split(": ")[1].split()[0] for line in done.stdout.splitlines() if line.startswith("aetool/found.py")}
    assert {"S102", "S307", "S301", "S506", "S602", "S605", "S701"} <= codes
