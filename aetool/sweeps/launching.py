"""Runs the points of a sweep through one of Hydra's launchers: joblib, submitit (Slurm), ray, …"""

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from aetool.config.compose import Point
from aetool.config.schema import FinetuneConfig, TrainConfig
from aetool.config.tree import config_tree
from aetool.errors import Interrupted
from aetool.files import make_folder, writing
from aetool.storage.run import WAITS
from aetool.sweeps.outcome import Outcome, last_words
from aetool.sweeps.processes import without_working_folder
from aetool.training.hardware import available_threads

QUIET = ["hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]  # runs keep their own


def launched(
    points: Sequence[Point[TrainConfig] | Point[FinetuneConfig]], logs: Sequence[Path]
) -> Generator[tuple[int, Outcome], None, None]:
    """How each point ended, with its index, once the launcher has run them all.

    Every job is a separate `aetool` process that prints to its log, so that a crash does not affect the launcher; the
    logs are in one folder. Raises Interrupted if Ctrl-C ended the launcher.
    """
    first = points[0]
    common = [word for word in first.words if word not in first.overrides]
    folder = logs[0].parent
    sweep_dir = folder.parent.parent / ".hydra" / folder.parent.name
    with config_tree(first.config_dir) as loader:
        words = [*common, *QUIET, f"hydra.sweep.dir='{sweep_dir}'"]
        master = loader.load_configuration(first.command_name, words, run_mode=RunMode.MULTIRUN)
        context = HydraContext(config_loader=loader, callbacks=Callbacks())
        task = functools.partial(run_one, first.command_name, first.config_dir, [log.resolve() for log in logs])
        launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=master)
        threads = [] if first.config.threads else _threads(master, len(points))
        jobs = [[*(word for word in point.words if not word.startswith("hydra")), *threads] for point in points]
        make_folder(folder)
        try:
            with without_working_folder():
                returned = launcher.launch(jobs, 0)
        except KeyboardInterrupt:
            raise Interrupted(signal.SIGINT) from None
    for index, job in enumerate(returned):
        yield index, _outcome(job, logs[index])


def run_one(command: str, config_dir: str | Path | None, logs: Sequence[Path], config: DictConfig) -> int:
    """In a job of the launcher: runs one point in a separate process and returns its exit code."""
    hydra = HydraConfig.get()
    options = [] if config_dir is None else ["--config-dir", str(config_dir)]
    words = [sys.executable, "-P", "-m", "aetool", command, *options, *hydra.overrides.task]
    log = logs[hydra.job.num]
    with writing(log), log.open("w", encoding="utf-8") as stream:
        found = subprocess.run(
            words, env=os.environ | {WAITS: "1"}, stdout=stream, stderr=subprocess.STDOUT, check=False
        )
    return found.returncode


def _outcome(job: JobReturn, path: Path) -> Outcome:
    try:
        code = job.return_value
    except Exception as error:
        return Outcome.of_error(error)
    return Outcome.of_process(code, last_words(path))


def _threads(master: DictConfig, points: int) -> list[str]:
    """The cores for each job of a launcher that runs several on one machine."""
    at_once = OmegaConf.select(master, "hydra.launcher.n_jobs")  # joblib
    if at_once:
        cores = available_threads()
        return [f"threads={max(1, cores // min(points, at_once if at_once > 0 else cores))}"]
    cpus = OmegaConf.select(master, "hydra.launcher.cpus_per_task")  # submitit
    return [f"threads={cpus}"] if cpus else []
