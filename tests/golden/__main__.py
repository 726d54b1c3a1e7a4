"""Stores a tiny finished run in the present checkpoint format, for tests/test_golden.py.

    python -m tests.golden

After a change of the format, run it once and keep the folders of earlier formats: the tests say what becomes of them.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from aetool.cli import main
from aetool.files import read_json, write_json
from aetool.storage.checkpoint import FORMAT

HERE = Path(__file__).parent
NAME = f"format-{FORMAT}"
WORDS = [  # 11 steps on the embedded digits, with a checkpoint in the middle
    "dataset=digits",
    "model=dense",
    "model.widths=[8]",
    "model.code_size=4",
    "trainer.epochs=1",
    "trainer.batch_size=128",
    "trainer.log_every=3",
    "trainer.checkpoint_every=6",
    "trainer.precision=fp32",
    "probe.l2=[0.1]",
    "baselines=false",
    "evaluation.atlas_units=0",
    "evaluation.projector_images=0",
    "device=cpu",
    "threads=1",
    f"name={NAME}",
]
KEPT = ("config.json", "metrics.json", "metrics.jsonl", "checkpoints/*/*")


def store() -> int:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        code = main(["train", *WORDS])
        run, target = Path("outputs") / NAME, HERE / NAME
        shutil.rmtree(target, ignore_errors=True)
        for path in (path for pattern in KEPT for path in run.glob(pattern)):
            (target / path.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / path.relative_to(run))
        status = read_json(run / "status.json") or {}
        write_json(target / "status.json", {key: status[key] for key in ("state", "stage", "step", "total_steps")})
    return code


if __name__ == "__main__":
    sys.exit(store())
