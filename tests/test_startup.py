"""What a run imports: nothing heavy before its first step that training does not need."""

import subprocess
import sys

from aetool.data.digits import digits

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
from aetool.dynamo import run_optimizers_eagerly

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
    words = ["train", "trainer.epochs=1", "probe.l2=[0.1]", "threads=1"]
    called = [sys.executable, "-c", TRAINING, *words]
    done = subprocess.run(called, capture_output=True, text=True, cwd=workplace, check=False)
    assert done.returncode == 0, done.stderr
    before, after = (set(line.split()) for line in done.stdout.splitlines() if line.startswith(("before:", "after:")))
    assert not before & (HEAVY | {"tensorboard", "triton"})
    assert not after & HEAVY


def test_optimizers_run_without_the_compiler_as_they_do_with_it():
    done = subprocess.run([sys.executable, "-c", OPTIMIZERS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
