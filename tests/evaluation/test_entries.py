"""What may stand on a leaderboard, how it is called, and how its options reach it."""

import copy
import json
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam, Saliency
from torch import nn
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from captum_vit import AGCAM, AttentionRollout, Contrast, Explainer, explain, sample
from captum_vit.adapters.sample_vit import PREPROCESSING, build
from captum_vit.data import open_data
from captum_vit.describing import weights_hash
from captum_vit.errors import OptionError, RunError
from captum_vit.evaluation import BASELINES, Entry, Evaluator, Plan, evaluate
from captum_vit.metrics import METRICS, Figure, Localization, Metric, Perturbation, Sanity, named_metric
from captum_vit.preprocessing import read_preprocessing
from tests.data import made
from tests.helpers import assert_close, timm_vit

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")  # Captum's

IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([1, 5, 2])


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer("sample")


def brightness(model, images, targets):
    return images.mean(1)


def powered(model, images, targets, power=1):
    return images.abs().mean(1) ** power


def entries(explainer: Explainer, methods: Any, **options: Any) -> dict[str, Entry]:
    return Evaluator(explainer, open_data("sample:1"), methods, [Localization()], **options).entries


def test_all_forms_of_a_method_have_one_shape(explainer):
    model = explainer.loaded.model
    forms = {
        "name": "agcam",
        "ours": AGCAM(model),
        "class": Saliency,
        "captums": Saliency(model),
        "function": brightness,
        "imported": "captum.attr:Saliency",
        "layer": LayerGradCam(model, model.patch_embed.proj),
    }
    maps = {name: entry.attribute(IMAGES, TARGETS) for name, entry in entries(explainer, forms).items()}
    assert list(maps) == list(forms)
    for found in maps.values():
        assert found.shape[:2] == (3, 1)
        assert not found.requires_grad
    assert torch.equal(maps["name"], maps["ours"])
    assert torch.equal(maps["ours"], AGCAM(model).attribute(IMAGES, TARGETS))
    assert torch.equal(maps["class"], Saliency(model).attribute(IMAGES, TARGETS).sum(1, keepdim=True))
    assert torch.equal(maps["class"], maps["captums"])
    assert torch.equal(maps["class"], maps["imported"])
    assert torch.equal(maps["function"][:, 0], brightness(model, IMAGES, TARGETS))
    assert maps["layer"].shape == (3, 1, 8, 8)


def test_methods_without_names_are_called_as_they_are(explainer):
    found = entries(explainer, ["agcam", "random", "captum.attr:Saliency", IntegratedGradients, brightness, "agcam"])
    assert list(found) == ["agcam", "random", "Saliency", "IntegratedGradients", "brightness"]
    assert list(entries(explainer, ["all"]))[-2:] == list(BASELINES)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (["agcm"], "no method 'agcm'; there are all, agcam, .*; nearest: agcam"),
        (["captum.attr:Salience"], "cannot import 'captum.attr:Salience'"),
        (["no.such.module:thing"], "cannot import 'no.such.module:thing': No module named 'no'"),
        ([":thing"], "cannot import ':thing'"),
        ([brightness, lambda m, i, t: i.mean(1), lambda m, i, t: i.mean(1)], "two methods are called '<lambda>'"),
        ({"x": 3}, "a method is an attribution or a function .*, got 3"),
    ],
)
def test_bad_methods(explainer, methods, message):
    with pytest.raises(OptionError, match=message):
        entries(explainer, methods)


@pytest.mark.parametrize("found", [None, torch.ones(2, 8, 8), torch.ones(3), [1, 2, 3]], ids=repr)
def test_a_function_that_gives_something_else(explainer, found):
    entry = entries(explainer, {"bad": lambda model, images, targets: found})["bad"]
    with pytest.raises(OptionError, match=r"a method gives maps \(N, rows, cols\) for 3 images, got"):
        entry.attribute(IMAGES, TARGETS)


