"""An interrupt at any moment of an explanation is a KeyboardInterrupt, and leaves nothing behind.

Python runs handlers at the start of a function and after a call of C. `sys.setprofile` is told of the same moments, so
that a handler can be run at each of them in turn. Beside that stand real signals at random moments.
"""

import gc
import inspect
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest
import torch
import torch.nn.modules.module as torch_module
from torch import nn

from captum_vit import AGCAM, DAAM
from captum_vit.capture import Inputs, Run, interrupts, scopes, untouched
from captum_vit.capture.needs import GRADIENTS
from tests.helpers import assert_close, explain, images, timm_vit
from tests.robustness.test_untouched import unfused_timm

HOOKS = [name for name in vars(nn.Module()) if name.endswith(("hooks", "hooks_with_kwargs", "hooks_always_called"))]
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
SWITCHES = sys.modules[untouched.__module__]


def state(model: nn.Module) -> dict[str, object]:
    """All that an explanation puts in place for a while."""
    modules = list(model.modules())
    return {
        "hooks": [len(getattr(module, table)) for module in modules for table in HOOKS],
        "attributes": [sorted(vars(module)) for module in modules],
        "kernels": [vars(module).get("fused_attn") for module in modules],
        "hooks of all modules": [len(value) for name, value in vars(torch_module).items() if name.endswith("_hooks")],
        "function modes": torch._C._len_torch_function_stack(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "handlers": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "visits": dict(SWITCHES._visits.get()),
        "active tap": scopes._active.get(),
        "switches": (dict(SWITCHES._switches), SWITCHES._COMPILER.free),
        "waiting": interrupts.INTERRUPTS._waiting,
        "vmap": torch._C._vmapmode_increment_nesting() - 1 - torch._C._vmapmode_decrement_nesting(),
    }


def traces(before: dict[str, object], after: dict[str, object]) -> list[str]:
    return [name for name in before if before[name] != after[name]]


@pytest.fixture(autouse=True)
def _collecting_nothing() -> Iterator[None]:
    """The garbage collector calls back those that asked for it, as hypothesis does; what is raised there is lost."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@contextmanager
def handled(number: int, handler: Callable) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


class Moment(Exception):
    """What a handler of somebody's raises, as for a time limit."""


def may_be_struck(frame: FrameType, event: str) -> bool:
    """Whether Python runs handlers where a profiler is told of this event; not so in a generator that is closed."""
    return event == "c_return" or (event == "call" and not frame.f_code.co_flags & inspect.CO_GENERATOR)


def places(call: Callable[[], object]) -> list[int]:
    """The moments of a call, by number, at which a handler can run: the first and last at each place in the code."""
    first: dict[tuple, int] = {}
    last: dict[tuple, int] = {}
    count = 0

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        if may_be_struck(frame, event):
            place = frame.f_code, frame.f_lasti, event
            first.setdefault(place, count)
            last[place] = count
            count += 1

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return sorted({*first.values(), *last.values()})


def struck(call: Callable[[], object], moment: int, number: int, *, again: int | None = None) -> str:
    """What came of a call that a signal hits at a moment: its handler is run there, as Python would.

    again: so many functions later, the signal comes another time.
    """
    count = 0

    def strike(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        if may_be_struck(frame, event):
            count += 1
            if count == moment + 1:
                sys.setprofile(None)
                if again is not None:
                    sys.settrace(strike_again)
                signal.getsignal(number)(number, frame)

    def strike_again(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        if may_be_struck(frame, event) and frame.f_code.co_filename != __file__:
            count += 1
            if count == moment + 2 + again:
                sys.settrace(None)
                signal.getsignal(number)(number, frame)

    sys.setprofile(strike)
    try:
        call()
    except KeyboardInterrupt:
        return "interrupted"
    except Moment:
        return "interrupted"
    finally:
        sys.setprofile(None)
        sys.settrace(None)
    return "not interrupted"


def strike(number: int, frame: FrameType | None) -> None:
    raise Moment


def survey(method, *, every: int, number: int = signal.SIGINT, again: int | None = None) -> dict[str, list[int]]:
    """What strikes at every n-th of the moments left behind, or that they had no effect: reason -> moments."""
    model, x = unfused_timm(), images(1)
    ours = method(model)
    ours.attribute(x, 1)

    def call() -> None:
        ours.attribute(x, 1)

    found: dict[str, list[int]] = {}
    for moment in places(call)[::every]:
        before = state(model)
        outcome = struck(call, moment, number, again=again)
        reasons = traces(before, state(model)) + ([outcome] if outcome != "interrupted" else [])
        for reason in reasons:
            found.setdefault(reason, []).append(moment)
        if reasons:
            return found  # what is left behind would be found again and again
    assert torch.isfinite(ours.attribute(x, 1)).all()
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM])
@pytest.mark.parametrize("method", [AGCAM, DAAM])
def test_no_moment_leaves_a_trace(method, number):
    with handled(number, strike if number != signal.SIGINT else signal.default_int_handler):
        assert survey(method, every=23, number=number) == {}


@pytest.mark.parametrize("again", [0, 1, 4])
def test_nor_do_two_signals_one_after_another(again):
    assert survey(AGCAM, every=31, again=again) == {}


@pytest.mark.slow
@pytest.mark.skipif(not NIGHTLY, reason="some minutes")
@pytest.mark.parametrize("again", [None, 0, 2, 7])
@pytest.mark.parametrize("method", [AGCAM, DAAM])
def test_no_moment_of_all_leaves_a_trace(method, again):
    assert survey(method, every=1, again=again) == {}


def test_signals_that_do_not_wait_would_be_caught(monkeypatch):
    monkeypatch.setattr(interrupts, "passing", lambda frame, within: False)
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert survey(AGCAM, every=3) != {}
    finally:  # what they left is of this thread
        interrupts.INTERRUPTS.__init__()
        signal.signal(signal.SIGINT, handler)
        while torch._C._len_torch_function_stack():
            torch._C._pop_torch_function_stack()
        scopes._active.set(None)
        SWITCHES._visits.set({})
        SWITCHES._switches.clear()
        torch.set_grad_enabled(True)


def test_real_signals_at_random_moments():
    """A timer's, whose moments are those of the process and not of Python's frames."""
    draw, model, x = random.Random(0), unfused_timm(), images(1)
    ours = DAAM(model)
    explain(ours, x)
    started = time.perf_counter()
    explain(ours, x)
    took = time.perf_counter() - started

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    wanted, interrupted = 600 if NIGHTLY else 60, 0
    with handled(signal.SIGALRM, interrupt):
        for _ in range(20 * wanted):
            before = state(model)
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(took / 1000, took))
                explain(ours, x)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            assert traces(before, state(model)) == []
            if interrupted == wanted:
                break
    assert interrupted == wanted


