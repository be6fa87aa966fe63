"""Names that somebody else chose: nothing they hold acts on a terminal, on a page, on a disk or in a spreadsheet."""

import csv
import io
import os
import re
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captum_vit.cli import console
from captum_vit.cli.batching import folder_names
from captum_vit.explanation.explanation import Explanation
from captum_vit.names import cell, distinct, printable, safe_name
from captum_vit.report import render, render_inline
from tests.cli.helpers import photo, run
from tests.figures.made import CAT, explanation

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
UNSEEN = "\u00ad\u200b\u2060\ufeff\U000e0041"
CONTROLS = "".join(map(chr, [*range(32), 127, *range(128, 160)])) + "\u2028\u2029"
HALVES = "\ud800\udce9\udfff"
TERMINAL = "\x1b]0;owned\x07\x1b[2J\x1b[31m\r\x9b1A"

# --- printed


@pytest.mark.parametrize("c", [*BIDI, *UNSEEN, *CONTROLS, *HALVES])
def test_what_acts_or_hides_is_written_out(c: str):
    shown = printable(f"a{c}b")
    assert shown == f"a{c.encode('unicode_escape').decode()}b"
    assert shown.isascii()
    assert shown.isprintable()


@pytest.mark.parametrize(
    "name",
    [
        "tabby, tabby cat",
        "Ägypten 日本 кот",
        "קוֹף",
        "می‌خواهم",
        "\U0001f469\u200d\U0001f680",
        "a\u00a0b\u3000c",
        "C:\\n",
        "",
    ],
)
def test_names_in_any_script_stay(name: str):
    assert printable(name) == name


@given(st.text())
def test_whatever_is_printed_is_one_line_that_acts_not(name: str):
    shown = printable(name)
    shown.encode()
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Cn", "Co", "Zl", "Zp") for c in shown)
    assert not set(shown) & set(BIDI + UNSEEN)


