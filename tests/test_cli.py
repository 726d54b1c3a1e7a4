"""The command line: help, mistakes, completion."""

import logging
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from aetool import commands
from aetool.cli import COMMANDS, COMPOSED
from aetool.config.completion import candidates
from aetool.data.digits import digits

WITHOUT_TORCH = """
import sys
from aetool.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "torchvision", "matplotlib", "sklearn", "tensorboard"} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["train", "--help"], 0),
        (["probe", "--help"], 0),
        (["train", "--cfg", "job"], 0),
        (["train", "model=sparce"], 2),
        (["train", "optimizer.lrr=1", "+trainer.epoch=3", "optimizer.lr=0"], 2),
        (["data", "fetch", "mnits"], 2),
        (["compare"], 2),
    ],
)
def test_answers_without_torch(workplace, words, code):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True, cwd=workplace, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "modle=sparse"], ["modle: unknown key", "did you mean model?"]),
        (["train", "model=sparce"], ["model=sparce: no such option", "did you mean sparse?"]),
        (["train", "model=zzzz"], ["choices: attention, batch_topk"]),
        (["train", "optimizer.lrr=1"], ["optimizer.lrr: unknown key", "did you mean optimizer.lr?"]),
        (["train", "+trainer.epoch=3"], ["trainer.epoch: unknown key", "did you mean trainer.epochs?"]),
        (["train", "++model.code=3"], ["model.code: unknown key", "did you mean model.code_size?"]),
        (["train", "trainer.batch_size=-1"], ["trainer.batch_size=-1: expected an integer ≥ 1"]),
        (["train", "trainer.batch_size=2000"], ["trainer.batch_size=2000: digits has"]),
        (["train", "penalty.weight=nan"], ["penalty.weight=nan: expected a finite number ≥ 0"]),
        (["train", "penalty.weight=inf"], ["penalty.weight=inf: expected a finite number"]),
        (["train", "penalty.weight=abc"], ["penalty.weight=abc: expected a finite number"]),
        (["train", "model.code_size=0"], ["model.code_size=0: expected an integer ≥ 1"]),
        (["train", "jobs=0"], ["aetool: jobs=0: expected auto or an integer ≥ 1\n"]),
        (["train", "jobs=two"], ["aetool: jobs=two: expected auto or an integer ≥ 1\n"]),
        (["train", "optimizer.lr=0"], ["optimizer.lr=0: expected a finite number > 0"]),
        (["train", "trainer.precision=fp16"], ["trainer.precision=fp16", "fp32"]),
        (["train", "dataset=arrays"], ["dataset.path: missing; set dataset.path="]),
        (["train", "penalty.weight=1e-3,1e-2"], ["several values; add -m"]),
        (
            ["train", "loss=bce", "dataset.standardize=true"],
            ["dataset.standardize=true", "set dataset.standardize=false"],
        ),
        (["train", "model._target_=aetool.models.dense.Dens"], ["aetool.models.dense.Dens"]),
        (["train", "seed=${nowhere}"], ["seed", "nowhere"]),
        (["train", "output=${oc.env:NOT_SET_ANYWHERE}"], ["NOT_SET_ANYWHERE"]),
        (["train", "seed=${name}", "name=${seed}"], ["seed"]),
        (["train", "model=dense", "penalty.weight=0.1"], ["penalty.weight=0.1: there is no penalty", "add penalty=l1"]),
        (["train", "loss=[mse,bce]"], ["loss=[mse,bce]: choose one of"]),
        (["train", "penalty=[l1,none]"], ["penalty=[l1,none]: choose one of"]),
        (["train", "model=null"], ["model=null: choose one of"]),
        (["train", "-m", "seed=range(0,0)"], ["no values to sweep over"]),
        (["train", "-m", "penalty.weight=1e-3,range(1,3)"], ["no values to sweep over; list them: key=a,b,c"]),
        (["train", "-m", "name=x", "seed=0,1"], ["name=x: the points of a sweep need folders of their own"]),
        (["train", "-m", "stack=false,true"], ["stack: it says how a whole sweep is run; give one value"]),
        (["train", "-m", "overwrite=true", "probe=ridge,knn"], ["overwrite=true: several points are the same run"]),
        (["train", "foo"], ["foo: expected key=value"]),
        (["train", "--fast"], ["--fast: unknown option"]),
        (["train", "-m", "model=sparse,sparce"], ["model=sparce: no such option"]),
        (["train", "-m", "penalty.weight=1e-3,-1"], ["penalty.weight=-1: expected"]),
        (["train", "--cfg", "job", "modle=x"], ["modle: unknown key"]),
        (["train", "-m", "--cfg", "job", "seed=0,1"], ["--cfg shows the config of one run"]),
        (["train", "--config-dir", "nowhere"], ["nowhere: there is no such folder"]),
        (["trian"], ["trian: unknown command", "did you mean train?"]),
        (["probe"], ["run: missing; set run="]),
        (["probe", "run=nowhere"], ["run=nowhere: not a run folder"]),
        (["compare", "nowhere"], ["nowhere: there is no such folder"]),
        (["results", "nowhere"], ["nowhere: there is no such folder"]),
        (["train", "device=cuda:77"], ["device=cuda:77: not available here"]),
        (["train", "optimizer.betas=[0.9,1.5]"], ["optimizer.betas[1]=1.5: expected a finite number ≥ 0 and < 1"]),
        (["train", "dataset=arrays", "dataset.path=nowhere.npz"], ["nowhere.npz"]),
    ],
)
def test_mistakes_end_in_one_short_message(workplace, aetool, words, said):
    digits(workplace / "cache" / "datasets")
    before = set(workplace.rglob("*"))
    done = aetool(*words)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) <= 3, done.err
    for part in said:
        assert part in done.err
    left = {path for path in workplace.rglob("*") if path.is_dir()} - before
    assert not [path for path in left if path.name != "outputs"]


def test_a_run_without_its_data_is_not_announced(workplace, aetool):
    done = aetool("train", "dataset=folder", "dataset.path=nowhere")
    assert done.code == 2
    assert "nowhere" in done.err
    assert not done.out


def test_all_problems_come_in_one_message(workplace, aetool):
    done = aetool("train", "modle=x", "optimizer.lrr=1", "model=sparce", "trainer.batch_size=-1", "penalty.weight=nan")
    assert done.code == 2
    for key in ("modle", "optimizer.lrr", "model=sparce", "trainer.batch_size=-1", "penalty.weight=nan"):
        assert key in done.err


def test_a_bad_option_of_a_command_is_exit_2(workplace, aetool):
    with pytest.raises(SystemExit) as stop:
        aetool("data", "sell")
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("aetool tr", ["train"]),
        ("aetool train mod", ["model.", "model="]),
        ("aetool train model=sp", ["model=sparse"]),
        ("aetool train optimizer.l", ["optimizer.lr="]),
        ("aetool train supervised=", ["supervised=false"]),
        ("aetool train -m model=dense trainer.ep", ["trainer.epochs="]),
        ("aetool train model=vae penalty.terms.", ["penalty.terms.kl."]),
        ("aetool train -q model=sparse --full penalty.w", ["penalty.warmup=", "penalty.weight="]),
        ("aetool evaluate mo", []),  # a group that it does not take
        ("aetool train model=nothing trainer.ep", []),
        ("aetool train --q", ["--quiet"]),
        ("aetool train --cfg ", ["job"]),
        ("aetool data f", ["fetch"]),
        ("aetool data fetch fash", ["fashion_mnist"]),
        ("aetool data fetch --c", ["--config-dir"]),
        ("aetool list pen", ["penalties"]),
        ("aetool list --c", ["--config-dir"]),
        ("aetool compare --mar", ["--markdown"]),
    ],
)
def test_completion(line, expected):
    assert candidates(line, COMMANDS, COMPOSED) == expected


@pytest.mark.parametrize("command", ["train", "probe"])
def test_completion_of_the_options_of_a_composed_command(command):
    flags = {"-m", "--full", "-v", "-q", "--config-dir", "--help", "--cfg"}
    assert flags <= set(candidates(f"aetool {command} -", COMMANDS, COMPOSED))


@pytest.mark.parametrize("command", ["compare", "data", "list", "results"])
def test_completion_knows_every_option_of_a_plain_command(command):
    source = Path(commands.__file__).with_name(f"{command}.py").read_text()
    known = {*re.findall(r'add_argument\(\s*(?:"-\w+", )?"(--[a-z-]+)"', source), "--verbose", "--quiet", "--help"}
    assert set(candidates(f"aetool {command} --", COMMANDS, COMPOSED)) == known


def test_completion_of_run_folders(workplace):
    for folder in ("outputs/sparse-1", "outputs/sparse-2", "mine/dense-1"):
        (workplace / folder).mkdir(parents=True)
        (workplace / folder / "config.json").write_text("{}")
    (workplace / "outputs" / "sweep-1").mkdir()

    def found(line: str) -> list[str]:
        return candidates(line, COMMANDS, COMPOSED)

    assert {"run=outputs/sparse-1", "run=outputs/sparse-2", "run=mine/"} <= set(found("aetool probe run="))
    assert found("aetool evaluate run=outputs/sp") == ["run=outputs/sparse-1", "run=outputs/sparse-2"]
    assert found("aetool finetune run=m") == ["run=mine/"]
    assert found("aetool finetune run=mine/") == ["run=mine/dense-1"]
    assert found("aetool probe run=nowhere/") == []
    assert found("aetool compare outputs/s") == ["outputs/sparse-1", "outputs/sparse-2", "outputs/sweep-1/"]


def test_completion_of_the_users_own_options(workplace):
    (workplace / "mine" / "loss").mkdir(parents=True)
    (workplace / "mine" / "loss" / "mine.yaml").write_text("_target_: aetool.losses.MSE\nown_key: 1  # of mine\n")
    assert candidates("aetool train --config-dir mi", COMMANDS, COMPOSED) == ["mine"]
    assert candidates("aetool train --config-dir mine loss=mi", COMMANDS, COMPOSED) == ["loss=mine"]
    line = "aetool train --config-dir mine loss=mine loss.o"
    assert candidates(line, COMMANDS, COMPOSED) == ["loss.own_key="]
    assert candidates("aetool train loss=mi", COMMANDS, COMPOSED) == []
    assert candidates("aetool train --config-dir nowhere loss=mi", COMMANDS, COMPOSED) == []


def test_completion_imports_neither_torch_nor_pydantic(workplace):
    code = """
