"""aetool: an experiment bench for autoencoders."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aetool.evaluation.inference import TrainedRun

__all__ = ["load", "runs"]


def load(directory: str | Path, device: str = "auto", config_dir: str | Path | None = None) -> "TrainedRun":
    """The trained network of a run folder, in eval mode, with its preprocessing; see aetool.evaluation.inference."""
    from aetool.evaluation import inference as api

    return api.load(directory, device, config_dir)


def runs(directory: str | Path = "outputs") -> list[dict[str, Any]]:
    """One flat row for every run in a folder: name, state, config keys, metrics as `stage/metric`; ready for pandas."""
    from aetool.report.rows import FOREIGN, MISSING, read_rows

    return [row for row in read_rows([Path(directory)]) if row["state"] not in (FOREIGN, MISSING)]
