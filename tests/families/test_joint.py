"""Words and patches in one sequence, whose patches come in a random order; and videos whose frames come last."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_vit import AGCAM, CPLRP, DAAM, AttentionRollout, LibraGrad, RawAttention, adapt
from captum_vit.capture import Inputs, Run
from captum_vit.errors import InputError, TokenLayoutError, UnsupportedModelError
from captum_vit.targets import Classes
from tests.families import stepwise
from tests.families.hf import small
from tests.families.masked import keys_masked
from tests.helpers import assert_close, explain, images, relative_error

WORDS, TEXT = 6, {"vocab_size": 50, "max_position_embeddings": 20}
SIZE, GRID = (32, 48), (4, 6)
vilt = small("ViltForQuestionAnswering", "ViltConfig", **TEXT)


def ids() -> Tensor:
    return torch.randint(3, 50, (2, WORDS), generator=torch.Generator().manual_seed(0))


def with_order(model: Any) -> list[Tensor]:
    """Notes which patch (row, column) each token is, (B, patches, 2), as the model itself says."""
    embed, found = model.vilt.embeddings.visual_embed, []

    def visual_embed(*args: Any, **kwargs: Any) -> Any:
        out = embed(*args, **kwargs)
        found.append(out[2][0])
        return out

    model.vilt.embeddings.visual_embed = visual_embed
    return found


@pytest.mark.parametrize(("method", "theirs"), [(AGCAM, stepwise.agcam), (DAAM, stepwise.daam)])
def test_patches_beside_words_are_explained_in_the_order_of_the_image(method, theirs):
    torch.manual_seed(1)
    model, x = vilt().double(), images(2, SIZE).double()
    ours = method(model).attribute(x, 1, forward_kwargs={"input_ids": ids()})
    assert ours.shape == (2, 1, *GRID)
    layers = adapt(model).attention_layers()
    order = with_order(model)
    notebook = stepwise.Notebook(layers, {}, method is AGCAM)
    score, steps = notebook.run(
        lambda pixels: model(input_ids=ids(), pixel_values=pixels), x, lambda output: output.logits, 1
    )
    found = list(steps.values())
    maps = theirs(found, stepwise.gradients(score, found), [0], 24).detach()
    rows, cols = order[0].unbind(-1)
    places = rows * GRID[1] + cols
    assert not torch.equal(places, places.sort(1).values), "the order was not random"
    assert_close(ours.flatten(1), torch.zeros_like(maps).scatter(1, places, maps), 1e-6)
    assert relative_error(ours.flatten(1), maps) > 1e-2, "as a map in the order of the tokens would be"


@pytest.mark.parametrize("method", [AttentionRollout, RawAttention])
def test_methods_without_gradients_take_words_for_prefix_tokens(method):
    x = images(2, SIZE)
    first, again = (method(vilt()).attribute(x, forward_kwargs={"input_ids": ids()}) for _ in range(2))
    assert torch.equal(first, again)
    alone = torch.cat([method(vilt()).attribute(x[i : i + 1], None, ids()[i : i + 1]) for i in range(2)])
    assert_close(alone, first)


def test_what_draws_patches_at_random_is_refused():
    mask = torch.ones(2, *SIZE, dtype=torch.long)
    mask[1, :, 40:] = 0
    with pytest.raises(InputError, match="draws patches at random to fill up padded images"):
        AGCAM(vilt()).attribute(images(2, SIZE), 1, forward_kwargs={"input_ids": ids(), "pixel_mask": mask})
    some = small("ViltForQuestionAnswering", "ViltConfig", **TEXT, max_image_length=20)()
    with pytest.raises(TokenLayoutError, match="takes at most 20 patches, drawn at random, of the 24"):
        AGCAM(some).attribute(images(2, SIZE), 1, forward_kwargs={"input_ids": ids()})
    with pytest.raises(InputError, match="takes input_ids beside images: pass forward_kwargs"):
        AGCAM(vilt()).attribute(images(2, SIZE), 1)
    pairs = small(
        "ViltForImagesAndTextClassification", "ViltConfig", **TEXT, modality_type_vocab_size=3, num_images=2
    )()
    with pytest.raises(UnsupportedModelError, match="runs its ViT once for each of several images beside a text"):
        AGCAM(pairs)


def timesformer(kind: str) -> nn.Module:
    return small("TimesformerForVideoClassification", "TimesformerConfig", num_frames=3, attention_type=kind)()


@pytest.mark.parametrize(("method", "theirs"), [(AGCAM, stepwise.agcam), (DAAM, stepwise.daam)])
def test_a_video_whose_attention_is_joint(method, theirs):
    model = timesformer("joint_space_time").double()
    x = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = method(model).attribute(x, 1)
    layers = adapt(model).attention_layers()
    score, steps = stepwise.Notebook(layers, {}, method is AGCAM).run(model, x, lambda output: output.logits, 1)
    found = list(steps.values())
    maps = theirs(found, stepwise.gradients(score, found), [-49], 48).detach()
    expected = maps.view(2, 1, 4, 4, 3).permute(0, 1, 4, 2, 3)  # frames stand last among the tokens
    assert_close(ours, expected, 1e-6)
    assert relative_error(ours, maps.view(2, 1, 3, 4, 4)) > 1e-2
    rolled = explain(AttentionRollout(model), x)
    assert rolled.shape == (2, 1, 3, 4, 4)
    with pytest.raises(TokenLayoutError, match=r"takes videos of 3x32x32 .* got 2x32x32"):
        method(model).attribute(x[:, :2], 1)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("divided_space_time", "through time and within each frame, apart"), ("space_only", "scores for each frame")],
)
def test_frames_apart_have_no_map_of_the_video(kind, reason):
    with pytest.raises(UnsupportedModelError, match=f"attention_type='{kind}' is not supported: .*{reason}"):
        AGCAM(timesformer(kind))


def without_constants(model: nn.Module) -> nn.Module:
    """All that adds to the score besides the pixels is zero."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("bias", "cls_token", "position_embeddings", "time_embeddings")):
                weight.zero_()
    return model


