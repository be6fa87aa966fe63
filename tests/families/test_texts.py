"""Models that take a text beside images: what goes to them by name, and their maps against explicit attention."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from captum_vit import AGCAM, DAAM, RawAttention, adapt
from captum_vit.errors import InputError, UnsupportedModelError
from tests.families import stepwise
from tests.families.hf import SMALL, unfuse
from tests.helpers import assert_close, images, randomise, relative_error

WORDS = 50
BLIP_TEXT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "vocab_size": WORDS,
    "encoder_hidden_size": 24,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "sep_token_id": 3,
}
DECODER = {
    "d_model": 24,
    "decoder_layers": 2,
    "decoder_attention_heads": 3,
    "decoder_ffn_dim": 48,
    "vocab_size": WORDS,
    "cross_attention_hidden_size": 24,
    "is_decoder": True,
    "add_cross_attention": True,
}


def ids(seed: int = 0, length: int = 5) -> Tensor:
    return torch.randint(4, WORDS, (2, length), generator=torch.Generator().manual_seed(seed))


def blip(kind: str) -> nn.Module:
    config = transformers.BlipConfig(vision_config=SMALL, text_config=BLIP_TEXT)
    return randomise(getattr(transformers, kind)(config))


def clip() -> nn.Module:
    text = {**BLIP_TEXT, "max_position_embeddings": 8}
    return randomise(transformers.CLIPModel(transformers.CLIPConfig(vision_config=SMALL, text_config=text)))


def trocr() -> nn.Module:
    parts = transformers.ViTConfig(**SMALL), transformers.TrOCRConfig(**DECODER)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(*parts)
    return randomise(transformers.VisionEncoderDecoderModel(config=config))


@dataclass(frozen=True)
class Read:
    """A model with a text, which number of its output is explained, and what the text is called."""

    build: Callable[[], nn.Module]
    score: Callable[[Any], Tensor]
    text: str = "input_ids"


READ = {
    "BLIP writes": Read(lambda: blip("BlipForConditionalGeneration"), lambda output: output.logits[:, 2, 7]),
    "BLIP matches": Read(lambda: blip("BlipForImageTextRetrieval"), lambda output: output.itm_score[:, 1]),
    "TrOCR writes": Read(trocr, lambda output: output.logits[:, 2, 7], "decoder_input_ids"),
}


def explicit(read: Read, x: Tensor, text: Tensor, *, constant: bool) -> tuple[list, list]:
    """The steps of the image side, and the gradients of the score at them."""
    model = read.build().double()
    layers = adapt(model).attention_layers()
    unfuse(model)

    def called(pixels: Tensor) -> Any:
        return model(pixel_values=pixels, **{read.text: text})

    notebook = stepwise.Notebook(layers, {}, constant)
    score, steps = notebook.run(called, x, lambda output: read.score(output)[:, None], 0)
    assert list(steps) == list(layers)
    return list(steps.values()), stepwise.gradients(score, list(steps.values()))


@pytest.mark.parametrize("name", READ)
def test_the_image_side_is_explained_by_what_its_owner_says(name):
    read, x, text = READ[name], images().double(), ids()
    model = read.build().double()
    given = {"forward_kwargs": {read.text: text}}
    for method, theirs, constant in ((AGCAM, stepwise.agcam, True), (DAAM, stepwise.daam, False)):
        held, rows = explicit(read, x, text, constant=True)
        tokens = sorted({int(row) - 17 for _, grad in rows for row in grad.abs().sum((0, 1, 3)).nonzero()})
        steps, grads = (held, rows) if constant else explicit(read, x, text, constant=False)
        expected = theirs(steps, grads, tokens, 16).detach().view(2, 1, 4, 4)
        ours = method(model).attribute(x, read.score, **given)
        assert_close(ours, expected, 1e-6)
        other = method(model).attribute(x, read.score, forward_kwargs={read.text: ids(1)})
        assert relative_error(other, expected) > 1e-3, "the text was not looked at"
        twin = theirs(steps, grads, tokens[:1], 16).detach().view(2, 1, 4, 4)
        assert relative_error(twin, expected) > 1e-3


@pytest.mark.parametrize("name", READ)
def test_a_text_that_is_missing_is_named(name):
    read = READ[name]
    with pytest.raises(InputError, match=rf"{read.text}.* pass .*forward_kwargs={{'{read.text}': ..."):
        AGCAM(read.build()).attribute(images(), read.score)


def test_a_text_may_be_given_by_place_where_it_comes_first():
    read, x = READ["BLIP matches"], images()
    model = read.build()
    by_name = DAAM(model).attribute(x, read.score, forward_kwargs={"input_ids": ids()})
    assert torch.equal(DAAM(model).attribute(x, read.score, additional_forward_args=ids()), by_name)


def test_a_head_that_reads_all_patches_by_content_has_no_raw_attention():
    read = READ["BLIP matches"]
    with pytest.raises(UnsupportedModelError, match="the head weighs tokens by what they hold"):
        RawAttention(read.build()).attribute(images(), forward_kwargs={"input_ids": ids()}, output="itm_score")


def test_one_image_and_several_texts_are_compared_as_the_tower_alone():
    model, x = clip().double(), images(1).double()
    text = ids(length=6)
    text[:, -1] = 1
    embedded = model(input_ids=text, pixel_values=x).text_embeds[1]
    tower = model.vision_model

    def cosine(output: Any) -> Tensor:
        projected = model.visual_projection(output.pooler_output)
        return model.logit_scale.exp() * (projected / projected.norm(dim=-1, keepdim=True)) @ embedded

    expected = AGCAM(tower).attribute(x, cosine)
    ours = AGCAM(model).attribute(x, 1, forward_kwargs={"input_ids": text}, output="logits_per_image")
    assert_close(ours, expected, 1e-6)
