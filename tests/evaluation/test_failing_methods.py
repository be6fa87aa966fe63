"""A method that fails loses its own rows alone; one that changes the model ends the run."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from captum_vit import DAAM, Explainer, sample
from captum_vit.adapters.sample_vit import PREPROCESSING, build
from captum_vit.data import open_data
from captum_vit.errors import RunError
from captum_vit.evaluation import Evaluator, Leaderboard, Plan, evaluate, read_rows
from captum_vit.evaluation.guarding import Guard, ModelChangedError
from captum_vit.evaluation.modelling import changes, checksum, restless, state
from captum_vit.metrics import Localization
from tests.cli.helpers import run

Method = Callable[..., Any]
DATA = "sample:4"  # eight items, two questions about each image


def broken(answer: Method) -> Method:
    """A method that works on a grey image, as the rehearsal has one, and does something else on real ones."""

    def flaky(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> Any:
        return answer(inputs) if inputs.std() > 1e-3 else inputs.mean(1)

    return flaky


def boom(inputs: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("boom")


ANSWERS: dict[str, tuple[Method, str]] = {
    "an exception": (boom, "RuntimeError: boom"),
    "nothing": (lambda inputs: None, r"OptionError: a method gives maps .*got NoneType"),
    "one dimension": (lambda inputs: inputs.mean((1, 2, 3)), r"OptionError: a method gives maps .*got \(1,\)"),
    "too many maps": (lambda inputs: torch.ones(len(inputs) + 1, 8, 8), r"for 1 images, got \(2, 8, 8\)"),
    "empty maps": (lambda inputs: torch.ones(len(inputs), 0, 8), r"got \(1, 1, 0, 8\)"),
    "complex numbers": (lambda inputs: torch.ones(len(inputs), 8, 8, dtype=torch.complex64), "of torch.complex64"),
    "NaN": (lambda inputs: inputs.mean(1) * torch.nan, "the map has 4096 of 4096 values that are NaN or infinite"),
    "one infinite value": (
        lambda inputs: inputs.mean(1).index_fill(1, torch.tensor([3]), torch.inf),
        "the map has 64 of 4096 values that are NaN or infinite",
    ),
    "memory": (lambda inputs: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")), "OutOfMemoryError"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_method_that_fails_everywhere_stands_on_the_board_with_its_reason(kind: str, tmp_path: Path):
    answer, reason = ANSWERS[kind]
    alone = evaluate(Plan(data=DATA, methods=("agcam",)), tmp_path / "alone")
    methods = {"bad": broken(answer), "agcam": "agcam"}
    board = evaluate(Plan(data=DATA, methods=methods), tmp_path / "run")
    assert board.methods == ["bad", "agcam"]
    assert str(board.mean("bad", "iou")) == "none"
    assert board.mean("agcam", "iou").value == pytest.approx(alone.mean("agcam", "iou").value, abs=1e-5)
    assert board.ranking("iou") == ["agcam", "bad"]
    [line] = board.to_markdown().splitlines()[5:]
    assert line.startswith("bad has no map of 8 of 8 items: ")
    assert re.search(reason, line)
    board.plot()
    assert Leaderboard.read(tmp_path / "run").failures() == board.failures()


def test_a_method_that_fails_for_some_items_keeps_the_others(tmp_path: Path):
    seen: list[float] = []

    def picky(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.extend(image.sum().item() for image in images if image.std() > 1e-3)
        if any(image.sum().item() == seen[0] for image in images if seen):
            raise ValueError("not this image")
        return images.mean(1)

    board = evaluate(Plan(data=DATA, methods={"agcam": "agcam", "picky": picky}, batch_size=8), tmp_path)
    assert board.errors == ["picky: ValueError: not this image"] * 2
    assert board.item_errors == []
    assert (board.mean("picky", "iou").count, board.mean("agcam", "iou").count) == (6, 8)
    assert board.failures() == ["picky has no map of 2 of 8 items: ValueError: not this image"]
    table = read_rows(tmp_path).to_pylist()
    assert [row["method"] for row in table] == ["agcam", "picky"] * 8
    failed = [row for row in table if row["error"]]
    assert {row["id"].split("/")[0] for row in failed} == {"scene-00000"}
    assert all(row["target"] is not None and row["iou"] is None for row in failed)


def test_a_reader_of_runs_that_fails_loses_its_own_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def maps(self: DAAM, run: Any, target: Any, **options: Any) -> torch.Tensor:
        raise RuntimeError("boom")

    evaluator = Plan(data=DATA, methods=("daam", "agcam")).make()
    whole = evaluator(range(8))
    monkeypatch.setattr(DAAM, "_maps", maps)
    rows = evaluator(range(8))
    assert [row["error"] for row in rows[::2]] == ["RuntimeError: boom"] * 8
    assert [row["iou"] for row in rows[1::2]] == pytest.approx([row["iou"] for row in whole[1::2]], abs=1e-5)


def test_integers_and_truths_are_maps(tmp_path: Path):
    methods = {
        "whole": lambda model, images, targets: (100 * images.mean(1)).long(),
        "either": lambda model, images, targets: images.mean(1) > 0,
    }
    board = evaluate(Plan(data="sample:2", methods=methods), tmp_path)
    assert board.failures() == []
    assert board.mean("either", "iou").count == 4


def test_the_command_line_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_failing.py").write_text(
        "def bad(model, images, targets):\n"
        "    if images.std() > 1e-3:\n        raise RuntimeError('boom')\n    return images.mean(1)\n"
    )
    monkeypatch.chdir(tmp_path)
    asked = ("evaluate", "--data", "sample:2", "--methods", "agcam,own_failing:bad", "--out", "run")
    found = run(*asked, code=1)
    assert "Failed: bad has no map of 4 of 4 items: RuntimeError: boom\n" in found.stderr
    assert found.stderr.count("RuntimeError: boom") == 1
    assert "\nbad     none " in found.stdout
    assert "\nagcam   0." in found.stdout


def _patched(model: Any) -> None:
    forward = model.head.forward
    model.head.forward = lambda x: 2 * forward(x)


def _of_another_class(model: Any) -> None:
    class Norm(nn.LayerNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model.norm.__class__ = Norm


def _exchanged(model: Any) -> None:
    """Two rows of a matrix: their sum stays."""
    weight = model.blocks[0].attn.qkv.weight.data
    weight[[0, 1]] = weight[[1, 0]].clone()


def _buffer(model: Any) -> None:
    model.register_buffer("another", torch.ones(2))


CARELESS: dict[str, tuple[Callable[[Any], object], str]] = {
    "data": (lambda model: model.head.weight.data.mul_(1.5), "head.weight values"),
    "one number": (lambda model: model.pos_embed.data[0, 3].fill_(0.125), "pos_embed values"),
    "exchanged numbers": (_exchanged, "blocks.0.attn.qkv.weight values"),
    "another tensor": (lambda model: setattr(model.head, "bias", nn.Parameter(torch.ones(8))), "head.bias"),
    "a buffer": (_buffer, "another"),
    "mode": (lambda model: model.blocks[1].train(), "blocks.1.training"),
    "requires_grad": (lambda model: model.norm.weight.requires_grad_(False), "norm.weight.requires_grad"),
    "fused": (lambda model: setattr(model.blocks[0].attn, "fused_attn", None), "blocks.0.attn.fused_attn"),
    "scale": (lambda model: setattr(model.blocks[0].attn, "scale", 0.5), "blocks.0.attn.scale"),
    "hook": (lambda model: model.head.register_forward_hook(lambda *_: None), "head._forward_hooks"),
    "hook before": (lambda model: model.head.register_forward_pre_hook(lambda *_: None), "head._forward_pre_hooks"),
    "hook backwards": (lambda model: model.head.register_full_backward_hook(lambda *_: None), "head._backward_hooks"),
    "hook on a tensor": (lambda model: model.head.weight.register_hook(lambda grad: grad), "head.weight.hooks"),
    "patched": (_patched, "head.forward"),
    "class": (_of_another_class, "norm class"),
    "module": (lambda model: setattr(model.blocks[0].mlp, "act", nn.ReLU()), "blocks.0.mlp.act"),
}


@pytest.mark.parametrize("change", CARELESS)
def test_a_change_of_the_model_is_seen_after_the_first_real_batch(change: str):
    alter, what = CARELESS[change]

    def careless(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if images.std() > 1e-3:  # the rehearsal's image is grey
            alter(model)
        return images.mean(1)

    explainer = Explainer(build(), preprocess=PREPROCESSING, class_names=sample.CLASSES)
    evaluator = Evaluator(explainer, open_data(DATA), {"agcam": "agcam", "careless": careless}, [Localization()])
    evaluator.rehearse()
    with pytest.raises(RunError, match=f"'careless' changes the model, and with it .* methods: .*{what}"):
        evaluator(range(8))


@pytest.mark.parametrize("change", ["fused", "hook", "requires_grad", "data"])
def test_a_change_in_a_later_batch_is_seen_too(change: str, tmp_path: Path):
    alter, what = CARELESS[change]
    asked = []

    def careless(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        asked.append(len(images))
        if len(asked) == 4:  # after the rehearsal and two batches
            alter(model)
        return images.mean(1)

    plan = Plan(data=DATA, methods={"agcam": "agcam", "careless": careless}, batch_size=2)
    with pytest.raises(RunError, match=f"one of the methods 'agcam', 'careless' or of the metrics changes .*{what}"):
        evaluate(plan, tmp_path)
    assert not list(tmp_path.glob("rows-*"))


def test_a_method_that_changes_the_model_and_then_fails_is_seen():
    def careless(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if images.std() > 1e-3:
            model.norm.eps = 1.0
            raise ValueError("too late")
        return images.mean(1)

    explainer = Explainer(build(), preprocess=PREPROCESSING, class_names=sample.CLASSES)
    evaluator = Evaluator(explainer, open_data(DATA), {"careless": careless}, [Localization()])
    with pytest.raises(ModelChangedError, match=r"norm\.eps"):
        evaluator(range(2))


class Counting(nn.Module):
    """A model that counts its calls and keeps a running mean, in a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = nn.Linear(2, 2), 0
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.mean.mul_(0.9).add_(x.mean(0))
        return self.inner(x)


