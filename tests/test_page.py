"""The report: one file that holds all it shows, escapes what others wrote, and can be read without a network."""

import base64
import json
import os
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from aetool.config.compose import compose_one
from aetool.config.schema import TrainConfig
from aetool.errors import UserError
from aetool.evaluation.catalogue import METRICS
from aetool.report import charts, page, pictures
from aetool.report.comparison import Comparison, compare
from aetool.report.groups import grouped

EVIL = "<script>alert(1)</script>"
EMPTY = Comparison("title", [], [], [], [], [], [], [], [], [], [], None)


class Seen(HTMLParser):
    """The tags with their attributes, and the text outside style and script."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._inside = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("style", "script"):
            self.text.append(data)

    def all(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]


@pytest.fixture(scope="module")
def config():
    """The config of a run with a few values of its own."""
    words = [
        "model=dense",
        "dataset=digits",
        "penalty=l1",
        "penalty.weight=0.02",
        "loss=huber",
        "model.widths=[8,4]",
        "seed=3",
    ]
    return compose_one("train", TrainConfig, words).config.model_dump()


def a_run(folder, name, config, accuracy):
    own = folder / name
    (own / "figures").mkdir(parents=True)
    (own / "checkpoints" / "step-00000001").mkdir(parents=True)
    manifest = {"torch": "2.99.0", "device": "cpu", "threads": 1, "fingerprint": "f" * 64}
    (own / "checkpoints" / "step-00000001" / "manifest.json").write_text(json.dumps(manifest))
    (own / "config.json").write_text(json.dumps({"aetool": "9.8.7", "config": config, "command": "aetool train"}))
    (own / "status.json").write_text(json.dumps({"state": "completed", "warnings": ["a <warning>"]}))
    Image.new("RGB", (40, 20)).save(own / "figures" / "reconstructions.png")
    (own / "figures" / "atoms.png").write_bytes(b"not a picture")
    metrics = {"probe/val/accuracy": accuracy, "probe/test/accuracy": accuracy - 0.01}
    metrics |= {"probe": "linear", "probe.tap": "code"}
    row = {"run": name, "directory": str(own), "state": "completed", "model.name": "dense", "dataset.name": "digits"}
    return row | {"corruption": EVIL, "seed": 0, "penalty.weight": accuracy} | metrics


@pytest.fixture(scope="module")
def report(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("outputs")
    rows = [a_run(folder, f"run-{index}", config, 0.9 + index / 100) for index in range(2)]
    rows.append(rows[0] | {"run": EVIL, "directory": str(folder / "gone"), "penalty.weight": 0.5})
    rows.append({"run": "b", "directory": "b", "state": "failed"})
    groups = grouped(rows[:3], ["penalty.weight", "corruption"])
    metrics = [metric for metric in METRICS if any(group.stat(metric.key) for group in groups)]
    said = Comparison(
        EVIL, rows, ["penalty.weight", "corruption"], groups, metrics, [], ["not like for like"],
        ["The recommendation is here"],
        ["one differs"],
        ["b: failed: no memory"], ["a note"], "aetool train -m penalty.weight=1,2",
    )  # fmt: skip
    page.write(said, charts.draw(said), folder / "new" / "report.html")
    return (folder / "new" / "report.html").read_text(encoding="utf-8")


def test_nothing_is_fetched(report):
    assert "http" not in re.sub(r"base64,[^\"]*", "", report).lower()  # where it could stand by chance
    assert "@import" not in report
    assert "url(" not in report
    seen = Seen(report)
    assert not seen.all("link")
    assert seen.all("img")
    assert all(image["src"].startswith("data:image/") for image in seen.all("img"))
    assert all("src" not in script for script in seen.all("script"))


def test_what_others_wrote_is_text(report):
    seen = Seen(report)
    assert EVIL not in report
    assert "".join(seen.text).count(EVIL) >= 4  # title, head, run, config value
    assert len(seen.all("script")) == 1
    assert "a <warning>" in "".join(seen.text)


def test_it_can_be_heard_and_held_in_a_hand(report):
    seen = Seen(report)
    assert seen.all("html")[0]["lang"] == "en"
    assert "width=device-width" in next(meta["content"] for meta in seen.all("meta") if meta.get("name") == "viewport")
    assert all(image["alt"] for image in seen.all("img"))
    assert all(head["scope"] in ("col", "row") for head in seen.all("th"))
    assert len(seen.all("h1")) == 1


def test_the_answer_comes_first(report):
    wanted = [
        "The recommendation is here", "0.9100", "one differs", "<h2>Results", "<h2>Figures", "<h2>Runs",
        "aetool train -m penalty.weight=1,2", "run-1", "run-0", "b: failed: no memory", "9.8.7", "2.99.0", "f" * 64,
    ]  # fmt: skip
    places = [report.index(words, report.index("<main>")) for words in wanted]
    assert places == sorted(places)


def test_rows_sort_by_number(report):
    first = report[report.index("<tbody>") : report.index("</tbody>")]
    assert re.findall(r'<th scope="row">([\d.]+)</th>', first) == ["0.9", "0.91", "0.5"]
    assert '<tr class="best">' in first


def test_pictures_are_there_where_they_can_be_read(report):
    runs = report[report.index("<h2>Runs") :]
    assert re.findall(r'alt="(reconstructions|atoms) of ([^"]+)"', runs) == [
        ("reconstructions", "run-1"),
        ("reconstructions", "run-0"),
    ]


def test_a_large_picture_is_made_smaller(tmp_path):
    Image.effect_noise((1600, 400), 80).save(tmp_path / "atoms.png")
    found = pictures.embedded(tmp_path / "atoms.png", 20_000, "atoms")
    kind, _, data = found.source.partition(";base64,")
    (tmp_path / "small").write_bytes(base64.b64decode(data))
    assert kind == "data:image/webp"
    assert (tmp_path / "small").stat().st_size <= 20_000
    with Image.open(tmp_path / "small") as image:
        width, height = image.size
    assert 240 <= width < 1000
    assert height == pytest.approx(width / 4, abs=1)


def test_a_report_that_cannot_be_written_is_named(tmp_path):
    nothing = EMPTY
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "report.html", tmp_path / "folder"):
        with pytest.raises(UserError, match=str(path).removesuffix("/report.html")):
            page.write(nothing, [], path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    page.write(EMPTY, [], tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    assert os.read(reader, 15) == b"<!DOCTYPE html>"
    os.close(reader)


def test_the_command_of_a_run_is_shown_where_it_was_recorded(tmp_path, config):
    rows = [a_run(tmp_path, name, config, 0.9) for name in ("recorded", "unknown")]
    for name, command in (("recorded", "aetool train 'x=[8,4]' seed=3"), ("unknown", None)):
        (tmp_path / name / "config.json").write_text(json.dumps({"config": config, "command": command}))
    page.write(compare(rows), [], tmp_path / "report.html")
    text = "".join(Seen((tmp_path / "report.html").read_text()).text)
    assert "aetool train 'x=[8,4]' seed=3" in text
    assert text.count("the command was not recorded") == 1
