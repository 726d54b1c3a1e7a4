"""TensorBoard events of a run, as far as they can be written."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from aetool.errors import WriteError
from aetool.files import make_folder, replacing, write_text, writing

log = logging.getLogger("aetool")

PROJECTOR = "projector"  # folder of what TensorBoard's embedding projector shows
PROJECTOR_CONFIG = "projector_config.pbtxt"  # where TensorBoard looks for it
_TRAINING = {  # charts of the custom scalars tab: regular expressions of the tags on each
    "loss": ["loss/train$", "loss/val$"],
    "learning rate": ["train/lr.*"],
    "gradient norm": ["train/gradient_norm$"],
}
LAYOUTS = {  # the custom scalars tab, by stage
    "pretrain": {
        "loss": _TRAINING["loss"],
        "reconstruction": ["(train|val)/loss/.+"],
        "penalty": ["(train|val)/penalty/.+"],
        "lambda": ["train/lambda$"],
        "active units (L0)": ["val/l0$"],
        "dead fraction": ["(train|val)/dead_fraction$"],
        "learning rate": _TRAINING["learning rate"],
        "gradient norm": _TRAINING["gradient norm"],
    },
    "finetune": {**_TRAINING, "accuracy": ["train/accuracy$", "val/accuracy$"]},
}


class Events:
    """TensorBoard events in the folder of a run.

    With a `stage`, they are the results of that stage, in a file that replaces the one of an earlier measurement, so
    that nothing is shown twice. If TensorBoard cannot be written or imported, logs one warning, keeps it in `warnings`
    and continues. Also a context manager, which closes it.
    """

    def __init__(self, directory: Path, stage: str | None = None) -> None:
        self.directory = directory
        self.stage = stage
        self.warnings: list[str] = []
        self._file: Any = None  # an EventFile
        self._broken = False
        self._purge_step: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def scalars(self, step: int, values: Mapping[str, float], wall_time: float | None = None) -> None:
        """`wall_time` in seconds since the epoch; None: now."""
        self._show("scalars", step, values, wall_time)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """An image (H, W, 3) uint8."""
        self._show("image", step, name, image)

    def images(self, step: int, images: Mapping[str, np.ndarray | None]) -> None:
        """Images (H, W, 3) uint8 by name; None is skipped."""
        for name, image in images.items():
            if image is not None:
                self.image(name, image, step)

    def layout(self, stage: str) -> None:
        """The charts of a stage in the custom scalars tab."""
        if stage in LAYOUTS:
            self._show("lines", stage, LAYOUTS[stage])

    def margins(self, charts: Mapping[str, Sequence[str]]) -> None:
        """Charts of the custom scalars tab by title: each tag has a band from `<tag>/low` to `<tag>/high`."""
        self._show("margins", "mean ± std over seeds", charts)

    def hparams(self, hparams: Mapping[str, Any]) -> None:
        """Declares hyper-parameters in this folder; every scalar of the run is a metric beside them.

        Runs with the same ones are one row, with the means of their metrics. SummaryWriter.add_hparams would make a run
        folder of its own, and declare an "experiment": TensorBoard takes one run's for all, and shows no key or metric
        that this one run lacks. Without, it collects those of all runs.
        """
        self._show("hparams", hparams)

    def embedding(self, points: np.ndarray, sprites: np.ndarray, size: tuple[int, int], labels: Sequence[str]) -> None:
        """Points (N, D) for the embedding projector, in the place of those from before.

        `sprites` (H, W, 3) uint8: their thumbnails of `size` (width, height) row by row, as many in a row as in a
        column; `labels`: N words, or none.
        """
        from PIL import Image

        folder = self.directory / PROJECTOR
        files = {"tensor_path": "codes.tsv"} | ({"metadata_path": "labels.tsv"} if labels else {})
        lines = [f'{key}: "{PROJECTOR}/{name}"' for key, name in files.items()]
        width, height = size
        sprite = f'image_path: "{PROJECTOR}/sprites.png" single_image_dim: {width} single_image_dim: {height}'
        try:
            make_folder(folder, parents=False)
            with replacing(folder / "codes.tsv") as temporary:
                # Text, as TensorBoard reads a binary file as text first, and fails where that seems to succeed.
                np.savetxt(temporary, points, fmt="%.4g", delimiter="\t")
            with replacing(folder / "sprites.png") as temporary:
                Image.fromarray(sprites).quantize(256).save(temporary, "png")  # a third of the bytes
            words = [" ".join(label.split()) or "-" for label in labels]  # tabs and newlines would part them
            write_text(folder / "labels.tsv", "".join(f"{word}\n" for word in words))
            text = "\n".join(['embeddings {\ntensor_name: "code"', *lines, f"sprite {{ {sprite} }}", "}\n"])
            write_text(self.directory / PROJECTOR_CONFIG, text)
        except WriteError as error:
            self._warn(f"TensorBoard cannot write to {folder}: {error.reason}")

    def close(self) -> None:
        if self._file is not None:
            self._guarded(self._file.close)

    def _show(self, method: str, *arguments: Any) -> None:
        """Calls a method of EventFile, unless an earlier call failed."""
        if not self._broken:
            self._guarded(lambda: getattr(self._opened(), method)(*arguments))

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except WriteError as error:
            self._broken = True
            self._warn(f"TensorBoard cannot write to {self.directory}: {error.reason}")
        except Unimportable as error:
            self._broken = True
            self._warn(f"TensorBoard cannot be imported: {error}")

    def _opened(self) -> Any:
        if self._file is None:
            module = event_file()
            suffix = f".{self.stage}" if self.stage else ""
            if self.stage:
                self._remove(self._files())
            self._file = module.EventFile(self.directory, suffix, self._purge_step)
        return self._file

    def _files(self) -> list[Path]:
        """The event files of this stage; those of training end in a number."""
        ends = {path: path.suffix[1:] for path in sorted(self.directory.glob("events.out.tfevents.*"))}
        return [path for path, end in ends.items() if (end == self.stage if self.stage else end.isdigit())]

    def _remove(self, files: Sequence[Path]) -> None:
        with writing(self.directory):
            for path in files:
                path.unlink()

    def _warn(self, problem: str) -> None:
        self.warnings.append(f"{problem}; metrics.jsonl is still written")
        _log_once(self.warnings[-1])


def event_file() -> Any:
    """The module, which needs TensorBoard; raises Unimportable."""
    try:
        import aetool.storage.event_file as module
    except Exception as error:  # an installation can be broken in any way, such as by another version of protobuf
        raise Unimportable(f"{type(error).__name__}: {error}".partition("\n")[0]) from error
    return module


@functools.cache
def _log_once(warning: str) -> None:
    """Every stage of a run finds the same."""
    log.warning(warning)


class Unimportable(Exception):  # noqa: N818 - a finding
    """TensorBoard cannot be imported; the message says why."""