def test_streams_without_the_letters(monkeypatch: pytest.MonkeyPatch):
    """As where Windows redirects to a file."""
    for name in ("stdout", "stderr"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
        monkeypatch.setattr(sys, name, stream)
        (console.say if name == "stdout" else console.complain)("Katze 日本 \u201eA\u201c")
        stream.flush()
        assert stream.buffer.getvalue().decode("cp1252") == "Katze \\u65e5\\u672c \u201eA\u201c\n"


def acts(text: str) -> bool:
    """Whether there is anything in what was printed but lines of letters."""
    return not all(printable(line) == line for line in text.split("\n"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows allows no such names")
def test_a_folder_of_names_made_to_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    stems = [
        TERMINAL,
        "gnp\u202e.exe",
        "a\nFailed: everything",
        "-rf",
        "--out",
        "CON",
        "nul",
        "COM1",
        "b..",
        " ",
        "con ",
        "'; rm",
    ]
    for stem in stems:
        photo(f"in/{stem}.png")
    photo(os.fsdecode(b"in/caf\xe9.png"))
    Path("in", f"{TERMINAL}-bad.png").write_text("no image")
    result = run("explain", "in", "--method", "rollout", "--out", "out", code=1)
    assert not acts(result.stdout)
    assert not acts(result.stderr)
    folders = sorted(path.name for path in Path("out").iterdir())
    assert len(folders) == len(stems) + 1
    assert all(re.fullmatch(r"\w[\w-]*", name) for name in folders)
    assert not {"con", "nul", "com1"} & {name.casefold() for name in folders}
    report = run("report", "out", "--out", "all.html")
    assert "13 explanations" in report.stdout
    assert not acts(Path("all.html").read_text("utf-8"))


# --- on a page


def hostile(found: Explanation, name: str) -> Explanation:
    """With the name in all places that have one."""
    label = replace(CAT, name=name, title=name)
    attributions = [
        replace(a, target=label, layers=tuple(f"{name}{i}" for i in range(len(a.layers)))) for a in found.attributions
    ]
    attributions = [replace(a, facts=replace(a.facts, title=name, unit=name)) for a in attributions]
    return replace(
        found,
        attributions=tuple(attributions),
        labels=(label,),
        source=f"{name}.png",
        model=name,
        versions={name: name},
        notes=(name,),
    )


@pytest.mark.parametrize("name", [TERMINAL, f"a{BIDI}b", f"a{HALVES}b", f"</title><script>x{BIDI}"], ids=repr)
def test_a_page_holds_nothing_that_acts(name: str, tmp_path: Path):
    found = hostile(explanation(("agcam", "rollout")), name)
    for page in (render([found]), render([found, found]), render_inline(found)):
        assert not acts(page)
        assert "<script>x" not in page
    found.save(tmp_path)
    assert not acts(Explanation.load(tmp_path).to_html())
    found.plot()
    found.flow.frames(64)
    assert not acts(repr(found))


def test_names_would_act_on_a_page_that_escapes_html_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("captum_vit.report.encoding.printable", str)
    assert acts(render([hostile(explanation(), f"a{BIDI}b")]))


# --- on a disk

RESERVED = ["CON", "prn", "Aux", "NUL", "COM1", "com9", "LPT0", "lpt\u00b9", "COM\u00b2"]


@pytest.mark.parametrize("stem", [*RESERVED, *(f"{name} " for name in RESERVED), *(f"-{name}." for name in RESERVED)])
def test_devices_of_windows(stem: str):
    found = safe_name(stem, "image")
    assert found.casefold() not in {name.casefold() for name in RESERVED}
    assert found.startswith(stem.strip(" -."))


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("-rf", "rf"),
        ("--", "image"),
        ("...", "image"),
        ("a. ", "a"),
        ("a/../../b", "a_______b"),
        ("a\\b:c*d", "a_b_c_d"),
        ("\u202egnp", "gnp"),
        ("caf\udce9", "caf"),
        ("\x1b[2J", "2J"),
        ("e\u0301", "é"),
        ("", "image"),
        ("COM10", "COM10"),
    ],
)
def test_names_of_files(stem: str, name: str):
    assert safe_name(stem, "image") == name


@given(st.text(), st.sampled_from(["image", ""]))
def test_a_name_of_a_file_is_one_everywhere(text: str, default: str):
    found = safe_name(text, default)
    assert found == default or re.fullmatch(r"\w[\w-]*", found)
    assert len(found.encode()) <= 204
    assert not found.endswith((".", " "))


@given(st.lists(st.sampled_from(["a", "A", "a-2", "CON", "con_", "\u00e9", "e\u0301", "ß", "SS"])))
def test_names_of_files_are_all_different(stems: list[str]):
    names = folder_names(Path(f"{stem}.png") for stem in stems)
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(stems)
    assert distinct(names) == names


# --- in a spreadsheet

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\uff1d1", "=cmd|'/C calc'!A0"]


@pytest.mark.parametrize("name", FORMULAS)
def test_what_a_spreadsheet_would_run(name: str):
    assert cell(name) == f"'{name}"


@pytest.mark.parametrize("name", ["tabby", "tiger-cat", "a=b", "", " tabby", "'quoted'"])
def test_what_a_spreadsheet_shows(name: str):
    assert cell(name) == name


def test_numbers_are_no_names():
    assert [cell(value) for value in (-0.5, 3, None)] == [-0.5, 3, None]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[str]]]:
    """A leaderboard's table of methods and classes that are formulas, as a spreadsheet reads it."""
    pytest.importorskip("pyarrow")
    from captum_vit.evaluation.bootstrap import Mean
    from captum_vit.evaluation.leaderboard import Leaderboard

    mean = Mean(-0.5, -0.6, 0.4, 3)
    board = Leaderboard.__new__(Leaderboard)
    monkeypatch.setattr(Leaderboard, "figures", {"=iou": None}, raising=False)
    monkeypatch.setattr(Leaderboard, "rows", lambda self, figures: {"=1": {"=iou": mean}})
    monkeypatch.setattr(Leaderboard, "per_class", lambda self, name: {"@cat\udce9": {"+agcam": mean}})

    def written() -> list[list[str]]:
        board.to_csv(tmp_path / "a.csv")
        with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.reader(file))[1:]

    return written


def test_a_table_for_a_spreadsheet(table: Callable[[], list[list[str]]]):
    assert table() == [
        ["'=1", "", "'=iou", "-0.5", "-0.6", "0.4", "3"],
        ["'+agcam", "'@cat\\udce9", "'=iou", "-0.5", "-0.6", "0.4", "3"],
    ]


@pytest.mark.xfail(strict=True, reason="broken on purpose: names go into the table as they are")
def test_a_table_of_names_as_they_are(table: Callable[[], list[list[str]]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("captum_vit.evaluation.leaderboard.cell", lambda value: value)
    test_a_table_for_a_spreadsheet(table)
