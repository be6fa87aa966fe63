"""Readouts that are told by what stands beside an image, by settings, by the image itself, or by the class."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_vit import adapt, explain
from captum_vit.attr import METHODS
from captum_vit.capture import Inputs, Run, cp_rules, examine, others, readout, weighing
from captum_vit.errors import TokenLayoutError, UnsupportedModelError
from captum_vit.targets import Classes
from tests.helpers import CLASSES, DEPTH, WIDTH, assert_close, randomise, relative_error, timm_vit
from tests.owners.owner import GRID, OPTIONS, images
from tests.owners.truth import MAPS, Reading, see, timm_parts
from tests.owners.vits import VITS

pytestmark = pytest.mark.filterwarnings("ignore::captum_vit.unusual.ModelNote")


class Told(nn.Module):
    """Scores by `read`, of the tokens of a ViT, the images and what stands beside them."""

    def __init__(self, read: Callable[..., Tensor], tokens: int = 1) -> None:
        super().__init__()
        self.vit, self.read = timm_vit(num_classes=0, reg_tokens=tokens - 1), read
        self.head, self.other = randomise(nn.Linear(WIDTH, CLASSES), 5), randomise(nn.Linear(WIDTH, 3), 6)
        self.keep, self.settings, self.place = [5], {"patch": 2}, torch.tensor([3])
        self.more, self.share = SimpleNamespace(patches=[7]), torch.tensor([1.0, 1.0], dtype=torch.float64)
        self.double().eval()

    def forward(self, x: Tensor, *beside: Any) -> Tensor:
        return self.read(self, self.vit.forward_features(x), x, *beside)


def of_patches(m: Told, t: Tensor, weights: Tensor) -> Tensor:
    return m.head((t[:, 1:] * weights.unsqueeze(2)).sum(1) / weights.sum(1, keepdim=True))


def of_settings(m: Told, t: Tensor, x: Tensor) -> Tensor:
    read = [*m.keep, m.settings["patch"], *m.more.patches, *m.place.tolist()]
    return m.head(t[:, 1:][:, read].mean(1) + (m.share[:, None] * t[:, :2]).sum(1) / len(read))


def bright(x: Tensor) -> Tensor:
    patches = F.avg_pool2d(x.mean(1, keepdim=True), 8).flatten(1)
    return (patches > patches.mean(1, keepdim=True)).to(x)


def salient(x: Tensor) -> Tensor:
    return F.avg_pool2d(x[:, :1], 8).flatten(1).sigmoid()


def of_two_heads(m: Told, t: Tensor, x: Tensor) -> Tensor:
    return torch.cat([m.head(t[:, 0]), m.other(t[:, 1:].mean(1))], 1)


def dense(m: Told, t: Tensor, x: Tensor) -> Tensor:
    return m.head(t[:, 1:]).mT.unflatten(2, GRID)


def rows(*places: int, weights: Tensor | None = None) -> Tensor:
    """What the tokens after the last block give, (layers, 17)."""
    found = torch.zeros(DEPTH, 17, dtype=torch.float64)
    found[-1, list(places)] = 1
    if weights is not None:
        found[-1, 1:] = weights.detach()
    return found


def truth(model: Told, x: Tensor, given: Tensor, method: str, target: Any = 1, beside: tuple = ()) -> Tensor:
    place = target if isinstance(target, tuple) else (target,)

    def score(y: Tensor) -> Tensor:
        return model(y, *beside)[(slice(None), *place)].unsqueeze(1)

    seen = see(model, score, x, [0] * len(x), VITS[0].attention, timm_parts)
    found = MAPS[method](seen, Reading.of(given))
    assert found is not None
    return found[:, 1:].unflatten(1, GRID).unsqueeze(1)


def asked(model: nn.Module, x: Tensor, method: str, target: Any = 1, beside: Any = None) -> Tensor:
    ours = METHODS[method]
    target = target if ours.class_specific else None
    return ours(model).attribute(x, target, beside, **OPTIONS.get(method, {}))


X = images(2, (32, 32), torch.float64)
ONE = X[:1]
QUICK = ("daam", "rollout")


def mask(*places: int) -> Tensor:
    return F.one_hot(torch.tensor(places), 16).sum(0, keepdim=True).double()


@pytest.mark.parametrize("method", MAPS)
def test_masks_beside_the_image_count(method: str):
    model = Told(lambda m, t, x, weights: of_patches(m, t, weights))
    for places in ((1, 2), (9, 13, 14)):
        here = mask(*places)
        expected = truth(model, ONE, rows(*(1 + p for p in places)), method, beside=(here,))
        assert_close(asked(model, ONE, method, beside=here), expected, 1e-6)


def test_masks_of_several_images_must_agree():
    model = Told(lambda m, t, x, weights: of_patches(m, t, weights))
    alike = mask(3, 7).expand(2, -1).clone()
    assert_close(
        asked(model, X, "rollout", beside=alike), truth(model, X, rows(4, 8), "rollout", beside=(alike,)), 1e-6
    )
    with pytest.raises(UnsupportedModelError, match="other tokens in image 1 of this batch"):
        asked(model, X, "rollout", beside=torch.cat([mask(3), mask(10)]))


@pytest.mark.parametrize("method", QUICK)
def test_settings_that_change_count(method: str):
    model = Told(of_settings)
    changes: list[tuple[Callable[[], Any], tuple[int, ...], tuple[float, float]]] = [
        (lambda: None, (6, 3, 8, 4), (1, 1)),
        (lambda: setattr(model, "keep", [9]), (10, 3, 8, 4), (1, 1)),
        (lambda: model.keep.append(11), (10, 12, 3, 8, 4), (1, 1)),
        (lambda: model.settings.update(patch=15), (10, 12, 16, 8, 4), (1, 1)),
        (lambda: model.more.patches.append(12), (10, 12, 16, 8, 13, 4), (1, 1)),
        (lambda: model.place.fill_(6), (10, 12, 16, 8, 13, 7), (1, 1)),
        (lambda: setattr(model, "place", torch.tensor([8])), (10, 12, 16, 8, 13, 9), (1, 1)),
        (lambda: model.share.copy_(torch.tensor([1.0, 4.0])), (10, 12, 16, 8, 13, 9), (1, 4)),
    ]
    for change, read, share in changes:
        change()
        given = rows(*read)
        given[-1, :2] = torch.tensor(share)
        assert_close(asked(model, ONE, method), truth(model, ONE, given, method), 1e-6)


@pytest.mark.parametrize("weigh", [bright, salient])
@pytest.mark.parametrize("method", QUICK)
def test_weights_by_the_image_itself(weigh: Callable, method: str):
    model = Told(lambda m, t, x: of_patches(m, t, weigh(x)))
    for x in X.split(1):
        assert_close(asked(model, x, method), truth(model, x, rows(weights=weigh(x)[0]), method), 1e-6)
    with pytest.raises(UnsupportedModelError, match="explain one image at a time"):
        asked(model, X, method)


CLASS_READ = {
    "class token": (of_two_heads, 1, rows(0)),
    "mean": (of_two_heads, 8, rows(weights=torch.ones(16))),
    "pixel": (dense, (2, 1, 3), rows(8)),
}


@pytest.mark.parametrize("name", CLASS_READ)
@pytest.mark.parametrize("method", ["agcam", "daam", "gradient_rollout"])
def test_each_class_by_its_own_tokens(name: str, method: str):
    read, target, given = CLASS_READ[name]
    model = Told(read)
    assert_close(asked(model, ONE, method, target), truth(model, ONE, given, method, target), 1e-6)
    assert_close(
        METHODS[method](model).attribute_classes(ONE, [target], **OPTIONS.get(method, {})),
        truth(model, ONE, given, method, target),
        1e-6,
    )
    with pytest.raises(UnsupportedModelError, match="read from other tokens than others"):
        asked(model, ONE, "rollout")


def test_each_class_by_its_own_tokens_in_explain():
    model = Told(of_two_heads).float()
    found = explain(ONE[0].float(), model=model, method="daam", target=[1, 8])
    expected = [
        truth(Told(of_two_heads), ONE, CLASS_READ[name][2], "daam", t) for name, t in (("class token", 1), ("mean", 8))
    ]
    for ours, theirs in zip(found.attributions, expected, strict=True):
        assert_close(ours.flow[-1].double(), theirs[0, 0], 1e-3)


def test_features_that_a_model_keeps_are_no_settings():
    model, calls = Told(lambda m, t, x: (setattr(m, "kept", t[:, 0].detach()), m.head(t[:, 0]))[1]), []
    model.vit.register_forward_hook(lambda *_: None)
    with torch.no_grad():
        model(X)
    METHODS["rollout"](model).attribute(X)
    METHODS["rollout"](model).attribute(X)
    with patch.object(readout, "measure_readout", lambda *a, **k: calls.append(a)):
        METHODS["rollout"](model).attribute(X)
    assert not calls


class Ordered(Told):
    """Patches in an order that a buffer tells, and the class token."""

    def __init__(self) -> None:
        super().__init__(lambda m, t, x: t)
        self.register_buffer("order", torch.arange(17))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.vit._pos_embed(self.vit.patch_embed(x))
        return self.head(self.vit.norm(self.vit.blocks(tokens[:, self.order]))[:, 0])


def turned() -> Ordered:
    """One that was asked before its order changed."""
    model = Ordered()
    asked(model, ONE, "rollout")
    model.order[1:] = model.order[1:].roll(3)
    return model


def test_an_order_that_changes_is_looked_at_again():
    with pytest.raises(TokenLayoutError, match="do not lie where"):
        asked(turned(), ONE, "rollout")


ASKS = ["gradients", "held_gradients", "token_gradients", "given_gradients", "layer_gradients"]


@pytest.mark.parametrize("ask", ASKS)
def test_a_run_is_of_the_target_that_it_was_made_for(ask: str):
    adapter = adapt(Told(of_two_heads))
    more = (list(adapter.attention_layers()),) if ask == "layer_gradients" else ()
    for target in (None, Classes(8)):
        run = Run(adapter, Inputs(ONE), target=target)
        with pytest.raises(UnsupportedModelError, match="ask about each target by a run of its own"):
            getattr(run, ask)(1, *more)
    with Run(adapter, Inputs(ONE), target=target) as run:
        getattr(run, ask)(target, *more)
        under = run.under(cp_rules())
        assert under.token_gradients(target)
        with pytest.raises(UnsupportedModelError, match="ask about each target by a run of its own"):
            under.token_gradients(1)


# What passes without each of these looks


def test_each_look_is_needed(monkeypatch: pytest.MonkeyPatch):
    def off(model: Told, x: Tensor, given: Tensor, target: Any = 1, beside: tuple = ()) -> float:
        return relative_error(
            asked(model, x, "daam", target, beside or None), truth(model, x, given, "daam", target, beside)
        )

    with monkeypatch.context() as broken:
        broken.setattr(examine, "_told", lambda x: (x.shape, x.dtype))
        model = Told(lambda m, t, x, weights: of_patches(m, t, weights))
        asked(model, ONE, "daam", beside=mask(1, 2))
        assert off(model, ONE, rows(10, 14), beside=(mask(9, 13),)) > 0.1
    with monkeypatch.context() as broken:
        broken.setattr(others, "_setting", lambda *_: None)
        model = Told(of_settings)
        asked(model, ONE, "daam")
        model.keep[0] = 9
        assert off(model, ONE, rows(0, 1, 10, 3, 8, 4)) > 0.1
    with monkeypatch.context() as broken:
        broken.setattr(others, "_indices", lambda _: ())
        assert asked(turned(), ONE, "rollout").shape == (1, 1, *GRID)  # of patches that lie elsewhere
    with monkeypatch.context() as broken:
        broken.setattr(readout, "own_tensors", lambda _: {})
        model = Told(of_settings)
        asked(model, ONE, "rollout")
        model.share.copy_(torch.tensor([1.0, 9.0]))
        given = rows(0, 1, 6, 3, 8, 4)
        given[-1, 1] = 9
        assert relative_error(asked(model, ONE, "rollout"), truth(model, ONE, given, "rollout")) > 0.01
    with monkeypatch.context() as broken:
        broken.setattr(Inputs, "beside_each", False)
        model = Told(lambda m, t, x, weights: of_patches(m, t, weights))
        both = torch.cat([mask(3), mask(10)])
        assert off(model, X, rows(11), beside=(both,)) > 0.1
    with monkeypatch.context() as broken:
        broken.setattr(weighing, "_alike", lambda one, other: True)
        model = Told(lambda m, t, x: of_patches(m, t, bright(x)))
        asked(model, ONE, "daam")
        assert off(model, X[1:], rows(weights=bright(X[1:])[0])) > 0.1
    with monkeypatch.context() as broken:
        broken.setattr(weighing.Weighing, "by_class", lambda self, found: False)
        assert off(Told(dense), ONE, rows(8), (2, 1, 3)) > 0.1
