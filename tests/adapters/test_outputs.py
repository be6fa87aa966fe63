"""Models that give more than their scores: these are found by name or place where that is clear, else chosen."""

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from captum.attr import InputXGradient
from torch import Tensor, nn
from transformers import DeiTForImageClassificationWithTeacher

from captum_vit import AGCAM, DAAM, AttentionRollout, Explainer, RawAttention, adapt, inspect
from captum_vit import explain as explained
from captum_vit.access.outputs import parts_of, scores_among
from captum_vit.attr.finding import find_method
from captum_vit.errors import OptionError, UnsupportedModelError
from captum_vit.evaluation import Evaluator
from captum_vit.metrics import named_metric
from tests.helpers import CLASSES, WIDTH, assert_close, hf_vit, images, randomise, timm_vit

SCORES, FEATURES, TOKENS, LOSS = (
    torch.zeros(2, CLASSES),
    torch.zeros(2, WIDTH),
    torch.zeros(2, 17, WIDTH),
    torch.zeros(()),
)
ATTENTION, DENSE = torch.zeros(2, 3, 17, 17), torch.zeros(2, CLASSES, 4, 4)
VALUES = SCORES[:, 0]
Named = namedtuple("Named", "embedding logits")
Unnamed = namedtuple("Unnamed", "first second")


@dataclass
class Data:
    hidden: Any
    logits: Any


CLEAR = {
    "a tensor": (SCORES, SCORES),
    "dense scores": (DENSE, DENSE),
    "one value an image": (VALUES, VALUES),
    "a tuple of one": ((SCORES,), SCORES),
    "a loss before": ((LOSS, SCORES), SCORES),
    "no loss before": ((None, SCORES), SCORES),
    "hidden states behind": ((SCORES, [TOKENS, TOKENS]), SCORES),
    "attention behind": ((SCORES, ATTENTION), SCORES),
    "attention in a list behind": ((SCORES, [ATTENTION]), SCORES),
    "tokens and attention behind a loss": ((LOSS, SCORES, TOKENS, [ATTENTION]), SCORES),
    "hidden states before, in a list": (([TOKENS, TOKENS], SCORES), SCORES),
    "dense scores, and hidden states": ((DENSE, [TOKENS]), DENSE),
    "numbers of classes beside": ((SCORES, SCORES.argmax(1)), SCORES),
    "more in a mapping behind": ((SCORES, {"features": FEATURES}), SCORES),
    "a named tuple": (Named(FEATURES, SCORES), SCORES),
    "a dataclass": (Data(FEATURES, SCORES), SCORES),
    "a mapping": ({"embedding": FEATURES, "logits": SCORES}, SCORES),
    "a name in capitals": ({"embedding": FEATURES, "Logits": SCORES}, SCORES),
    "a longer name": ({"embedding": FEATURES, "cls_logits": SCORES, "x": FEATURES}, SCORES),
    "the one that is none of the others": ({"features": FEATURES, "out": SCORES, "aux": SCORES + 1}, SCORES),
    "a mapping of one": ({"out": SCORES}, SCORES),
    "a named tuple of one": ({"out": DENSE, "loss": LOSS}, DENSE),
}
UNCLEAR = {
    "features first": (FEATURES, SCORES),
    "features last": (SCORES, FEATURES),
    "a list": [FEATURES, SCORES],
    "features, scores and attention": (FEATURES, SCORES, [ATTENTION]),
    "tokens first": (TOKENS, SCORES),
    "tokens, then features that may be scores": (TOKENS, FEATURES),
    "several of more dimensions": (TOKENS, ATTENTION),
    "scores in a tuple before attention": ((FEATURES, SCORES), ATTENTION),
    "scores in a mapping before": ({"logits": SCORES}, FEATURES),
    "scores in a mapping behind": (FEATURES, {"logits": SCORES}),
    "no name says it": Unnamed(FEATURES, SCORES),
    "two of a name": {"class_logits": SCORES, "box_logits": SCORES},
    "a value an image beside": (SCORES, SCORES[:, 0]),
    "features by their name": {"features": FEATURES},
    "tokens by their name": {"last_hidden_state": TOKENS, "pooler_output": FEATURES},
    "logits of others": {"aux_logits": SCORES, "x": FEATURES, "y": SCORES},
}


