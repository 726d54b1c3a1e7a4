"""What a stranger wrote into a run is shown, and neither obeyed by a terminal or a spreadsheet nor markup in a page."""

import csv
import io
import json
import logging
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import TINY, run_in

from aetool.console import PlainConsole
from aetool.evaluation.catalogue import PROTOCOL
from aetool.report.tables import Column, markdown, markdown_text, write_csv
from aetool.terminal import PrintableStream, escape_output, printable

SEQUENCES = "\x1b]0;title\x07\x1b[31mred\x9b2J\rover\u202egnp"
MARKUP = "<script>alert(1)</script>[x](javascript:alert(1))|`[bold red]a[/]"
HOSTILE = f"{SEQUENCES}{MARKUP}"
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs of a stranger, in states that are shown in different ways, and a sweep."""
    monkeypatch.chdir(tmp_path)
    outputs = tmp_path / "outputs"
    for number, state in enumerate(("completed", "completed", "failed", "interrupted")):
        folder = outputs / f"{number}{HOSTILE.replace('/', '')}"
        folder.mkdir(parents=True)
        config = {
            "model": {"name": f"{HOSTILE}{number}", "code_size": number},
            "dataset": {"name": HOSTILE},
            "penalty": {"weight": 0.1 * number, "terms": {HOSTILE: {"scale": 1.0}}},
            HOSTILE: f"=HYPERLINK({number})",
            "seed": 0,
        }
        metrics = {"evaluate": {"val/fvu": 0.1, "test/fvu": 0.1 + number, "protocol": PROTOCOL}}
        status = {"state": state, "stage": HOSTILE, "error": HOSTILE, "warnings": [HOSTILE], "step": 1}
        saved = {"config": config, "identity": config, "command": HOSTILE, "aetool": HOSTILE}
        for name, values in (("config", saved), ("status", status), ("metrics", metrics)):
            (folder / f"{name}.json").write_text(json.dumps(values))
    sweep = outputs / "sweep-1"
    sweep.mkdir()
    runs = [{"directory": folder.name, "overrides": [HOSTILE]} for folder in outputs.iterdir()]
    found = {"command": HOSTILE, "axes": {HOSTILE: []}, "runs": runs}
    (sweep / "sweep.json").write_text(json.dumps(found))
    return outputs


class TestTerminal:
    @pytest.mark.parametrize(
        "words",
        [
            ["status", "--all"],
            ["compare"],
            ["compare", "--each"],
            ["compare", "outputs/sweep-1"],
            ["compare", "--sort", HOSTILE],
            ["list", HOSTILE],
            ["data", "list", HOSTILE],
            ["train", f"model={HOSTILE}"],
            ["train", HOSTILE],
            ["probe", "run=outputs/0"],
            [HOSTILE],
        ],
        ids=lambda words: " ".join(words)[:16],
    )
    def test_nothing_is_obeyed(self, strange, aetool, words):
        (strange / "0").symlink_to(next(path for path in strange.iterdir() if path.name.startswith("0")).name)
        said = aetool(*words)
        assert not CONTROL.search(said.out + said.err)
        assert r"\x1b" in said.out + said.err or words[0] == "probe"

    def test_warnings_of_a_run_and_its_log(self, workplace, aetool):
        assert aetool("train", *TINY, "name=mine").code == 0
        run = run_in("outputs/mine")
        run.warn([HOSTILE])
        said = aetool("train", *TINY, "name=mine")
        assert r"warning: \x1b]0;title" in said.out
        assert not CONTROL.search(said.out + said.err)
        with run.hold():
            logging.getLogger("aetool").warning(HOSTILE)
        text = (run.directory / "aetool.log").read_text()
        assert r"\x1b[31m" in text
        assert not CONTROL.search(text)

    def test_colours_of_the_program_arrive(self, monkeypatch):
        below = io.StringIO()
        monkeypatch.setattr(sys, "stdout", below)
        escape_output()
        escape_output()
        assert isinstance(sys.stdout, PrintableStream)
        PlainConsole(force_terminal=True, color_system="truecolor").print("\x1b[32m:+1: [bold]λ[/] 日本", style="red")
        print("\x1b[32m")
        coloured, printed, _ = below.getvalue().split("\n")
        assert coloured == "\x1b[31m\\x1b[32m:+1: [bold]λ[/] 日本\x1b[0m"
        assert printed == r"\x1b[32m"

    def test_ordinary_text_stays(self):
        text = "λ = 0,1 → 日本語 e\u0301 👩\u200d🔬 עברית\u200f\tend\n"
        assert printable(text) == text


class TestSpreadsheet:
    def test_formulas_are_text_and_numbers_numbers(self, tmp_path):
        harmful = ["=1+1", "+cmd", "-cmd|x", "@sum", "\t=1", "\r=1", "＝1"]
        harmless = [-0.5, "-1", "1e-3", "a=b", True, None, -3]
        write_csv(tmp_path / "a.csv", [{"=key": value} for value in [*harmful, *harmless]])
        with (tmp_path / "a.csv").open(newline="") as file:
            (head,), *rows = csv.reader(file)
        assert head == "'=key"
        assert [row[0] for row in rows[: len(harmful)]] == [f"'{text}" for text in harmful]
        assert [row[0] for row in rows[len(harmful) :]] == ["-0.5", "-1", "1e-3", "a=b", "True", "", "-3"]

    def test_of_a_strangers_run(self, strange, aetool):
        assert aetool("compare", "--csv", "a.csv").code == 0
        assert "'=HYPERLINK" in Path("a.csv").read_text()
        assert ",=" not in Path("a.csv").read_text()


class TestMarkdown:
    def test_a_cell_is_one_cell_of_text(self):
        table = markdown([Column("`a`", ["`x|y`", "a\\|b", "<b>\n\n# c", "[l](u) `c` *d*"])])
        assert table.splitlines()[2:] == [
            r"| `x\|y` |",
            r"| a\\\|b |",
            r"| \<b> # c |",
            r"| \[l\](u) \`c\` \*d\* |",
        ]

    def test_of_a_strangers_run(self, strange, aetool):
        assert aetool("compare", "--each", "--markdown", "a.md").code == 0
        text = Path("a.md").read_text()
        assert "alert(1)" in text
        assert not re.search(r"(?<!\\)[<\[]", text)

    def test_sentences_stay_in_their_line(self):
        assert markdown_text("a\n\n<script>") == r"a \<script>"


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_report_of_a_strangers_runs_has_no_tags_of_theirs(strange, aetool):
    assert aetool("compare", "--html", "a.html").code == 0
    tags = Tags(Path("a.html").read_text()).found
    assert [tag for tag, _ in tags].count("script") == 1
    assert not [tag for tag, _ in tags if tag == "a"]
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
