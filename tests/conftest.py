"""What the tests share: a small labelled dataset, a tiny run of it, and the real command line in-process."""

import contextlib
import inspect
import pickle
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir
from PIL import Image
from sklearn.datasets import load_digits
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aetool.cli import main
from aetool.config.schema import RunConfig, TrainConfig
from aetool.config.tree import known_targets
from aetool.data.dataset import Dataset
from aetool.evaluation.background import Draw, Figure, Figures
from aetool.probes.base import Labelled, Probe, ProbeResult, judge
from aetool.storage.opening import open_run
from aetool.storage.run import Run
from aetool.training.assembly import cache_dir, load_dataset

set_hypothesis_home_dir(Path(tempfile.gettempdir(), "aetool-hypothesis"))  # not into the repository
settings.register_profile(
    "aetool",
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("aetool")
torch.set_num_threads(1)  # tiny tensors: a second thread only waits

DRAW = Figures.draw
TINY = [  # 64 training images of 8×8 in 4 steps an epoch, 3 epochs
    "dataset=arrays",
    "dataset.path=images.npz",
    "model=dense",
    "model.widths=[8]",
    "model.code_size=4",
    "trainer.epochs=3",
    "trainer.batch_size=16",
    "trainer.log_every=1",
    "trainer.checkpoint_every=2",
    "probe.l2=[0.1]",
    "baselines=false",
    "threads=1",
    "jobs=1",
    "evaluation.atlas_units=0",  # pictures take time
    "evaluation.projector_images=0",
]


class Features(NamedTuple):
    """Features of the three splits, each (N, D)."""

    train: torch.Tensor
    val: torch.Tensor
    test: torch.Tensor


class Labels(NamedTuple):
    """Their classes, each (N,) int64."""

    train: torch.Tensor
    val: torch.Tensor
    test: torch.Tensor


@pytest.fixture(scope="session")
def digits() -> tuple[Features, Labels]:
    """scikit-learn's handwritten digits: 1000, 300 and 497 images of 64 pixels in [0, 1], float32."""
    order = np.random.RandomState(0).permutation(1797)
    x, y = load_digits(return_X_y=True)
    sizes = [1000, 300, 497]
    features = torch.tensor(x[order] / 16, dtype=torch.float32).split(sizes)
    return Features(*features), Labels(*torch.tensor(y[order]).split(sizes))


def probed(
    probe: Probe, features: Features, labels: Labels, num_classes: int, poll: Callable[[], None] = lambda: None
) -> ProbeResult:
    """What a probe, which may work in place, finds on these features."""
    train, val, test = (Labelled(x.clone(), y) for x, y in zip(features, labels, strict=True))
    return judge(probe(train, val, num_classes, poll), test, num_classes)


class Said(NamedTuple):
    """What a command returned and printed."""

    code: int
    out: str
    err: str


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """In this folder, with a cache of its own; figures of runs are not drawn, which takes as long as the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("AETOOL_CACHE", str(folder / "cache"))
        patch.setattr(Figures, "draw", _undrawn)
        yield


def _undrawn(figures: Figures, function: Draw, path: Path, *arguments: object) -> Figure:
    """In the place of a figure's drawing: a dot, if it could be asked of the process that draws."""
    inspect.signature(function).bind(path, *arguments)
    pickle.dumps((function, arguments))
    done: Future[str | None] = Future()
    done.set_result(None)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (1, 1)).save(path)
    return Figure(path, done)


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Path]:
    """An empty working folder with images.npz: 4 classes of blurred blobs; see `working_in`."""
    with working_in(tmp_path):
        write_images(tmp_path / "images.npz")
        yield tmp_path


@pytest.fixture
def drawing(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the workplace, figures of runs are drawn."""
    monkeypatch.setattr(Figures, "draw", DRAW)


def write_images(path: Path, seed: int = 0) -> None:
    """72 training images (64 after the validation split) and 20 for test."""
    random = np.random.RandomState(seed)
    centres = np.array([[2, 2], [2, 5], [5, 2], [5, 5]])
    rows, columns = np.mgrid[:8, :8]

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 4
        at = centres[labels] + random.uniform(-1, 1, (count, 2))
        distance = (rows - at[:, :1, None]) ** 2 + (columns - at[:, 1:, None]) ** 2
        noise = random.uniform(0, 40, (count, 8, 8))
        return (215 * np.exp(-distance / 4) + noise).astype(np.uint8), labels

    train_images, train_labels = draw(72)
    test_images, test_labels = draw(20)
    np.savez(
        path, train_images=train_images, train_labels=train_labels, test_images=test_images, test_labels=test_labels
    )


@pytest.fixture
def aetool(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs `aetool WORDS…` in this process."""

    def call(*words: str) -> Said:
        capsys.readouterr()
        code = main(list(words))
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call


@pytest.fixture
def shown() -> Callable[[Path], dict[str, list[int]]]:
    """What TensorBoard shows of a run folder: the steps of every scalar and image."""

    def read(folder: Path) -> dict[str, list[int]]:
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()
        found = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        return found | {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}

    return read


def only_run(folder: Path) -> Path:
    """The one run folder in `folder`/outputs."""
    (found,) = [path.parent for path in (folder / "outputs").glob("*/config.json")]
    return found


def run_in(folder: str | Path) -> Run[TrainConfig]:
    """The run of a folder, with its config."""
    return open_run(folder, known_targets())


def dataset_of(config: RunConfig) -> Dataset:
    """The images that a run is trained on."""
    return load_dataset(config.dataset, cache_dir(config))