def signalling(model: nn.Module, act: Callable[[], object]) -> nn.Module:
    """The model, which does something in the middle of its forward."""

    def hook(*_: object) -> None:
        act()

    model.blocks[1].register_forward_hook(hook)
    return model


def test_a_signal_in_the_forward_is_not_kept_waiting():
    reached = []

    def act() -> None:
        reached.append("before")
        signal.raise_signal(signal.SIGINT)
        reached.append("after")

    model = signalling(timm_vit(), act)
    before = state(model)
    with pytest.raises(KeyboardInterrupt):
        explain(AGCAM(model), images())
    assert reached == ["before"]
    assert traces(before, state(model)) == []


def test_nor_is_one_between_the_questions_of_a_run():
    model = timm_vit()
    ours, before, reached = AGCAM(model), state(model), []

    def ask() -> None:
        with Run(ours.adapter, Inputs(images()), {GRADIENTS}) as run:
            run.gradients(1)
            signal.raise_signal(signal.SIGINT)
            reached.append("after")

    with pytest.raises(KeyboardInterrupt):
        ask()
    assert not reached
    assert traces(before, state(model)) == []


class Entered:
    """A context of somebody's, that is hit while it is entered."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def __enter__(self) -> None:
        self.log.append("opened")
        signal.raise_signal(signal.SIGINT)
        self.log.append("entered")

    def __exit__(self, *_: object) -> None:
        self.log.append("left")


def test_a_context_in_the_model_is_entered_and_left_whole():
    log: list[str] = []

    def act() -> None:
        with Entered(log):
            log.append("inside")

    model = signalling(timm_vit(), act)
    before = state(model)
    with pytest.raises(KeyboardInterrupt):
        explain(AGCAM(model), images())
    assert log == ["opened", "entered", "inside", "left"]
    assert traces(before, state(model)) == []


def test_a_context_outside_of_all_is_not_waited_for():
    """An explanation may run while somebody's own context is entered."""
    ours, log = AGCAM(signalling(timm_vit(), lambda: signal.raise_signal(signal.SIGINT))), []

    class Explaining(Entered):
        def __enter__(self) -> None:
            explain(ours, images())
            log.append("entered")

    with pytest.raises(KeyboardInterrupt), Explaining(log):
        pass
    assert not log