@pytest.mark.parametrize("name", CLEAR)
def test_scores_that_are_clear(name: str):
    output, scores = CLEAR[name]
    assert scores_among(output, "Net") is scores


@pytest.mark.parametrize("name", UNCLEAR)
def test_scores_that_are_not_clear(name: str):
    with pytest.raises(UnsupportedModelError, match=r"Net gives several outputs.*not clear: .*Choose by output="):
        scores_among(UNCLEAR[name], "Net")


def test_the_first_tensor_would_be_a_feature_tensor():
    """What these tests are for: whoever takes the first takes features for classes."""

    def first(output: Any) -> Tensor:
        return next(part.value for part in parts_of(output) if isinstance(part.value, Tensor) and part.value.dim())

    assert first(CLEAR["a named tuple"][0]) is FEATURES
    assert first(CLEAR["the one that is none of the others"][0]) is FEATURES
    assert first(UNCLEAR["features first"]) is FEATURES


@pytest.mark.parametrize(
    ("output", "got"),
    [
        (LOSS, "one number for all images"),
        (None, "None"),
        ((), r"\(\)"),
        ({"loss": LOSS}, r"0 'loss' \(\)"),
        ("x", "'x'"),
    ],
)
def test_no_scores_at_all(output: Any, got: str):
    with pytest.raises(
        UnsupportedModelError, match=rf"expected scores of shape \(batch, classes, ...\) from Net, got {got}"
    ):
        scores_among(output, "Net")


class Both(nn.Module):
    """Gives features and scores, made into whatever is asked for."""

    def __init__(self, made: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.vit, self.head, self.made = timm_vit(num_classes=0), randomise(nn.Linear(WIDTH, CLASSES), 5), made
        self.eval()

    def forward(self, x: Tensor) -> Any:
        features = self.vit(x)
        return self.made(features, self.head(features))


def alone() -> Both:
    return Both(lambda features, scores: scores)


def second(output: Any) -> Tensor:
    return output[1]


MADE: dict[str, tuple[Callable[[Tensor, Tensor], Any], Any]] = {
    "named": (Named, None),
    "named, chosen": (Named, "logits"),
    "named, by place": (Named, -1),
    "plain, by place": (lambda f, s: (f, s), 1),
    "plain, by a function": (lambda f, s: (f, s), second),
    "plain, by what nothing can refer to": (lambda f, s: (f, s), itemgetter(1)),
    "plain, by module:object": (lambda f, s: (f, s), f"{__name__}:second"),
    "in a mapping of its own": (lambda f, s: {"out": (f, s)}, lambda output: output["out"][1]),
    "a dataclass": (Data, None),
    "an object": (lambda f, s: SimpleNamespace(features=f, y=s), "y"),
    "hidden states behind": (lambda f, s: (s, [f]), None),
}


@pytest.mark.parametrize("method", [AGCAM, DAAM, find_method(InputXGradient)[1]], ids=lambda method: method.__name__)
@pytest.mark.parametrize("name", MADE)
def test_maps_are_those_of_the_scores_alone(name: str, method: type):
    made, output = MADE[name]
    ours, plain, x = method(Both(made)), method(alone()), images()
    assert_close(ours.attribute(x, 3, output=output), plain.attribute(x, 3))
    assert_close(ours.attribute_flow(x, 3, output=output), plain.attribute_flow(x, 3))
    assert_close(ours.attribute_classes(x[:1], [3, 5], output=output), plain.attribute_classes(x[:1], [3, 5]))


def test_another_choice_gives_another_map():
    both, x = Both(lambda f, s: (f, s)), images()
    maps = [DAAM(both).attribute(x, 3, output=output) for output in (0, 1, lambda o: o[0], lambda o: o[1], 0)]
    assert_close(maps[0], maps[2])
    assert_close(maps[1], maps[3])
    assert_close(maps[0], maps[4])
    assert not torch.allclose(maps[0], maps[1])


def test_a_readout_belongs_to_its_output():
    """The class token is the first output, the patches are the second: what is measured of one is not kept for both."""

    class Halves(Both):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            tokens = self.vit.forward_features(x)
            return self.head(tokens[:, 0]), self.head(tokens[:, 1:].mean(1))

    net = Halves(tuple)
    for _ in range(2):
        readouts = [str(inspect(net, output=output)).split("readout  ")[1].splitlines()[0] for output in (0, 1)]
        assert readouts == ["class token (measured)", "mean of patches (measured)"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            None,
            r"Both gives several outputs, and .* not clear: 0 \(\d, 24\), 1 \(\d, 7\). Choose by output=0 or output=1",
        ),
        (2, r"Both gives no output 2, but 0 \(\d, 24\), 1 \(\d, 7\)"),
        ("logits", r"Both gives no output 'logits', but 0 \(\d, 24\), 1 \(\d, 7\)"),
        (True, "output says which of the model's outputs are the scores: a name, as 'logits', a place, as 1, or a"),
        (torch.zeros(2), "output says which .* got float32 tensor"),
        (lambda output: output["logits"], r"output=a function fails on what Both gives \(tuple\): TypeError"),
        (lambda output: output, r"output=a function must give scores of shape \(batch, classes, ...\), got"),
        ("tests.nowhere:f", "cannot import 'tests.nowhere:f'"),
        (f"{__name__}:CLEAR", "must name a function of the model's output"),
    ],
)
def test_what_cannot_be_chosen(output: Any, message: str):
    with pytest.raises((OptionError, UnsupportedModelError), match=message):
        AGCAM(Both(lambda f, s: (f, s))).attribute(images(), 3, output=output)


