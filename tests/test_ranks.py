"""Several processes that train one network, started by torchrun."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, dataset_of, only_run

from aetool.config.compose import compose_one
from aetool.config.schema import TrainConfig
from aetool.errors import UserError
from aetool.evaluation import evaluate, probe
from aetool.training import pretrain
from aetool.training.pretrain import check_batch_size
from aetool.training.ranks import Ranks

MORTAL = """
import os, signal
from aetool.models.sparse import Sparse

class Mortal(Sparse):
    '''The process of rank 1 is killed, once, in its fifth step: one forward pass sets the initial scale.'''
    steps = 0

    def forward(self, x, generator=None):
        if self.training and os.environ.get("RANK") == "1" and not os.path.exists("killed"):
            self.steps += 1
            if self.steps == 6:
                open("killed", "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x, generator)
"""
OPTION = """
defaults:
  - sparse
  - _self_
model:
  _target_: mortal.Mortal
"""


def torchrun(*words: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """`torchrun -m aetool train WORDS…`"""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    words = (*command, "-m", "aetool", "train", *words)
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def same(first: Path, second: Path) -> bool:
    """Whether the records have the same steps, and the same numbers but for rounding."""
    pairs = list(zip(rows(first), rows(second), strict=True))
    for one, other in pairs:
        assert one.keys() == other.keys()
        assert (one["step"], one["epoch"]) == (other["step"], other["epoch"])
        for key in one.keys() - {"stage", "seconds"}:
            assert one[key] == pytest.approx(other[key], rel=1e-4, abs=1e-6), key
    return bool(pairs)


@pytest.fixture
def words(workplace: Path) -> list[str]:
    """Of a model that rank 1 does not survive at first; lambda follows from the codes of the whole batch."""
    (workplace / "own" / "model").mkdir(parents=True)
    (workplace / "own" / "mortal.py").write_text(MORTAL)
    (workplace / "own" / "model" / "mortal.yaml").write_text("# @package _global_" + OPTION)
    return ["--config-dir", "own", *TINY[:2], "model=mortal", "model.code_size=32", *TINY[5:]]


def test_two_processes_train_the_network_of_one_and_go_on_where_one_was_killed(words, workplace, aetool):
    words = [*words, "penalty.target_l0=8", "trainer.precision=fp32"]
    assert aetool("train", *words, "output=alone").code == 0
    alone = next(path.parent for path in (workplace / "alone").glob("*/config.json"))

    killed = torchrun(*words)
    assert killed.returncode != 0
    assert "aetool: interrupted; the same command resumes from here" in killed.stderr
    run = only_run(workplace)
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["step"]) == ("interrupted", 4)
    shutil.copytree(workplace / "outputs", workplace / "copy")

    assert torchrun(*words).returncode == 0
    assert json.loads((run / "status.json").read_text())["state"] == "completed"
    assert same(alone, run)
    assert aetool("train", *words, "output=copy").code == 0  # in one process
    assert same(alone, workplace / "copy" / run.name)


def test_a_batch_that_cannot_be_shared_is_refused(workplace):
    config = compose_one("train", TrainConfig, [*TINY, "trainer.batch_size=15"]).config
    with pytest.raises(UserError, match=r"trainer\.batch_size=15: not a multiple of the 2 processes"):
        check_batch_size(config.trainer, dataset_of(config), Ranks(0, 2))
    captured = config.trainer.model_copy(update={"batch_size": 16, "cuda_graph": True})
    with pytest.raises(UserError, match=r"trainer\.cuda_graph=true: a step of several processes cannot be captured"):
        check_batch_size(captured, dataset_of(config), Ranks(0, 2))


@pytest.fixture(params=["0", "1"])
def rank(request, monkeypatch):
    """This process is one of two that torchrun has started."""
    size = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (size | {"RANK": request.param, "LOCAL_RANK": request.param}).items():
        monkeypatch.setenv(name, value)
    return int(request.param)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "-m", *TINY, "seed=0,1"], "-m: torchrun has several processes train one run; leave out one of them"),
        (
            ["train", *TINY, "device=cuda:0"],
            "device=cuda:0: torchrun gives every process a device of its own; set device=cuda",
        ),
        (
            ["probe", "run=outputs/none"],
            "aetool probe: torchrun starts several processes for aetool train alone; leave it out",
        ),
        (["status"], "aetool status: torchrun starts several processes for aetool train alone; leave it out"),
        (["train", *TINY, "trainer.epoch=3"], "trainer.epoch: unknown key"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_by_one_of_them(words, said, rank, workplace, aetool):
    done = aetool(*words)
    assert done.code == (2 if rank == 0 else 0)  # torchrun ends the others as soon as one fails
    assert said in done.err if rank == 0 else not done.err
    assert not done.out
    assert not (workplace / "outputs").exists()


def test_the_first_process_measures_with_the_threads_of_all(workplace, aetool, monkeypatch):
    """The others have ended by then; here they never were."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "1")
    found = {}

    def note(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args: found.update({name: torch.get_num_threads()}) or function(*args)
        )

    note(pretrain, "fit")
    note(evaluate, "evaluate")
    note(probe, "probe")
    words = [word for word in TINY if word != "threads=1"]
    code = aetool("train", *words, "threads=4").code
    torch.set_num_threads(1)
    assert code == 0
    assert found == {"fit": 2, "evaluate": 4, "probe": 4}


def test_every_process_takes_its_share_of_a_batch():
    order = torch.tensor([5, 3, 1, 7, 0, 2, 6, 4])
    shares = [Ranks(rank, 2).share(order, 4) for rank in range(2)]
    assert [share.tolist() for share in shares] == [[5, 1, 0, 6], [3, 7, 2, 4]]
    assert torch.stack(shares, 1).flatten().tolist() == order.tolist()
    assert Ranks().share(order, 4).tolist() == order.tolist()


def test_a_process_alone_changes_nothing():
    alone, tensor = Ranks(), torch.arange(3.0)
    alone.average_([tensor])
    assert tensor.tolist() == [0, 1, 2]
    assert alone.broadcast("word") == "word"
    assert alone.is_first
