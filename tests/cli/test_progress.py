"""What is told of how far a command has come, on a terminal and in a log, by a clock that the test holds."""

import io
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pytest

from captum_vit.cli.console import Line, complain, say
from captum_vit.cli.progress import Progress, can_go_back, duration, waiting
from tests.cli.terminal import Terminal
from tests.waiting import PATIENCE


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _terminals_can_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


@contextmanager
def on(terminal: Terminal) -> Iterator[None]:
    """Both streams are one terminal."""
    with redirect_stdout(terminal), redirect_stderr(terminal):
        yield


def test_a_terminal_has_one_line_and_at_the_end_what_it_came_to():
    terminal = Terminal()
    clock = Clock()
    with on(terminal), Progress(400, clock=clock) as progress:
        assert terminal.screen == ["0 of 400 images"]
        clock.now = 10
        progress.update(100)
        assert terminal.screen == ["100 of 400 images, 10 images/s, 30 s left"]
        clock.now = 50
        progress.update(300)
    assert terminal.screen == ["400 of 400 images in 50 s, 8.0 images/s", ""]


def test_what_is_said_meanwhile_stands_above_the_line():
    terminal = Terminal()
    clock = Clock()
    with on(terminal), Progress(2, clock=clock) as progress:
        say("the first")
        assert terminal.screen == ["the first", "0 of 2 images"]
        clock.now = 1
        progress.update()
        complain("Failed: the second")
        assert terminal.screen == ["the first", "Failed: the second", "1 of 2 images, 1.0 images/s, 1 s left"]
    assert terminal.screen[-2:] == ["1 of 2 images in 1 s, 1.0 images/s", ""]


def test_the_screen_here_would_show_a_line_that_is_written_into():
    """A wrong twin: text that is printed past the line ends up in it."""
    terminal = Terminal()
    with on(terminal), Progress(2, clock=Clock()):
        print("the first")
        assert terminal.screen[0] == "0 of 2 imagesthe first"


def test_a_log_has_a_line_every_half_minute_and_one_at_the_end():
    clock, log = Clock(), io.StringIO()
    with Progress(100, clock=clock, stream=log) as progress:
        for _ in range(100):
            clock.now += 1
            progress.update()
    assert log.getvalue().splitlines() == [
        "30 of 100 images, 1.0 images/s, 1 min 10 s left",
        "60 of 100 images, 1.0 images/s, 40 s left",
        "90 of 100 images, 1.0 images/s, 10 s left",
        "100 of 100 images in 1 min 40 s, 1.0 images/s",
    ]
    assert not set("\r\x1b") & set(log.getvalue())


def test_what_was_done_before_counts_for_no_speed():
    clock, log = Clock(), io.StringIO()
    with Progress(100, clock=clock, stream=log, done=90) as progress:
        clock.now = 40
        progress.update(4)
    assert log.getvalue().splitlines()[0] == "94 of 100 images, 6.0 images/min, 1 min 0 s left"


def test_a_run_in_which_nothing_was_done_says_nothing():
    log = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Progress(5, stream=log):
        raise KeyboardInterrupt
    assert log.getvalue() == ""


def test_a_stopped_run_leaves_the_terminal_in_a_new_line():
    terminal = Terminal()
    progress = Progress(5, stream=terminal, clock=Clock())
    progress.update()
    with pytest.raises(KeyboardInterrupt), progress:
        raise KeyboardInterrupt
    assert terminal.screen == ["1 of 5 images in 0 s", ""]
    with on(terminal):
        say("after it")
    assert terminal.screen == ["1 of 5 images in 0 s", "after it", ""]


def test_names_with_control_characters_do_nothing_to_a_terminal():
    terminal = Terminal()
    line = Line(terminal)
    line.show("\x1b[31mred\n\r")
    assert terminal.screen == [r"\x1b[31mred\n\r"]
    line.clear()
    assert terminal.screen == [""]


def test_square_brackets_are_letters():
    """As in a file's name: they are no style of rich's."""
    terminal = Terminal()
    line = Line(terminal)
    line.show("[bold]a[/bold]:smile:")
    assert terminal.screen == ["[bold]a[/bold]:smile:"]
    line.clear()


def test_a_bar_shows_the_part_that_is_done():
    terminal = Terminal()
    clock = Clock()
    parts = []
    with Progress(40, stream=terminal, clock=clock, done=10) as progress:
        for _ in range(3):
            drawn = terminal.getvalue().replace("\x1b[2K", "").split("\r")[-1]
            parts.append(len(re.findall("\x1b\\[[0-9;]+m(━+)", drawn)[0]))  # of the first colour
            clock.now += 1
            progress.update(10)
    assert parts == [5, 10, 15]


# --- what is waited for


def test_what_is_waited_for_moves_and_goes():
    terminal = Terminal()
    with on(terminal), waiting("Loading it"):
        assert terminal.screen == ["Loading it..."]
        first = terminal.shown
        deadline = time.monotonic() + PATIENCE
        while terminal.shown == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert terminal.shown != first
        assert terminal.screen == ["Loading it..."]
        complain("Note: of it")
    assert terminal.screen == ["Note: of it", ""]


def test_it_gives_way_to_the_bar_of_a_download():
    """Which draws over its own line, and would be drawn over."""
    terminal = Terminal()
    with on(terminal), waiting("Loading it"):
        sys.stderr.write("\r 10 %")
        sys.stderr.write("\r 20 %")
        time.sleep(0.3)
        assert terminal.screen == [" 20 %"]


def test_while_one_thing_is_waited_for_no_other_line_is_drawn():
    terminal = Terminal()
    with on(terminal), Progress(2, clock=Clock()):
        with waiting("Loading it"):
            assert terminal.screen == ["Loading it..."]
        assert terminal.screen == ["0 of 2 images"]


def test_in_a_log_it_is_a_plain_line_or_none(capsys: pytest.CaptureFixture):
    with waiting("Loading it"), waiting("Starting", logged=False):
        pass
    assert capsys.readouterr().err == "Loading it\n"


def test_a_line_is_cut_to_the_terminal():
    terminal = Terminal()
    line = Line(terminal)
    line.show("x" * 300)
    assert len(terminal.shown[0]) == 80
    line.clear()


def test_what_is_no_terminal_is_a_log(monkeypatch: pytest.MonkeyPatch):
    assert can_go_back(Terminal())
    assert not can_go_back(io.StringIO())
    assert not can_go_back(None)
    closed = io.StringIO()
    closed.close()
    assert not can_go_back(closed)
    monkeypatch.setenv("TERM", "dumb")
    assert not can_go_back(Terminal())


def test_a_program_without_a_console_goes_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", None)
    with Progress(2) as progress:
        progress.update()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (-1, "0 s")],
)
def test_a_time_in_the_units_that_matter(seconds: float, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("done", "seconds", "text"),
    [(50, 10, "5.0 images/s"), (500, 10, "50 images/s"), (3, 60, "3.0 images/min"), (3, 3600 * 6, "0.5 images/h")],
)
def test_a_speed_is_a_number_that_can_be_read(done: int, seconds: float, text: str):
    clock, log = Clock(), io.StringIO()
    with Progress(1000, clock=clock, stream=log) as progress:
        clock.now = seconds
        progress.update(done)
    assert log.getvalue().splitlines()[-1].endswith(f", {text}")


@pytest.mark.parametrize(("total", "text"), [(1, "0 of 1 image"), (2, "0 of 2 images")])
def test_one_of_them_has_no_s(total: int, text: str):
    terminal = Terminal()
    with Progress(total, "image", terminal, clock=Clock()):
        assert terminal.screen == [text]
