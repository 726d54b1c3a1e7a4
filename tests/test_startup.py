"""What a run imports: nothing heavy before its first step that training does not need."""

import subprocess
import sys

from aetool.config.compose import compose_points
from aetool.config.schema import TrainConfig
from aetool.data.dataset import Dataset
from aetool.data.digits import digits
from aetool.evaluation.session import DataSession
from aetool.sweeps.sweep import Work, each

HEAVY = {"torch._dynamo", "sklearn", "scipy.stats", "matplotlib"}
TRAINING = """
import sys
from aetool.cli import main
from aetool.training.trainer import Trainer

fit = Trainer.fit

def first(trainer):
    print("before:", *sorted(sys.modules))
    return fit(trainer)

Trainer.fit = first
code = main(sys.argv[1:])
print("after:", *sorted(sys.modules))
sys.exit(code)
"""
OPTIMIZERS = """
import sys
import torch
from aetool.system.dynamo import run_optimizers_eagerly

KINDS = {
    "Adam": {}, "AdamW": {"fused": True}, "SGD": {"momentum": 0.9}, "RMSprop": {}, "NAdam": {}, "Adagrad": {},
    "Adamax": {}, "Adadelta": {}, "ASGD": {}, "RAdam": {}, "Rprop": {}, "LBFGS": {},
}

def trained(kind, options):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1, **options)
    optimizer.load_state_dict(optimizer.state_dict())

    def loss():
        optimizer.zero_grad()
        found = (model(torch.ones(1, 3)) - 1).square().sum()
        found.backward()
        return found

    for _ in range(3):
        optimizer.step(loss)
    return model.weight.detach()

run_optimizers_eagerly()
run_optimizers_eagerly()  # a second time changes nothing
eager = {kind: trained(kind, options) for kind, options in KINDS.items()}
assert "torch._dynamo" not in sys.modules
double = torch.compile(lambda x: 2 * x, backend="eager")
assert double(torch.ones(2)).tolist() == [2, 2]
assert "torch._dynamo" in sys.modules
for kind, options in KINDS.items():
    assert torch.equal(eager[kind], trained(kind, options)), kind
"""


def test_training_imports_nothing_heavy(workplace):
    digits(workplace / "cache" / "datasets")
    words = ["train", "model.code_size=16", "trainer.epochs=1", "probe.l2=[0.1]", "threads=1"]
    called = [sys.executable, "-c", TRAINING, *words]
    done = subprocess.run(called, capture_output=True, text=True, cwd=workplace, check=False)
    assert done.returncode == 0, done.stderr
    before, after = (set(line.split()) for line in done.stdout.splitlines() if line.startswith(("before:", "after:")))
    assert not before & (HEAVY | {"tensorboard"})
    assert not after & HEAVY


def test_the_points_of_a_sweep_share_one_dataset(workplace):
    words = ["dataset=arrays", "dataset.path=images.npz", "seed=0,1", "dataset.val_fraction=0.1,0.2", "jobs=1"]
    points = compose_points("train", TrainConfig, words, multirun=True)
    found: list[Dataset] = []

    def work(index: int) -> None:
        config = points[index].config
        found.append(DataSession(config, config).dataset)

    ended = each(points, Work(work, work), workplace)
    assert [(index, outcome.state) for index, outcome in ended] == [(i, "completed") for i in range(4)]
    work(0)
    assert [len(dataset.val.images) for dataset in found] == [7, 14, 7, 14, 7]
    assert found[-1] is not found[0]
    others = Work(lambda index: work(2 * index), work)
    assert [outcome.error for _, outcome in each([points[0], points[2]], others, workplace)] == [None, None]
    assert found[-1] is found[-2]


def test_optimizers_run_without_the_compiler_as_they_do_with_it():
    done = subprocess.run([sys.executable, "-c", OPTIMIZERS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