def test_nothing_to_choose():
    with pytest.raises(OptionError, match=r"VisionTransformer gives one tensor \(2, 7\): leave output='logits' out"):
        AttentionRollout(timm_vit()).attribute(images(), output="logits")
    with pytest.raises(OptionError, match=r"gives no output 'lgits'.*nearest: logits"):
        AGCAM(Both(Named)).attribute(images(), 3, output="lgits")


def test_explanations_tell_which_they_are():
    x = images()
    expected = explained(x[0], alone(), ["agcam", "raw_attention"], target=3, attention=True)
    found = explained(x[0], Both(Named), ["agcam", "raw_attention"], target=3, attention=True)
    assert found.notes == ("scores: the output 'logits', of 'embedding' and 'logits'",)
    assert_close(found.maps, expected.maps)
    assert [label.index for label in found.labels] == [label.index for label in expected.labels]
    several = explained(list(x), Both(lambda f, s: (f, s)), target=3, output=1)
    assert_close(several[0].maps, expected.only("agcam").maps)
    assert several[1].notes == ("scores: the output 1, of 0 and 1",)
    explainer = Explainer(Both(lambda f, s: (f, s)), output=second)
    assert explainer(x[0], target=3).notes == ("scores: what second makes of the model's output",)
    assert not expected.notes
    with pytest.raises(OptionError, match=r"explain takes output=\.\.\."):
        explained(x[0], Both(Named), target=3, outputs=1)


def test_raw_attention_has_its_own_entries():
    both, x = Both(lambda f, s: (f, s)), images()
    assert_close(RawAttention(both).attribute_heads(x, output=1), RawAttention(alone()).attribute_heads(x))
    heads, _ = RawAttention(both).attention(x, output=1)
    assert_close(heads["vit.blocks.2.attn"], RawAttention(alone()).attention(x)[0]["vit.blocks.2.attn"])


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_an_evaluation_asks_about_the_chosen_output():
    from captum_vit.data import open_data
    from tests.evaluation.test_entries import PREPROCESSING, build

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = build()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            scores = self.vit(x)
            return -scores, scores

    methods, covering = ["agcam", "captum.attr:InputXGradient"], named_metric("perturbation:agcam")
    asked: list[tuple[nn.Module, Any]] = [(build(), None), (Twice().eval(), 1), (Twice().eval(), 0)]
    rows = [
        Evaluator(
            Explainer(net, preprocess=PREPROCESSING, output=output),
            open_data("sample:1"),
            methods,
            [named_metric("localization"), covering],
            target="predicted",
        )
        for net, output in asked
    ]
    plain, chosen, other = (each(range(1)) for each in rows)
    assert [row["prediction"] for row in chosen] == [row["prediction"] for row in plain]
    assert [row["prediction"] for row in other] != [row["prediction"] for row in plain]
    for one, expected in zip(chosen, plain, strict=True):
        assert not one.get("error"), one["error"]
        assert one["iou"] == pytest.approx(expected["iou"], abs=1e-4, nan_ok=True)
        for figure in covering.figures:
            assert one[figure] == pytest.approx(expected[figure], abs=1e-4)
    assert rows[1].describe()["output"] != rows[2].describe()["output"]


