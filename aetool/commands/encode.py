"""aetool encode run=DIR"""

from collections.abc import Sequence
from pathlib import Path

from aetool.config.compose import Point
from aetool.config.schema import EncodeConfig
from aetool.config.tree import known_targets
from aetool.errors import UserError
from aetool.evaluation.encode import are_written, path_of, write_codes
from aetool.evaluation.session import Session
from aetool.files import check_writable, refuse_file
from aetool.storage.opening import opened


def run(points: Sequence[Point[EncodeConfig]]) -> int:
    """Writes the codes of every run; files inside the run folder are written only once."""
    for point in points:
        check(point.config, len(points))
    targets = known_targets(points[0].config_dir)
    for point in points:
        with opened(point.config.run, targets) as found:
            path = path_of(found, point.config, point.config.step)
            if point.config.file:
                check_writable(path.parent)
            if point.config.file or not are_written(found, path):
                path, arrays = write_codes(Session(found, point.config, point.config.step), point.config)
                for name, array in arrays.items():
                    print(f"  {name:<14} {'×'.join(map(str, array.shape))} {array.dtype}")
        print(path)
    return 0


def check(config: EncodeConfig, runs: int) -> None:
    """Raises UserError for invalid splits, or a file that cannot be written."""
    if not config.splits or len(set(config.splits)) < len(config.splits):
        raise UserError(f"splits=[{','.join(config.splits)}]: name one or more of train, val, test, each once")
    if config.file and not config.file.endswith(".npz"):
        raise UserError(f"file={config.file}: expected a name that ends in .npz")
    if config.file and runs > 1:
        raise UserError(f"file={config.file}: several runs cannot be written to one file; leave it out")
    if config.file:
        refuse_file("file=", Path(config.file))