def test_options_reach_the_methods_that_know_them(explainer):
    model = explainer.loaded.model
    options = {"discard_ratio": 0.5, "power": 3, "n_steps": 4}
    methods = ["rollout", "agcam", powered, IntegratedGradients]
    found = entries(explainer, methods, options=options)
    expected = AttentionRollout(model).attribute(IMAGES, discard_ratio=0.5)
    assert torch.equal(found["rollout"].attribute(IMAGES, TARGETS), expected)
    assert torch.equal(found["agcam"].attribute(IMAGES, TARGETS), AGCAM(model).attribute(IMAGES, TARGETS))
    assert torch.equal(found["powered"].attribute(IMAGES, TARGETS)[:, 0], powered(model, IMAGES, TARGETS, 3))
    steps = IntegratedGradients(model).attribute(IMAGES, target=TARGETS, n_steps=4, internal_batch_size=3)
    assert torch.allclose(found["IntegratedGradients"].attribute(IMAGES, TARGETS), steps.sum(1, keepdim=True))
    with pytest.raises(OptionError, match="have no option 'colour'; there is: "):
        entries(explainer, methods, options={"colour": 1})


def test_a_method_in_many_steps_never_fills_more_than_a_batch(explainer):
    sizes = []
    model = explainer.loaded.model
    handle = model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    try:
        entries(explainer, [IntegratedGradients])["IntegratedGradients"].attribute(IMAGES, TARGETS)
    finally:
        handle.remove()
    assert sum(sizes) >= 150
    assert max(sizes) == 3


def test_what_a_method_does_to_its_images_is_its_own_affair(explainer):
    def careless(model, images, targets):
        images.requires_grad_()
        with torch.no_grad():
            return images.mul_(0).sum(1)

    before = IMAGES.clone()
    entries(explainer, [careless])["careless"].attribute(IMAGES, TARGETS)
    assert torch.equal(IMAGES, before)
    assert not IMAGES.requires_grad


def described(explainer: Explainer, method: Any, **options: Any) -> dict[str, Any]:
    return json.loads(json.dumps(entries(explainer, {"m": method}, options=options)["m"].describe()))


def scaled(factor):
    return lambda model, images, targets: factor * images.mean(1)


def weighted(model, images, targets, weights=None):
    return (images * weights).mean(1)


def test_a_changed_method_is_another(explainer):
    """A run doesn't go on with another method of the same name, and does with the same."""
    model = explainer.loaded.model
    first, *rest = model.patch_embed.modules()
    middle = torch.ones(3, 64, 64)
    middle[1, 32, 32] = 2
    pairs = [
        ((brightness,), (powered,)),
        ((partial(powered, power=1),), (partial(powered, power=9),)),
        ((scaled(1),), (scaled(2),)),
        ((IntegratedGradients(model),), (IntegratedGradients(model, multiply_by_inputs=False),)),
        ((LayerGradCam(model, first),), (LayerGradCam(model, rest[0]),)),
        ((Saliency(model),), (Saliency(timm_vit()),)),
        ((AGCAM(model),), (AGCAM(model, layer=[-1]),)),
    ]
    for one, other in pairs:
        assert described(explainer, *one) == described(explainer, *one)
        assert described(explainer, *one) != described(explainer, *other)
    assert described(explainer, weighted, weights=middle) != described(
        explainer, weighted, weights=torch.ones(3, 64, 64)
    )
    assert described(explainer, weighted, weights=middle) == described(explainer, weighted, weights=middle.clone())
    assert "0x" not in json.dumps(described(explainer, powered, power=np.float32))
    assert described(explainer, Saliency) == described(explainer, "captum.attr:Saliency")
    assert described(explainer, AGCAM(model, layer=[-1]))["method"]["layers"] == ["blocks.5.attn"]


def test_a_changed_preprocessing_is_another():
    means = Normalize((0.5,) * 3, (0.5,) * 3)
    smooth, coarse = (
        read_preprocessing(Compose([Resize((64, 64), interpolation=mode), ToTensor(), means])).describe()
        for mode in (InterpolationMode.BILINEAR, InterpolationMode.NEAREST)
    )
    assert smooth != coarse
    assert {**smooth, "values": 0} == {**coarse, "values": 0}


