"""Baselines in the cache, which are kept with their SHA-256."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from aetool.evaluation.baselines import Baselines
from aetool.evaluation.correctness import Classified

METRICS = {"test/accuracy": 0.5, "val/accuracy": 0.25}


@pytest.fixture
def baselines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Baselines:
    found = Baselines(None, tmp_path)  # type: ignore[arg-type]
    monkeypatch.setattr(found, "_path", lambda key: tmp_path / "kept.json")
    return found


def kept(baselines: Baselines, accuracy: float) -> Classified:
    fresh = Classified(METRICS | {"test/accuracy": accuracy}, np.array([True, False]))
    return baselines._kept_classified({}, lambda: fresh)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("kept.json", lambda content: content.replace(b"0.5", b"0.7")),
        ("kept.json", lambda content: content[:-9]),
        ("kept.json", lambda content: content.replace(b"0.25", b'"high"')),
        ("kept.npz", lambda content: content[:-1] + b"x"),
        ("kept.npz", lambda content: b""),
    ],
)
def test_an_altered_baseline_is_measured_again(tmp_path: Path, baselines: Baselines, file, damage, caplog) -> None:
    assert kept(baselines, 0.5).metrics == kept(baselines, 0.9).metrics == METRICS
    (tmp_path / file).write_bytes(damage((tmp_path / file).read_bytes()))
    assert kept(baselines, 0.9).metrics["test/accuracy"] == 0.9
    assert len(re.findall(r"(damaged|has changed).*; measured again", caplog.text)) == 1
    assert kept(baselines, 0.1).metrics["test/accuracy"] == 0.9


def test_baselines_of_an_earlier_version_are_read(tmp_path: Path, baselines: Baselines) -> None:
    kept(baselines, 0.5)
    (tmp_path / "kept.json").write_text(json.dumps(METRICS))
    assert kept(baselines, 0.9).metrics == METRICS