import sys
from aetool.cli import COMMANDS, COMPOSED
from aetool.config.completion import candidates
assert candidates("aetool train model=sp", COMMANDS, COMPOSED) == ["model=sparse"]
assert not {"torch", "pydantic"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=workplace, check=True)


@pytest.mark.parametrize(
    ("words", "level"), [(["evaluate"], "INFO"), (["evaluate", "-q"], "WARNING"), (["--verbose", "evaluate"], "DEBUG")]
)
def test_verbosity_stands_anywhere_and_changes_the_screen_alone(workplace, aetool, monkeypatch, words, level):
    log = logging.getLogger("aetool.test")
    levels = ["DEBUG", "INFO", "WARNING"]
    reached = []

    def run(points: object) -> int:
        reached.append(logging.getLogger("aetool").level)
        for name in levels:
            log.log(getattr(logging, name), f"said {name}")
        return 0

    monkeypatch.setitem(sys.modules, "aetool.commands.evaluate", SimpleNamespace(run=run))
    done = aetool(*words, "run=anything")
    assert done.code == 0
    assert [name for name in levels if f"said {name}" in done.out + done.err] == levels[levels.index(level) :]
    assert reached[0] <= logging.INFO  # for the log file of a run


def test_completion_script_queries_us(aetool):
    assert "aetool -sc query=bash" in aetool("-sc", "install=bash").out


@pytest.mark.parametrize(
    ("error", "code"),
    [(MemoryError("big"), 4), (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 4)],
)
def test_out_of_memory_is_exit_4(workplace, aetool, monkeypatch, error, code):
    def fail(*words: object) -> None:
        raise error

    monkeypatch.setattr("aetool.commands.train.run", fail)
    done = aetool("train")
    assert done.code == code
    assert "lower trainer.batch_size" in done.err


def test_a_bug_keeps_its_traceback(workplace, aetool, monkeypatch):
    def fail(*words: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("aetool.commands.train.run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        aetool("train")
