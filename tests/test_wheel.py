"""The wheel holds the conf tree."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_conf(tmp_path):
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("not a checkout")
    copy = tmp_path / "source"
    for name in ("aetool", "conf"):
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and path.suffix in (".py", ".yaml", ".typed", ".j2"):
                target = copy / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path)]
    done = subprocess.run([*command, str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"aetool/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "aetool").rglob("*.py")}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "aetool").rglob("*.j2")}
    assert wanted | {"aetool/conf/__init__.py", "aetool/py.typed"} <= names
