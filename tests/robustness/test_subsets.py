"""Leaving tokens out: in threads, with hooks of others, in coarse types, when it fails, and what it costs."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_vit import adapt
from captum_vit.capture import Inputs, Run, leaving
from captum_vit.errors import InputError, UnsupportedModelError
from captum_vit.targets import Classes
from tests.families.timm_models import small as small_timm
from tests.families.without import of_timm
from tests.fingerprint import changes, fingerprint
from tests.helpers import CASES, assert_close, images, relative_error, timm_vit
from tests.properties.broken import caught

TARGET, PATCHES = Classes(1), 16
BUILDS = {"entering": timm_vit, "unseen": small_timm("beit_base_patch16_224", patch_size=8)}


def choices(count: int, seed: int = 0) -> Tensor:
    """(count, patches), with something kept in each."""
    kept = torch.rand(count, PATCHES, generator=torch.Generator().manual_seed(seed)) > 0.5
    kept[:, seed % PATCHES] = True
    return kept


def asked(model: nn.Module, x: Tensor, kept: Tensor, target: Any = TARGET, **inputs: Any) -> Tensor:
    return Run(adapt(model), Inputs(x, **inputs)).on_tokens(kept, target)


def written(model: nn.Module, x: Tensor, kept: Tensor) -> Tensor:
    """All scores of one choice, of timm's plain ViT."""
    with torch.no_grad():
        return of_timm(model, x, kept.nonzero()[:, 0].tolist(), 1)


def check_threads(build) -> None:
    """Each of six threads leaves other patches out, and two run the model plainly meanwhile."""
    model, x = build(), images(2)
    kept = [choices(3, seed) for seed in range(6)]
    expected, plain = [asked(model, x, each) for each in kept], model(x).detach()
    before, together = fingerprint(model), threading.Barrier(8)

    def job(i: int) -> bool:
        together.wait(30)
        for _ in range(3):
            with torch.no_grad():
                ours, theirs = (asked(model, x, kept[i]), expected[i]) if i < 6 else (model(x), plain)
            if not torch.allclose(ours, theirs, atol=1e-5):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(job, range(8)))
    assert not changes(before, fingerprint(model))


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_threads(build):
    check_threads(build)


class ForAll:
    """What a careless capture would use: one variable for all threads."""

    def __init__(self) -> None:
        self.value: Any = None

    def set(self, value: Any) -> None:
        self.value = value

    def get(self) -> Any:
        return self.value

    def reset(self, token: Any) -> None:
        self.value = None


@pytest.mark.xfail(strict=True, reason="broken on purpose: the check above catches it")
def test_threads_that_share_a_choice(monkeypatch):
    monkeypatch.setattr(leaving, "_chosen", ForAll())
    check_threads(timm_vit)


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_a_failure(build, kind):
    model, x = build(), images(1)
    run, calls = Run(adapt(model), Inputs(x)), []
    kept = choices(1)

    def fail(*_: Any) -> None:
        calls.append(1)
        if calls[1:]:
            raise kind("half way")

    run.on_tokens(kept, TARGET)
    model.blocks[1].register_forward_hook(fail)
    before = fingerprint(model)
    run.on_tokens(kept, TARGET)
    with pytest.raises(UnsupportedModelError if kind is RuntimeError else kind, match="half way"):
        run.on_tokens(kept, TARGET)
    calls.clear()
    assert not changes(before, fingerprint(model))
    assert torch.isfinite(model(x)).all()


def test_hooks_that_listen_hear_nothing_and_those_that_edit_are_part_of_the_model():
    model, x, heard = timm_vit(), images(), []
    expected = asked(model, x, choices(2))
    handle = model.blocks[1].register_forward_hook(lambda module, args, output: heard.append(output.shape[1]))
    assert_close(asked(model, x, choices(2)), expected)
    assert set(heard) == {17}
    handle.remove()
    model.blocks[1].register_forward_hook(lambda module, args, output: output * 0.5)
    edited = asked(model, x, choices(2))
    assert_close(edited[:, 0], written(model, x, choices(2)[0])[:, 1])
    assert relative_error(edited, expected) > 1e-2


def test_a_hook_that_edits_one_place_is_noticed():
    """Of a part of the tokens, another would stand there."""
    model = timm_vit()
    model.blocks[1].register_forward_hook(
        lambda module, args, x: torch.cat([x[:, :5], x[:, 5:6] * 3 + x.mean(1, keepdim=True), x[:, 6:]], 1)
    )
    with pytest.raises(UnsupportedModelError, match="in another order they give other scores; nor"):
        asked(model, images(), choices(2))


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_coarse_types_and_inference_mode(build):
    model, x = build(), images()
    expected = asked(model, x, choices(3))
    with torch.inference_mode():
        assert_close(asked(model, x.clone(), choices(3)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        under = asked(model, x, choices(3))
    assert relative_error(under, expected) < 0.1
    assert relative_error(asked(build().bfloat16(), x.bfloat16(), choices(3)), expected) < 0.1


def test_each_image_its_own_target_and_choices():
    model, x = timm_vit(), images()
    kept = torch.stack([choices(3, 1), choices(3, 2)])
    found = asked(model, x, kept, Classes([1, 4]))
    for image, index in enumerate((1, 4)):
        for choice in range(3):
            assert_close(found[image, choice], written(model, x[image : image + 1], kept[image, choice])[0, index])


def test_the_ends():
    """No patch, one patch of one, none where the score is read from patches; no choice at all."""
    none = torch.zeros(1, PATCHES, dtype=torch.bool)
    model, x = timm_vit(), images()
    assert_close(asked(model, x, none)[:, 0], written(model, x, none[0])[:, 1])
    single = timm_vit(img_size=8)
    one = torch.ones(1, 1, dtype=torch.bool)
    assert_close(asked(single, images(2, (8, 8)), one)[:, 0], single(images(2, (8, 8)))[:, 1].detach())
    for name in ("timm-avg", "hf-dinov2"):  # of the second a class token is read beside the mean
        with pytest.raises(InputError, match="no patch is kept in one of the choices"):
            asked(CASES[name].build(), x, torch.cat([choices(1), none]))
    with pytest.raises(InputError, match="at least one choice"):
        asked(model, x, none[:0])


def test_it_costs_what_is_kept(monkeypatch):
    """Counted: after three forwards of one image and parts of it, no more than the kept tokens go through a block."""
    model, x, seen = timm_vit(), images(1), []
    run, block = Run(adapt(model), Inputs(x)), type(model.blocks[0])
    run.on_tokens(choices(1), TARGET)
    forward = block.forward
    monkeypatch.setattr(
        block, "forward", lambda self, x, *more, **named: (seen.append(x.shape), forward(self, x, *more, **named))[1]
    )
    kept = torch.arange(PATCHES).expand(64, -1) % 2 == 0
    run.on_tokens(kept, TARGET)
    assert [tuple(shape[:2]) for shape in seen] == [(64, 1 + PATCHES // 2)] * len(model.blocks)


@caught
def test_a_choice_of_other_rows():
    """Each row its own patches: those of the first row for all are noticed."""
    model, x = timm_vit(), images(1)
    kept = choices(2)
    wrong = asked(model, x, kept[:1].expand(2, -1))
    assert_close(wrong[0, 1], written(model, x, kept[1])[0, 1])
