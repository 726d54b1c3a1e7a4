"""A run folder that an earlier aetool wrote is read, evaluated and resumed by this one.

`python -m tests.golden` stores one for a new checkpoint format.
"""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from aetool.storage.checkpoint import FORMAT, Checkpoints

GOLDEN = Path(__file__).parent / "golden"
NAME = f"format-{FORMAT}"


@pytest.fixture
def golden(workplace) -> Path:
    """A copy of the run of the present format, in the folder that its command names."""
    return Path(shutil.copytree(GOLDEN / NAME, workplace / "outputs" / NAME))


def test_it_is_evaluated(golden, aetool):
    """Its numbers are still what they were."""
    done = aetool("evaluate", f"run={golden}", "baselines=false", "evaluation.projector_images=0", "threads=1")
    assert (done.code, done.err) == (0, "")
    (measured,) = golden.glob("evaluate-*/metrics.json")
    found, before = (json.loads(path.read_text()) for path in (measured, GOLDEN / NAME / "metrics.json"))
    for split in ("val", "test"):
        assert found[f"{split}/mse"] == pytest.approx(before["evaluate"][f"{split}/mse"], rel=1e-4)


def test_it_is_resumed(golden, aetool):
    """As if it had been killed between its two checkpoints."""
    middle, last = Checkpoints(golden / "checkpoints").steps()
    shutil.rmtree(golden / "checkpoints" / f"step-{last:08d}")
    (golden / "metrics.json").unlink()
    command = json.loads((golden / "config.json").read_text())["command"]
    done = aetool(*shlex.split(command)[1:])
    assert done.code == 0, done.err
    assert f"resuming at step {middle}," in done.out
    found, before = (Checkpoints(run / "checkpoints").at(last) for run in (golden, GOLDEN / NAME))
    assert found is not None
    assert before is not None
    torch.testing.assert_close(found.model(), before.model(), rtol=1e-3, atol=1e-4)
    rows, old = ((run / "metrics.jsonl").read_text().splitlines() for run in (golden, GOLDEN / NAME))
    assert [json.loads(row).keys() for row in rows] == [json.loads(row).keys() for row in old]


def test_it_is_small_and_says_nothing_of_the_machine():
    files = [path for path in (GOLDEN / NAME).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100_000
    for path in files:
        assert not re.search(rb"/(home|root|tmp|work|Users)/", path.read_bytes()), path