def test_what_a_model_changes_by_itself_is_nobodys_fault():
    model, x = Counting(), torch.ones(3, 2)
    assert restless(model, lambda: model(x)) >= {"Counting.calls", "mean values"}
    guard = Guard(model, lambda: model(x))
    model(x)
    guard.check(["a"])
    model.inner.weight.data[0, 0] += 1
    with pytest.raises(ModelChangedError, match=r"'a' changes the model.*inner\.weight values"):
        guard.check(["a"], values=True)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(24.0).view(4, 6),
        torch.arange(10_000, dtype=torch.float16),
        torch.arange(64, dtype=torch.uint8).view(2, 4, 8),
        torch.arange(12, dtype=torch.float64).view(3, 4).t(),
        torch.view_as_complex(torch.arange(24.0).view(3, 4, 2)),
        torch.tensor([True, False, True, True]),
    ],
    ids=lambda tensor: str(tensor.dtype),
)
def test_a_checksum_sees_any_two_numbers_exchanged(tensor: torch.Tensor):
    before = checksum(tensor)
    assert before == checksum(tensor.clone())
    flat = tensor.clone().contiguous()
    numbers = flat.view(-1)
    for one, other in ((0, 1), (0, len(numbers) - 1), (1, len(numbers) // 2)):
        changed = numbers.clone()
        changed[one], changed[other] = numbers[other], numbers[one]
        if not torch.equal(changed, numbers):
            assert checksum(changed.view_as(flat)) != before


def test_a_state_of_odd_tensors():
    module = nn.Module()
    module.register_buffer("none", torch.zeros(0))
    module.register_buffer("scalar", torch.tensor(3.0))
    with torch.inference_mode():
        module.register_buffer("inference", torch.ones(2))
    before = state(module, values=True)
    assert changes(before, state(module, values=True)) == []
    module.scalar.data.fill_(4.0)
    assert changes(before, state(module, values=True)) == ["scalar values"]
