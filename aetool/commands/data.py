"""aetool data list|fetch|check"""

from pathlib import Path

from rich import box
from rich.table import Table

from aetool.config import help
from aetool.config.compose import Point, compose_one
from aetool.config.schema import TrainConfig
from aetool.config.tree import option_names
from aetool.console import PlainConsole
from aetool.errors import ConfigError, UserError, suggest

Points = dict[str, Point[TrainConfig]]


def run(words: list[str]) -> int:
    """Lists available datasets, prepares datasets, or re-hashes prepared ones."""
    parser = help.parser("data", "List, fetch or verify the datasets.")
    parser.add_argument("action", choices=["list", "fetch", "check"])
    parser.add_argument("names", nargs="*", metavar="NAME", help="dataset names [all that need no path]")
    parser.add_argument("-cd", "--config-dir", type=Path, help="also look for configs in DIR", metavar="DIR")
    options = parser.parse_intermixed_args(words)
    names = [word for word in options.names if "=" not in word]
    overrides = [word for word in options.names if "=" in word]
    known = option_names("dataset", options.config_dir)
    for name in names:
        if name not in known:
            raise UserError(f"{name}: no such dataset; {suggest(name, known)}")
    points: Points = {}
    for name in names or known:
        try:
            words = [f"dataset={name}", *overrides]
            points[name] = compose_one("train", TrainConfig, words, options.config_dir)
        except ConfigError as error:
            if names or not any(problem.endswith("=…") for problem in error.problems):
                raise  # without names, datasets that need a path are skipped
    if options.action == "check":
        return _check(points, named=bool(names))
    return _list(points) if options.action == "list" else _fetch(points)


def _list(points: Points) -> int:
    from aetool.data import catalog

    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
    for column in ("dataset", "here", "train", "test", "image", "MB", "source"):
        drawn.add_column(column, overflow="fold")
    for name, point in points.items():
        found = catalog.status(name, _cache(point))
        shapes = found.shapes
        train, test = (str(shapes[key][0]) if key in shapes else "" for key in ("train_images", "test_images"))
        shape = point.config.dataset.image_shape
        size = f"{found.bytes / 1e6:.1f}" if found.prepared else ""
        image = "×".join(map(str, shape)) if shape else ""
        here = "damaged" if found.problem else "yes" if found.prepared else "no"
        drawn.add_row(name, here, train, test, image, size, found.source)
    PlainConsole().print(drawn)
    print(f"cache: {_cache(next(iter(points.values())))}; get one with: aetool data fetch NAME")
    return 0


def _fetch(points: Points) -> int:
    from aetool.errors import deferred_signals, poll_signals
    from aetool.training.assembly import load_dataset

    with deferred_signals():
        for name, point in points.items():
            dataset = load_dataset(point.config.dataset, _cache(point))
            sizes = ", ".join(f"{len(getattr(dataset, part).images)} {part}" for part in ("train", "val", "test"))
            print(f"{name}: {sizes} images {dataset.image_shape}, from {dataset.source}")
            poll_signals()
    return 0


def _check(points: Points, named: bool) -> int:
    from aetool.data import catalog

    damaged = 0
    for name, point in points.items():
        if not named and not catalog.status(name, _cache(point)).prepared:
            continue
        problems = catalog.check(name, _cache(point))
        damaged += bool(problems)
        print("\n".join(problems) if problems else f"{name}: intact")
    return 2 if damaged else 0


def _cache(point: Point[TrainConfig]) -> Path:
    from aetool.training.assembly import cache_dir

    return cache_dir(point.config)