def test_a_handler_that_raises_nothing_is_called_once_for_each_signal():
    calls: list[int] = []
    model = signalling(timm_vit(), lambda: [signal.raise_signal(n) for n in (signal.SIGINT, signal.SIGALRM)])

    def note(number: int, frame: FrameType | None) -> None:
        calls.append(number)

    with handled(signal.SIGINT, note), handled(signal.SIGALRM, note):
        maps = explain(DAAM(model), images())
    assert calls == [signal.SIGINT, signal.SIGALRM] * (len(calls) // 2)
    assert len(calls) >= 2
    assert_close(maps, explain(DAAM(timm_vit()), images()))


def own_handler(number: int, frame: FrameType | None) -> None:
    raise Moment


def test_a_handler_that_the_model_sets_stays():
    model = signalling(timm_vit(), lambda: signal.signal(signal.SIGALRM, own_handler))
    found = signal.getsignal(signal.SIGALRM)
    try:
        explain(DAAM(model), images())
        assert signal.getsignal(signal.SIGALRM) is own_handler
    finally:
        signal.signal(signal.SIGALRM, found)


def test_a_time_limit_in_the_model_is_its_own_matter():
    caught = []

    def act() -> None:
        with handled(signal.SIGALRM, own_handler):
            try:
                signal.raise_signal(signal.SIGALRM)
            except Moment:
                caught.append("in the model")

    model = signalling(timm_vit(), act)
    with handled(signal.SIGALRM, signal.SIG_IGN):
        explain(DAAM(model), images())
        assert signal.getsignal(signal.SIGALRM) is signal.SIG_IGN
    assert caught


def test_a_handler_that_was_kept_calls_the_one_before_it():
    kept = []
    model = signalling(timm_vit(), lambda: kept.append(signal.getsignal(signal.SIGINT)))
    explain(DAAM(model), images())
    assert kept[0] is not signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        kept[0](signal.SIGINT, None)


def test_other_threads_explain_and_the_main_thread_is_interrupted():
    """Handlers are the main thread's: nothing waits there for what another thread does."""
    model, x = timm_vit(), images()
    expected, found, inside, go_on = explain(DAAM(model), x), [], threading.Event(), threading.Event()

    def wait() -> None:
        if threading.current_thread() is other:
            inside.set()
            assert go_on.wait(60)

    ours = DAAM(signalling(model, wait))
    other = threading.Thread(target=lambda: found.append(explain(ours, x)))
    before = state(model)
    other.start()
    assert inside.wait(60)
    try:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        go_on.set()
        other.join()
    assert_close(found[0], expected)
    assert traces(before, state(model)) == []


def test_visits_of_two_models_inside_each_other():
    inner = timm_vit()
    model = signalling(timm_vit(seed=1), lambda: explain(DAAM(inner), images(1)))
    handler = signal.getsignal(signal.SIGINT)
    explain(AGCAM(model), images())
    assert signal.getsignal(signal.SIGINT) is handler
    signalling(inner, lambda: signal.raise_signal(signal.SIGINT))
    before = state(model), state(inner)
    with pytest.raises(KeyboardInterrupt):
        explain(AGCAM(model), images())
    assert traces(before[0], state(model)) == traces(before[1], state(inner)) == []