@pytest.mark.parametrize("method", [CPLRP, LibraGrad])
def test_pixels_of_a_video_whose_frames_are_apart_conserve_the_score(method):
    model = without_constants(timesformer("divided_space_time").double())
    x = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    evidence = method(model).attribute(x, 1, output_shape="input")
    assert evidence.shape == x.shape
    score = model(x).logits[:, 1]
    assert_close(evidence.flatten(1).sum(1), score.detach(), 1e-6)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).logits[:, 1].sum(), leaf)
    assert relative_error((gradient * x).flatten(1).sum(1), score.detach()) > 0.1, "plain gradients would have passed"
    later = x.clone()
    later[:, 2] = 0  # a frame without pixels has no share
    assert method(model).attribute(later, 1, output_shape="input")[:, 2].abs().max() == 0
    with pytest.raises(UnsupportedModelError, match="2 images come in, and 6 go through"):
        method(model).attribute(x, 1)


def test_scores_of_single_frames_are_not_those_of_a_video():
    model, x = timesformer("space_only"), torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UnsupportedModelError, match="gives 6 rows of scores for 2 in the batch"):
        CPLRP(model).attribute(x, 1, output_shape="input")


def test_patches_beside_words_are_left_out():
    """Each image with its own words; which patch a token is, stands in the order that the model draws."""
    model, x = vilt().double(), images(2, SIZE).double()
    kept = torch.rand(2, 24, generator=torch.Generator().manual_seed(0)) > 0.5
    run = Run(adapt(model), Inputs(x, kwargs={"input_ids": ids()}))
    found, order = run.on_tokens(kept, Classes(1)), with_order(model)
    for image, choice in product(range(2), range(2)):
        one = {"pixel_values": x[image : image + 1], "input_ids": ids()[image : image + 1]}
        torch.manual_seed(1)
        with torch.no_grad():
            model(**one)  # for the order that is drawn
            rows, cols = order[-1][0].unbind(-1)
            seen = torch.cat([torch.ones(WORDS + 1, dtype=torch.bool), kept[choice][rows * GRID[1] + cols]])
            torch.manual_seed(1)
            with keys_masked({len(seen): seen}):
                expected = model(**one).logits[:, 1]
        assert_close(found[image, choice][None], expected, 1e-6)