def test_weights_of_any_shape_have_a_hash():
    module = torch.nn.BatchNorm1d(3)
    module.register_buffer("empty", torch.ones(0))
    before = weights_hash(module)
    assert before == weights_hash(copy.deepcopy(module))
    module.num_batches_tracked += 1
    assert weights_hash(module) != before


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_every_form_of_method_on_every_library(library):
    """The same weights as either library's model give the same maps, whatever the model returns."""
    model = build(library)
    explainer = Explainer(model, preprocess=PREPROCESSING, class_names=list(sample.CLASSES))
    found = entries(explainer, ["agcam", Saliency, "captum.attr:IntegratedGradients"], options={"n_steps": 4})
    truth = entries(Explainer("sample"), ["agcam", Saliency, "captum.attr:IntegratedGradients"], options={"n_steps": 4})
    for name, entry in found.items():
        torch.testing.assert_close(
            entry.attribute(IMAGES, TARGETS), truth[name].attribute(IMAGES, TARGETS), atol=1e-4, rtol=1e-3
        )
    rows = Evaluator(explainer, open_data("sample:1"), [Saliency], [Sanity("randomisation")])([0])
    assert abs(rows[0]["randomisation_spearman"]) < 0.9


def test_sanity_of_every_form_of_method(explainer):
    """A baseline never changes with the weights, and ours with options do."""
    methods = {"gaussian": "gaussian", "function": brightness, "rollout": "rollout", "saliency": Saliency}
    checks = Sanity(["randomisation", "class_sensitivity"])
    rows = Evaluator(explainer, open_data("sample:1"), methods, [checks], options={"discard_ratio": 0.5})([0])
    found = {row["method"]: row for row in rows}
    assert list(found) == list(methods)
    for name in ("gaussian", "function"):
        assert found[name]["randomisation_spearman"] == pytest.approx(1)
        assert found[name]["class_sensitivity"] == 0
    assert found["rollout"]["randomisation_spearman"] < 0.9
    assert found["saliency"]["randomisation_spearman"] < 0.9
    assert found["saliency"]["class_sensitivity"] > 0.05


def test_a_method_that_hides_its_model_is_not_called_independent_of_it(explainer):
    model = explainer.loaded.model
    hidden = {"captums": Saliency(lambda x: model(x)), "closure": lambda _, images, targets: model(images)[:, :, None]}
    for name, method in hidden.items():
        evaluator = Evaluator(explainer, open_data("sample:1"), {name: method}, [Sanity("randomisation")])
        with pytest.raises(RunError, match="keeps asking the model that it was made of"):
            evaluator.rehearse()
    assert not model._forward_pre_hooks


class Coldness(Metric):
    """A metric of somebody's own."""

    name, needs = "coldness", frozenset()
    figures: ClassVar = {"coldness": Figure(False, ("coldness",))}

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, case):
        return {"coldness": -self.scale * case.maps.double().mean((1, 2))}


def test_a_metric_of_ones_own(tmp_path, explainer):
    board = evaluate(Plan(data="sample:2", methods=["gaussian", "random"], metrics=[Coldness(2.0)]), tmp_path)
    assert list(board.figures) == ["coldness"]
    assert board.ranking("coldness")[0] == "random"
    with pytest.raises(OptionError, match="two metrics have a figure 'average_precision': evaluate them in two runs"):
        Evaluator(explainer, open_data("sample:1"), ["agcam"], [Localization(), Localization(threshold=0.3)])
    assert isinstance(named_metric("captum_vit.metrics:Sanity"), Sanity)
    with pytest.raises(OptionError, match=r"cannot import 'captum_vit\.metrics:Sense'"):
        named_metric("captum_vit.metrics:Sense")
    first, second = (Coldness(scale).describe() for scale in (1.0, 2.0))
    assert first != second
    assert METRICS["perturbation"]().describe() != METRICS["perturbation"]("rise").describe()