def test_outputs_of_hugging_face_stand_in_their_order():
    """[loss,] logits, ..., where a class of its own is asked; not where somebody derived one."""
    model, x = hf_vit(DeiTForImageClassificationWithTeacher), images()
    as_tuple = AGCAM(model).attribute(x, 1, forward_kwargs={"return_dict": False})
    assert_close(as_tuple, AGCAM(model).attribute(x, 1))

    class Derived(DeiTForImageClassificationWithTeacher):
        def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
            found = super().forward(pixel_values)
            return found.cls_logits, found.logits

    derived = randomise(Derived(model.config))
    with pytest.raises(UnsupportedModelError, match="Derived gives several outputs"):
        AGCAM(derived).attribute(x, 1)
    assert_close(AGCAM(derived).attribute(x, 1, output=1), AGCAM(model).attribute(x, 1))


class Block(nn.Module):
    """Attention of nobody's library."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
        return x + self.proj(((q @ k.mT / 8**0.5).softmax(-1) @ v).transpose(1, 2).flatten(2))


class Unknown(nn.Module):
    """A model of nobody's library, that gives features before its scores."""

    def __init__(self, count: int = 2) -> None:
        super().__init__()
        self.patches, self.cls = nn.Conv2d(3, WIDTH, 8, 8), nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(2)))
        self.head, self.count = nn.Linear(WIDTH, CLASSES), count

    def forward(self, x: Tensor) -> Any:
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), self.patches(x).flatten(2).mT], 1)
        features = self.blocks(tokens)[:, 0]
        return (features, self.head(features)) if self.count == 2 else self.head(features)


def test_unknown_models_too():
    both, single, x = randomise(Unknown()), randomise(Unknown(1)), images()
    assert list(adapt(both).attention_layers()) == list(adapt(single).attention_layers())
    with pytest.raises(UnsupportedModelError, match="Unknown gives several outputs"):
        AGCAM(both).attribute(x, 3)
    assert_close(AGCAM(both).attribute(x, 3, output=1), AGCAM(single).attribute(x, 3))


@pytest.mark.parametrize("name", ["head", "mlp_head", "classification_head", "last", None])
def test_unknown_models_give_classes_whatever_their_head_is_called(name: str | None):
    class Called(Unknown):
        def __init__(self) -> None:
            super().__init__(1)
            del self.head
            if name is not None:
                self.add_module(name, nn.Linear(WIDTH, CLASSES))

        def forward(self, x: Tensor) -> Tensor:
            tokens = torch.cat([self.cls.expand(len(x), -1, -1), self.patches(x).flatten(2).mT], 1)
            features = self.blocks(tokens)[:, 0]
            return features if name is None else self.get_submodule(name)(features)

    assert adapt(randomise(Called())).headless == (name is None)


class Heatmaps(nn.Module):
    """As ViTPose: patches are enlarged by convolutions to a map of each keypoint, or given as they are."""

    def __init__(self, keypoints: int | None = WIDTH) -> None:
        super().__init__()
        self.backbone = Unknown(1)
        self.enlarge = nn.ConvTranspose2d(WIDTH, WIDTH, 4, 2, 1)
        self.last = None if keypoints is None else nn.Conv2d(WIDTH, keypoints, 1)
        del self.backbone.head

    def forward(self, x: Tensor) -> Tensor:
        patches = self.backbone.patches(x)
        tokens = self.backbone.blocks(patches.flatten(2).mT)
        grid = tokens.mT.unflatten(2, patches.shape[2:])
        return grid if self.last is None else self.last(self.enlarge(grid).relu())


@pytest.mark.parametrize(("keypoints", "features"), [(WIDTH, False), (3, False), (None, True)])
def test_a_heatmap_of_the_width_of_tokens_is_no_feature(keypoints: int | None, features: bool):
    """As many keypoints as tokens are wide; patches themselves stay features."""
    assert adapt(randomise(Heatmaps(keypoints))).headless == features
