"""Eight threads explain one shared model at once, and every map is right."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from captum_vit import AGCAM
from captum_vit.capture import scopes
from tests.fingerprint import changes, fingerprint
from tests.helpers import METHODS, explain, images, relative_error, timm_vit
from tests.robustness.test_untouched import eager_hf, unfused_timm

BUILDS = {
    "fused": timm_vit,
    "unfused": unfused_timm,
    "hf-eager": eager_hf,
    "compiled": lambda: torch.compile(unfused_timm(), backend="eager"),
}
JOBS = 80


def wrong_maps(model, methods) -> list[str]:
    """What a single thread and eight threads disagree on, or raise, of JOBS calls."""
    inputs = [images(1 + i % 2, seed=i) for i in range(4)]
    jobs = [(methods[i % len(methods)], inputs[i % 4], i % 7) for i in range(JOBS)]
    expected = [explain(method, x, target) for method, x, target in jobs]
    together = threading.Barrier(8)

    def run(i: int) -> str:
        method, x, target = jobs[i]
        if i < 8:
            together.wait(30)
        try:
            ours = explain(method, x, target)
        except Exception as error:  # any failure of a thread counts
            return f"{method.get_name()}: {error!r}"
        same = ours.shape == expected[i].shape
        same = same and bool((ours - expected[i]).abs().max() <= 1e-6 * expected[i].abs().max())  # a map may be 0
        return "" if same else f"{method.get_name()}: another map"

    with ThreadPoolExecutor(8) as pool:
        return [failure for failure in pool.map(run, range(JOBS)) if failure]


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(
    "methods", [*([method] for method in METHODS), METHODS], ids=lambda m: f"{len(m)} {m[0].__name__}"
)
def test_all_maps_are_right(build, methods):
    model = BUILDS[build]()
    before = fingerprint(model)
    assert wrong_maps(model, [method(model) for method in methods]) == []
    assert not changes(before, fingerprint(model))


class NotThreadLocal:
    """What a careless capture would use: one variable for all threads."""

    value = None

    def get(self):
        return self.value

    def set(self, value):
        before, self.value = self.value, value
        return before

    def reset(self, before):
        self.value = before


def test_a_shared_variable_would_be_caught(monkeypatch):
    monkeypatch.setattr(scopes, "_active", NotThreadLocal())
    model = timm_vit()
    assert any(wrong_maps(model, [AGCAM(model)]) for _ in range(10))


def test_a_plain_forward_beside_an_explanation_is_undisturbed():
    model, x = unfused_timm(), images()
    expected, failures, stop = model(x).detach(), [], threading.Event()

    def explain_on():
        while not stop.is_set():
            explain(AGCAM(model), x)

    thread = threading.Thread(target=explain_on)
    thread.start()
    try:
        for _ in range(100):
            with torch.no_grad():
                if relative_error(model(x), expected) > 1e-5:
                    failures.append("another output")
    finally:
        stop.set()
        thread.join()
    assert not failures


@pytest.mark.parametrize("method", METHODS)
def test_a_hook_removed_while_another_thread_is_about_to_call_it(method):
    """Torch lists the hooks before it calls the first; one that is removed meanwhile is called without its kwargs."""
    model, x = timm_vit(), images()
    explaining, listed = threading.Event(), threading.Event()

    def wait(module, args):
        if threading.current_thread() is other:
            explaining.set()
            assert listed.wait(30)
        else:
            listed.set()
            other.join(30)

    model.register_forward_pre_hook(wait)
    other = threading.Thread(target=explain, args=(method(model), x))
    other.start()
    assert explaining.wait(30)
    with torch.no_grad():
        assert model(x).shape == (2, 7)