def test_what_never_works_is_known_before_the_run(tmp_path):
    def broken(model, images, targets):
        raise ZeroDivisionError("no map at all")

    with pytest.raises(RunError, match=r"'broken' fails on a grey image already.*ZeroDivisionError: no map at all"):
        evaluate(Plan(data="sample:2", methods=["agcam", broken]), tmp_path)
    assert not list(tmp_path.glob("rows-*"))


def test_what_fails_for_one_image_fails_for_it_alone(tmp_path):
    bright = Evaluator(Explainer("sample"), open_data("sample:3"), ["agcam"], [Localization()])

    def picky(model, images, targets):
        if any(torch.equal(image.cpu(), bright._see(2).inputs) for image in images):
            raise ValueError("not this one")
        return images.mean(1)

    board = evaluate(Plan(data="sample:3", methods=[picky], batch_size=4), tmp_path)
    assert board.errors == ["picky: ValueError: not this one"] * 2  # an image with two questions
    assert board.mean("picky", "iou").count == 4


def test_a_class_that_the_model_does_not_have(tmp_path):
    made.imagenet(tmp_path / "data", folders=True)  # its classes are up to 207, the sample's 8
    board = evaluate(Plan(data=f"imagenet:{tmp_path / 'data'}", methods=["agcam"]), tmp_path / "run")
    assert len(board.errors) == 2
    assert "out of range: 'sample' has 0 to 7" in board.errors[0]
    assert board.mean("agcam", "iou").count == 1


def test_a_method_that_changes_the_model_is_refused(tmp_path):
    def trainer(model, images, targets):
        with torch.no_grad():
            model.head.weight.mul_(0.5)
        return images.mean(1)

    def hooked(model, images, targets):
        model.register_forward_hook(lambda *_: None)
        return images.mean(1)

    for careless in (trainer, hooked):
        with pytest.raises(RunError, match=f"'{careless.__name__}' changes the model"):
            evaluate(Plan(data="sample:2", methods=[careless, "agcam"]), tmp_path / careless.__name__)


@pytest.mark.parametrize("column", ["item", "score", "iou"])
def test_a_metric_writes_no_column_that_is_taken(explainer, column):
    class Greedy(Coldness):
        def __call__(self, case):
            return {column: case.maps.double().mean((1, 2))}

    with pytest.raises(RunError, match=f"coldness gives a column '{column}', which the rows have already"):
        Evaluator(explainer, open_data("sample:1"), ["agcam"], [Localization(), Greedy()]).rehearse()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (lambda case: {"worse": case.targets.double()}, "coldness has figures of coldness, and does not give them"),
        (lambda case: {"coldness": case.maps.mean()}, r"coldness gives coldness of shape \(\) for 1 images"),
        (lambda case: {"coldness": case.maps[:, 0]}, r"coldness gives coldness of shape \(1, 8\) for 1 images"),
    ],
)
def test_a_metric_gives_what_it_says(explainer, found, message):
    class Odd(Coldness):
        def __call__(self, case):
            return found(case)

    with pytest.raises(RunError, match=message):
        Evaluator(explainer, open_data("sample:1"), ["agcam"], [Odd()]).rehearse()
    with pytest.raises(OptionError, match=r"'captum_vit\.metrics:blank' is no Metric, but function"):
        named_metric("captum_vit.metrics:blank")


def test_one_name_needs_no_list(tmp_path):
    board = evaluate(Plan(data="sample:1", methods="gaussian", metrics="localization"), tmp_path)
    assert board.methods == ["gaussian"]
    for plan in (Plan(methods=()), Plan(metrics=()), Plan(batch_size=0)):
        with pytest.raises(OptionError):
            plan.make()


