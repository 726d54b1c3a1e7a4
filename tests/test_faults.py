"""Fault points: what AETOOL_FAULT asks for, and nothing without it."""

import errno
import os
import signal
import subprocess
import sys
from collections import Counter

import pytest

from aetool import faults
from aetool.errors import UserError


@pytest.fixture(autouse=True)
def fresh_counts(monkeypatch):
    monkeypatch.setattr(faults, "_reached", Counter())


def test_nothing_happens_without_the_variable(monkeypatch):
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    for name in faults.POINTS:
        faults.point(name)
    assert not faults._reached


def test_a_full_disk_stays_full(monkeypatch):
    monkeypatch.setenv(faults.VARIABLE, "write:full:2")
    faults.point("write")
    faults.point("rename")
    for _ in range(2):
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            faults.point("write")


def test_a_failure_passes(monkeypatch):
    monkeypatch.setenv(faults.VARIABLE, "rename:fail,step:fail:3")
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        faults.point("rename")
    faults.point("rename")


def test_a_delay(monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(faults.time, "sleep", slept.append)
    monkeypatch.setenv(faults.VARIABLE, "step:delay:2")
    for _ in range(3):
        faults.point("step")
    assert slept == [1]


def test_kill():
    code = "from aetool.faults import point; point('step'); point('step'); print('alive', flush=True); point('step')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={faults.VARIABLE: "step:kill:3"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "alive\n")


@pytest.mark.parametrize("text", ["stop:kill", "step:explode", "step", "step:kill:often"])
def test_a_misspelling_is_said(monkeypatch, text):
    monkeypatch.setenv(faults.VARIABLE, text)
    with pytest.raises(UserError, match=r"AETOOL_FAULT=.*(did you mean step|choices|POINT:ACTION)"):
        faults.point("step")
