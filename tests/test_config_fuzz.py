"""Generated configs and override lists: they compose, or they are refused with a message that names a key."""

import contextlib
import io
import json
import re
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Said, dataset_of, working_in, write_images
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from strategies import LEAVES, SMALL, TREE, annotations, anything, choices, mutated, valid, wrong

from aetool.cli import main
from aetool.commands import train
from aetool.config.bounds import shortened
from aetool.config.check import Targets
from aetool.config.compose import compose_one
from aetool.config.schema import TrainConfig
from aetool.config.tree import known_targets
from aetool.errors import NonFiniteError, UserError
from aetool.storage.opening import open_run
from aetool.storage.run import Run
from aetool.training.pretrain import make_trainer


class Composed(Exception):  # noqa: N818 - where the work would begin
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder for all examples, which leave nothing in it, where commands stop before the work."""

    def stop(*arguments: object, **others: object) -> None:
        raise Composed

    path = tmp_path_factory.mktemp("fuzz")
    with working_in(path), pytest.MonkeyPatch.context() as patch:
        write_images(path / "images.npz")
        patch.setattr(train, "_train", stop)
        patch.setattr(train, "sweep", stop)
        yield path


def said(*words: str) -> Said:
    """What `aetool WORDS…` says, soon; code 0 if it composes."""
    out, err, start = io.StringIO(), io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(words))
        except Composed:
            code = 0
    assert time.process_time() - start < 10
    return Said(code, out.getvalue(), err.getvalue())


def assert_it_composes_or_says_why(words: list[str], folder: Path) -> None:
    before = sorted(folder.iterdir())
    done = said("train", *words, *SMALL[:2])
    event(f"code {done.code}")
    assert done.code in (0, 2)
    if done.code:
        names = [re.split(r"[=.@/]", word.lstrip("+~"))[0].strip(" ") for word in words]
        assert done.err.startswith("aetool:")
        assert len(done.err) < 5000
        keys = [name for name in [*names, *words] if name] + ["expected key=value", "not UTF-8", "unknown option"]
        assert any(shortened(key) in done.err for key in keys), done.err
    assert sorted(folder.iterdir()) == before


@given(anything())
@settings(max_examples=10)
def test_any_overrides(folder, words):
    assert_it_composes_or_says_why(words, folder)


@pytest.mark.faults
@given(anything())
@settings(max_examples=1000)
def test_any_overrides_at_length(folder, words):
    assert_it_composes_or_says_why(words, folder)


def composes(words: list[str]) -> TrainConfig | None:
    """None if the words are refused together, with the key to change."""
    try:
        return compose_one("train", TrainConfig, [*words, *SMALL]).config
    except UserError as error:
        keys = [re.split(r"[=.]", word.lstrip("+"))[0] for word in [*words, *SMALL]]
        if not any(key in str(error) for key in keys):
            raise AssertionError(str(error)) from error
        return None


def assert_a_wrong_value_is_named(data: st.DataObject, words: list[str]) -> None:
    config = composes(words)
    if config is not None:
        known = dict(annotations(config))
        key = data.draw(st.sampled_from(sorted(known)))
        value = data.draw(wrong(known[key]))
        with pytest.raises(UserError, match=re.escape(key)):
            compose_one("train", TrainConfig, [*words, *SMALL, f"++{key}={value}"])


@given(st.data(), choices())
@settings(max_examples=5)
def test_a_wrong_value(folder, data, words):
    assert_a_wrong_value_is_named(data, words)


@pytest.mark.faults
@given(st.data(), choices())
@settings(max_examples=1000)
def test_a_wrong_value_at_length(folder, data, words):
    assert_a_wrong_value_is_named(data, words)


NEED_MORE = ("output", "name", "dataset.path", "trainer.cuda_graph")  # than this machine or folder surely has


def with_values(data: st.DataObject, words: list[str]) -> TrainConfig | None:
    """The config of these words and of small values for some of its keys, if they go together."""
    config = composes(words)
    if config is None:
        return None
    known = {key: one for key, one in annotations(config) if key not in NEED_MORE}
    keys = data.draw(st.lists(st.sampled_from(sorted(known)), unique=True, max_size=4))
    return composes([*words, *(f"++{key}={data.draw(valid(known[key]), label=key)}" for key in keys)])


@given(st.data(), choices())
@settings(max_examples=5)
def test_valid_values(folder, data, words):
    with_values(data, words)


@pytest.mark.faults
@given(st.data(), choices())
@settings(max_examples=1000, suppress_health_check=list(HealthCheck))
def test_valid_values_train(folder, data, words):
    """What composes takes a step; or its data or its numbers are refused with a reason."""
    config = with_values(data, words)
    event("refused" if config is None else "composed")
    if config is None:
        return
    with tempfile.TemporaryDirectory() as run:
        try:
            trainer = make_trainer(Run(Path(run), config), dataset_of(config), torch.device("cpu"))
            if trainer.parameters:
                trainer.train_step(trainer.batches.training(torch.arange(config.trainer.batch_size), step=0))
            trainer.journal.record.close()
        except UserError as error:
            event(f"unbuilt: {str(error)[:60]}")
        except NonFiniteError:
            event("not finite")


def assert_a_file_is_read_or_refused(text: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as own:
        (Path(own) / "model").mkdir()
        (Path(own) / "model/mine.yaml").write_text(text, encoding="utf-8")
        done = said("train", "--config-dir", own, "model=mine", *SMALL[:2])
        event(f"code {done.code}")
        assert done.code in (0, 2)
        assert done.code == 0 or "mine" in done.err or "model" in done.err or "unknown key" in done.err, done.err
        assert said("train", "--config-dir", own, "--help", "model=mine").code in (0, 2)
        with contextlib.suppress(UserError):
            known_targets(own)


MINE = (TREE / "model/dense.yaml").read_text(encoding="utf-8")


@given(mutated(MINE))
@settings(max_examples=5)
def test_mutated_files(folder, text):
    assert_a_file_is_read_or_refused(text, folder)


@pytest.mark.faults
@given(mutated(MINE))
@settings(max_examples=500)
def test_mutated_files_at_length(folder, text):
    assert_a_file_is_read_or_refused(text, folder)


@cache
def small() -> TrainConfig:
    return compose_one("train", TrainConfig, SMALL).config


@cache
def installed() -> Targets:
    return known_targets()


def assert_a_stored_config_is_opened_or_refused(data: st.DataObject, folder: Path) -> None:
    """One value anywhere in it is another, or is missing."""
    saved = {"config": small().model_dump()}
    node: Any = saved
    while True:
        key = data.draw(st.sampled_from(sorted(node)))
        if not isinstance(node[key], dict) or not node[key] or data.draw(st.integers(0, 4)) == 0:
            break
        node = node[key]
    if data.draw(st.booleans()):
        node[key] = data.draw(LEAVES)
    else:
        del node[key]
    before = sorted(folder.iterdir())
    with tempfile.TemporaryDirectory() as run:
        (Path(run) / "config.json").write_text(json.dumps(saved), encoding="utf-8")
        try:
            opened = open_run(run, installed())
        except UserError as error:
            named = run in str(error)
            assert named, error  # noqa: PT017
        else:
            assert opened.config.model.target.startswith("aetool.")
            assert opened.id
    assert sorted(folder.iterdir()) == before


@given(st.data())
@settings(max_examples=5)
def test_stored_configs(folder, data):
    assert_a_stored_config_is_opened_or_refused(data, folder)


@pytest.mark.faults
@given(st.data())
@settings(max_examples=500)
def test_stored_configs_at_length(folder, data):
    assert_a_stored_config_is_opened_or_refused(data, folder)