def test_where_a_run_is_not_as_published(explainer):
    def notes(metric: Metric, target: str, explainer: Explainer = explainer) -> list[str]:
        return Evaluator(explainer, open_data("sample:1"), ["agcam"], [metric], target=target).notes

    assert notes(Localization("chefer"), "label") == ["localization:chefer is published with target predicted"]
    assert notes(Localization("chefer"), "predicted") == []
    assert notes(Perturbation("rise"), "label") == ["perturbation:rise is published with target predicted"]
    crop = Compose([Resize(64), CenterCrop(64), ToTensor(), Normalize((0.5,) * 3, (0.5,) * 3)])
    cropped = Explainer(build(), preprocess=crop)
    assert notes(Perturbation("agcam"), "label", cropped) == ["perturbation:agcam is published with preprocess squash"]
    assert notes(Localization(), "predicted", cropped) == []


def test_an_evaluator_at_hand_runs_as_a_plan_does(tmp_path, explainer):
    evaluator = Evaluator(explainer, open_data("sample:2"), ["agcam"], [Localization()])
    board = evaluate(evaluator, tmp_path / "a", limit=3)
    planned = evaluate(Plan(data="sample:2", methods=["agcam"], limit=3), tmp_path / "b")
    assert board.to_markdown() == planned.to_markdown()
    assert board.mean("agcam", "iou").count == 3
    assert np.isfinite(board.mean("agcam", "iou").value)


def test_all_items_are_asked_why_one_rather_than_the_other(explainer):
    data = open_data("sample:3")
    asked = Evaluator(explainer, data, ["agcam", "daam"], [Localization()], target="triangle/cross", keep_maps=True)
    assert asked.describe()["target"][0] == "triangle/cross"
    row = next(row for row in asked([1]) if row["method"] == "daam")
    assert row["target"] == 3  # what metrics ask about
    expected = explain(data[1].image, target=Contrast(3, 5), method="daam").maps[0, 0]
    assert_close(torch.from_numpy(row["map"]).float(), expected.flatten(), 1e-3)
    with pytest.raises(
        OptionError, match=r"target must be one of label, predicted, a contrast of two classes, or .*got '3'"
    ):
        Evaluator(explainer, data, ["agcam"], [Localization()], target="3")
    by_hand = Evaluator(explainer, data, ["random"], [Localization()], target=Contrast("triangle", "cross"))
    assert "random takes a class as target" in by_hand([0])[0]["error"]


def test_methods_that_read_runs_share_one_forward_and_one_backward():
    model = build()
    forwards, backwards = [], []
    model.patch_embed.register_forward_hook(lambda module, args, output: forwards.append(len(output)))
    explainer = Explainer(model, preprocess=PREPROCESSING, class_names=list(sample.CLASSES))
    evaluator = Evaluator(
        explainer, open_data("sample:4"), ["agcam", "daam", "gradient_rollout", "rollout"], [Localization()]
    )
    with pytest.MonkeyPatch.context() as patch:
        run_backward = torch.autograd.graph._engine_run_backward
        patch.setattr(
            torch.autograd, "_engine_run_backward", lambda *a, **k: backwards.append(1) or run_backward(*a, **k)
        )
        evaluator(range(4))
    assert forwards == [4]  # the replay of AGCAM runs without hooks of others
    assert len(backwards) == 2  # of all tokens once, and of the class token in the replay


class OfPatches(nn.Module):
    """The sample model, whose output has its token stream beside the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = build()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        tokens = self.vit.forward_features(x)
        return {"logits": self.vit.forward_head(tokens), "tokens": tokens}


def test_a_leaderboard_about_more_than_the_scores():
    def of_patches(output: dict[str, torch.Tensor]) -> torch.Tensor:
        return output["tokens"][:, 1:, 3].mean(1)

    model, data = OfPatches().eval(), open_data("sample:2")
    explainer = Explainer(model, preprocess=PREPROCESSING, class_names=list(sample.CLASSES))
    asked = Evaluator(explainer, data, ["agcam", "daam"], [Localization()], target=of_patches, keep_maps=True)
    for row in asked([0]):
        expected = explain(data[0].image, model, preprocess=PREPROCESSING, method=row["method"], target=of_patches)
        assert_close(torch.from_numpy(row["map"]).float(), expected.maps[0, 0].flatten(), 1e-2)
