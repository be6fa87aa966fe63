"""Models that need more than an image: keyword arguments of their forward in `explain` and `inspect`."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from captum_vit import AGCAM, Explainer, explain, inspect
from captum_vit.errors import InputError
from captum_vit.explanation.arguments import of_each, together
from captum_vit.preprocessing import Preprocessing


class WithTable(nn.Module):
    """Weights the features of an image by a table beside it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vit, self.table, self.head = (
            timm.create_model("test_vit", num_classes=0),
            nn.Linear(5, 64),
            nn.Linear(64, 3),
        )
        self.eval()

    def forward(self, image: Tensor, table: Tensor, *, loud: bool = False) -> Tensor:
        assert len(table) == len(image)
        return self.head(self.vit(image) * self.table(table) * (2 if loud else 1))


def images(count: int) -> list[Tensor]:
    return list(torch.randn(count, 3, 160, 160, generator=torch.Generator().manual_seed(1)))


def table(rows: int) -> Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def model() -> WithTable:
    return WithTable()


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_each_image_has_its_own_row(model: WithTable, batch_size: int):
    ask = {"target": 1, "batch_size": batch_size}
    found = explain(images(5), model, **ask, forward_kwargs={"table": table(5)})
    for i, one in enumerate(found):
        expected = AGCAM(model).attribute(images(5)[i][None], 1, additional_forward_args=table(5)[i : i + 1])
        torch.testing.assert_close(one.maps, expected, rtol=1e-4, atol=1e-7)
    alone = explain(images(5)[3], model, target=1, forward_kwargs={"table": table(5)[3:4]})
    torch.testing.assert_close(alone.maps, found[3].maps, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(
        alone.maps, explain(images(5)[3], model, target=1, forward_kwargs={"table": table(1)}).maps
    )


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: the first row for all")
def test_rows_that_are_not_told_apart(model: WithTable, monkeypatch: pytest.MonkeyPatch):
    first = lambda given, count: [of_each(given, count)[0]] * count  # noqa: E731
    monkeypatch.setattr("captum_vit.explanation.explain.of_each", first)
    test_each_image_has_its_own_row(model, 2)


def test_one_row_for_all(model: WithTable):
    shared = explain(images(3), model, target=1, forward_kwargs={"table": table(1), "loud": True})
    each = explain(images(3), model, target=1, forward_kwargs={"table": table(1).expand(3, -1), "loud": True})
    for one, other in zip(shared, each, strict=True):
        torch.testing.assert_close(one.maps, other.maps)


def test_images_of_several_sizes_keep_their_rows():
    torch.manual_seed(0)
    model = WithTable()
    model.vit = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True).eval()
    several = [torch.randn(3, side, side) for side in (160, 96, 160, 96, 96)]
    found = explain(several, model, target=1, forward_kwargs={"table": table(5)})
    for i, one in enumerate(found):
        alone = explain(several[i], model, target=1, forward_kwargs={"table": table(5)[i : i + 1]})
        torch.testing.assert_close(one.maps, alone.maps, rtol=1e-4, atol=1e-7)


def test_an_explainer_takes_them_too(model: WithTable):
    found = Explainer(model)(images(1)[0], target=1, forward_kwargs={"table": table(1)})
    torch.testing.assert_close(
        found.maps, explain(images(1), model, target=1, forward_kwargs={"table": table(1)})[0].maps
    )


def test_what_is_missing_is_named(model: WithTable):
    message = r"missing a required argument: 'table', pass it by forward_kwargs=\{'table': ...\}"
    with pytest.raises(InputError, match=message):
        explain(images(1)[0], model, target=1)
    with pytest.raises(InputError, match=message):
        inspect(model)
    with pytest.raises(InputError, match=r"WithTable.forward: got an unexpected keyword argument 'tabel'"):
        explain(images(1)[0], model, target=1, forward_kwargs={"table": table(1), "tabel": 1})


@pytest.mark.parametrize(("rows", "count"), [(2, 1), (2, 3), (5, 4)])
def test_as_many_rows_as_images(model: WithTable, rows: int, count: int):
    with pytest.raises(InputError, match=rf"forward_kwargs\['table'\] is a tensor \({rows}, 5\): expected \(1, ...\)"):
        explain(images(count), model, target=1, forward_kwargs={"table": table(rows)})


def test_an_inspection(model: WithTable):
    view = inspect(model, forward_kwargs={"table": table(1)})
    assert len(view.layers) == 6
    assert view.measured


def test_types_and_devices_are_those_of_the_images():
    given: list[dict[str, Any]] = of_each({"x": torch.ones(2, 3, dtype=torch.float64), "mask": torch.ones(1, 3) > 0}, 2)
    call = together(given, torch.zeros(1, dtype=torch.float16))
    assert call["x"].dtype == torch.float16
    assert call["mask"].dtype == torch.bool
    assert call["mask"].shape == (2, 3)
    with pytest.raises(InputError, match="rows of one batch must have one shape"):
        together([{"x": torch.ones(1, 3)}, {"x": torch.ones(1, 4)}], torch.zeros(1))


def test_a_hugging_face_model_of_another_size():
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    model = ViTForImageClassification(ViTConfig(**small, image_size=32, patch_size=8)).eval()
    larger = ViTImageProcessor(size={"height": 48, "width": 48})
    found = explain(
        (torch.rand(60, 90, 3) * 255).byte().numpy(),
        model,
        preprocess=larger,
        forward_kwargs={"interpolate_pos_encoding": True},
    )
    assert found.grid == (6, 6)
    assert isinstance(Explainer(model, preprocess=larger).preprocess, Preprocessing)
