"""Ctrl-C is never lost, and waits while libraries are imported."""

import signal
import threading
from collections.abc import Callable

import pytest

from captum_vit.cli import explain_command
from captum_vit.cli.progress import Progress
from captum_vit.cli.stopping import Stop, check, heeding, held
from tests.cli.helpers import explain, photo


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def pressed_in_vain() -> None:
    """As in a callback of the garbage collector, whose exceptions Python drops."""
    with pytest.raises(KeyboardInterrupt):
        press()


def press_and_go_on(to: Callable[[], None]) -> None:
    with heeding():
        pressed_in_vain()
        to()


def check_nothing_is_lost() -> None:
    for to in (check, Progress(3).update):
        with pytest.raises(KeyboardInterrupt):
            press_and_go_on(to)


def test_what_was_lost_is_raised_at_the_next_check():
    check_nothing_is_lost()


@pytest.mark.xfail(strict=True, raises=pytest.fail.Exception, reason="broken on purpose: nobody notes it")
def test_a_note_that_is_not_looked_at_would_be_seen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Stop, "check", lambda self: None)
    check_nothing_is_lost()


def test_it_waits_for_imports():
    done = []

    def imports() -> None:
        with heeding():
            with held():
                press()
                done.append("imported")
            done.append("went on")

    with pytest.raises(KeyboardInterrupt):
        imports()
    assert done == ["imported"]


def test_it_is_as_before_afterwards():
    before = signal.getsignal(signal.SIGINT)
    with heeding():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    check()
    with held():
        pass
    pressed_in_vain()


def test_other_threads_hear_no_signals():
    found = []

    def elsewhere() -> None:
        with heeding(), held():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


def test_a_command_stops_whose_interrupt_was_lost(monkeypatch: pytest.MonkeyPatch):
    summary = explain_command._summary

    def and_press(*args: object) -> str:
        pressed_in_vain()
        return summary(*args)

    monkeypatch.setattr(explain_command, "_summary", and_press)
    told = explain(photo("a.png"), photo("b.png"), "--method", "rollout", code=130)
    assert told.stdout.count("written:") == 1
    assert told.stderr.endswith(
        "Stopped. The pictures written so far are complete, in captum-vit-out; --resume goes on\n"
    )
