"""What lies in the working folder is not imported, but for the modules that a user's targets name."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import TINY

from aetool.config.targets import TargetError, WorkingFolder, load
from aetool.config.tree import config_tree
from aetool.sweeps.processes import without_working_folder

TAKEN = ("tensorflow", "colorama", "yaml", "hydra", "selectors", "resource")  # of dependencies and of Python itself
MODEL = (
    "from aetool.models.dense import Dense\n"
    "class Mine(Dense):\n"
    "    def __init__(self, image_shape, code_size: int) -> None:\n"
    "        super().__init__(image_shape, [4], code_size, 'relu', 'relu', False)\n"
)
SCRIPT = str(Path(sysconfig.get_path("scripts"), "aetool"))


@pytest.fixture
def traps(workplace: Path) -> Path:
    """A working folder with modules that leave a file `imported` behind."""
    for name in TAKEN:
        line = f"import pathlib; pathlib.Path(r'{workplace}', 'imported').open('a').write('{name}\\n')\n"
        (workplace / f"{name}.py").write_text(line, encoding="utf-8")
    return workplace


@pytest.mark.parametrize("program", [[SCRIPT], [sys.executable, "-m", "aetool"]], ids=["script", "module"])
def test_the_command_imports_nothing_from_the_working_folder(traps, program):
    done = subprocess.run([*program, "list", "losses"], cwd=traps, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (traps / "imported").exists()


def test_processes_started_by_the_command_import_nothing_from_the_working_folder(traps):
    program = [sys.executable, "-c", "import colorama"]
    with without_working_folder():
        done = subprocess.run(program, cwd=traps, capture_output=True, text=True, check=False)
    assert not (traps / "imported").exists(), done.stderr
    subprocess.run(program, cwd=traps, check=True)
    assert (traps / "imported").exists()


@pytest.mark.faults
@pytest.mark.parametrize("program", [[SCRIPT], [sys.executable, "-m", "aetool"]], ids=["script", "module"])
@pytest.mark.parametrize("launcher", [["jobs=2"], ["hydra/launcher=joblib"]], ids=["processes", "joblib"])
def test_a_sweep_imports_nothing_from_the_working_folder(traps, program, launcher):
    words = [*(word for word in TINY if word != "jobs=1"), "trainer.epochs=1", "seed=0,1", *launcher]
    done = subprocess.run([*program, "train", "-m", *words], cwd=traps, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (traps / "imported").exists()


def test_a_module_that_a_target_names_is_found_in_the_working_folder(workplace, aetool):
    (workplace / "lying_here.py").write_text(MODEL, encoding="utf-8")
    (workplace / "beside_it.py").write_text(MODEL, encoding="utf-8")
    with config_tree():
        assert str(workplace) not in sys.path
        assert load("lying_here.Mine").__name__ == "Mine"
    assert WorkingFolder.find_spec("beside_it") is None
    done = aetool("train", *TINY, "trainer.epochs=1", "model._target_=lying_here.Mine", "model.widths=[8]")
    assert done.code == 2  # the class takes no widths: its signature was read
    assert "model.widths" in done.err


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_thing_here", r"needs the module 'no_such_thing_here', which is not installed; .*--config-dir"),
        ("raise ValueError('on import')", r"importing \w+ fails: ValueError: on import \(.*\.py:1\)"),
        ("import sys; sys.exit(7)", r"importing \w+ fails: SystemExit: 7"),
        ("def f(:", r"\.py:1: invalid syntax"),
        ("Thing = 3", "expected a class or function"),
        ("x = 3", "has no 'Thing'"),
    ],
)
def test_a_module_that_cannot_be_imported(workplace, aetool, code, reason):
    name = f"module_{abs(hash(code))}"
    (workplace / f"{name}.py").write_text(f"{code}\n", encoding="utf-8")
    with pytest.raises(TargetError, match=reason):
        load(f"{name}.Thing")
    done = aetool("train", *TINY, f"model._target_={name}.Thing")
    assert done.code == 2
    assert done.err.startswith(f"aetool: model._target_={name}.Thing: ")
    assert not (workplace / "outputs").exists()
