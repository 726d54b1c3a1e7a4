"""Figures in a process of their own: they are drawn, failures become warnings, and the process outlives nobody."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from conftest import TINY, only_run

from aetool.evaluation import background, figures
from aetool.evaluation.background import FigureProcess, Figures
from aetool.storage.folder import RunFolder

ERRORS = np.arange(100) / 100


class Warned(list):
    """In the place of a run."""

    def warn(self, warnings: list[str]) -> None:
        self.extend(warnings)


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[FigureProcess]:
    own = FigureProcess()
    monkeypatch.setattr(background, "figure_process", lambda: own)
    yield own
    own.close()


def test_a_figure_is_drawn_elsewhere_and_a_failure_is_a_warning(process, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Warned()
    with Figures(run) as drawn:
        good = drawn.draw(figures.save_error_histogram, Path("figures/good.png"), ERRORS, "a $title_")
        bad = drawn.draw(figures.save_error_histogram, Path("figures/bad.png"), None, "a title")
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")  # a relative path is meant as of the call
        assert bad.picture() is None
        assert good.picture().shape == (420, 720, 3)
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["good.png"]
    (warning,) = run
    assert warning.startswith("bad.png could not be drawn: ")


def test_the_next_figure_is_drawn_where_the_process_has_died(process, tmp_path):
    run = Warned()
    with Figures(run) as drawn:
        drawn.draw(figures.save_error_histogram, tmp_path / "0.png", ERRORS, "")
        drawn.wait()
        process._process.kill()
        for number in (1, 2):
            drawn.draw(figures.save_error_histogram, tmp_path / f"{number}.png", ERRORS, "")
    assert {path.name for path in tmp_path.iterdir()} == {"0.png", "2.png"}
    assert [warning.partition(" (")[0] for warning in run] == [
        "1.png could not be drawn: the process that draws has ended"
    ]


def test_a_process_that_cannot_start_is_a_warning(process, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    run = Warned()
    with Figures(run) as drawn:
        drawn.draw(figures.save_error_histogram, tmp_path / "0.png", ERRORS, "")
    assert "No such file" in run[0]


def test_actions_wait_for_the_end_of_the_outermost_block_whatever_ends_it():
    done: list[str] = []
    drawn = Figures(Warned())

    def stopped() -> None:
        with drawn:
            with drawn:
                drawn.afterwards(lambda: done.append("first"))
            drawn.afterwards(lambda: done.append("second"))
            assert done == []
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stopped()
    assert done == ["first", "second"]


def test_an_action_that_fails_keeps_no_other_from_running():
    done: list[str] = []

    def fail() -> None:
        raise RuntimeError

    def leave() -> None:
        with Figures(Warned()) as drawn:
            drawn.afterwards(fail)
            drawn.afterwards(lambda: done.append("second"))

    with pytest.raises(RuntimeError):
        leave()
    assert done == ["second"]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_process_ends_with_a_killed_command_and_ctrl_c_is_not_for_it(number, tmp_path):
    code = f"""
import numpy as np
from pathlib import Path
from aetool.evaluation import background, figures
drawn = background.Figures(None)
drawn.draw(figures.save_error_histogram, Path({str(tmp_path / "one.png")!r}), np.zeros(9), "").error.result()
print(background.figure_process()._process.pid, flush=True)
input()
"""
    started = [sys.executable, "-c", code]
    with subprocess.Popen(started, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as command:
        worker = psutil.Process(int(command.stdout.readline()))
        assert os.getsid(worker.pid) != os.getsid(command.pid)
        command.send_signal(number)
    worker.wait(timeout=20)


@pytest.mark.usefixtures("drawing")
def test_a_run_without_its_figures_is_completed_with_warnings(workplace, aetool, monkeypatch):
    failed: Future[str | None] = Future()
    failed.set_result("ValueError: no ink")
    monkeypatch.setattr(background, "figure_process", lambda: SimpleNamespace(submit=lambda *call: failed))
    assert aetool("train", *TINY, "evaluation.atlas_units=2").code == 0
    run = RunFolder(only_run(workplace))
    assert run.status["state"] == "completed"
    assert "loss.png could not be drawn: ValueError: no ink" in run.warnings
    assert "confusion-code.png could not be drawn: ValueError: no ink" in run.warnings
    assert run.metrics.keys() == {"pretrain", "evaluate", "probe-linear"}


@pytest.mark.usefixtures("drawing")
def test_what_was_stopped_before_its_figures_were_drawn_is_measured_again(workplace, aetool, monkeypatch):
    def stopped(figures: Figures) -> None:
        raise RuntimeError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(Figures, "wait", stopped)
        with pytest.raises(RuntimeError, match="stopped"):
            aetool("train", *TINY)
    run = only_run(workplace)
    assert not list(run.glob("*/settings.json"))
    trained = json.loads((run / "metrics.json").read_text())["pretrain"]
    (run / "figures" / "loss.png").unlink(missing_ok=True)
    assert aetool("train", *TINY).code == 0
    assert json.loads((run / "metrics.json").read_text())["pretrain"] == trained
    assert RunFolder(run).status["state"] == "completed"
    drawn = {"atoms", "loss", "reconstructions", "singular_values"}
    assert {path.stem for path in run.glob("figures/*.png")} == drawn
    assert len(list(run.glob("*/settings.json"))) == 2
