"""Words of open_clip's other text towers: with a class token, of transformers, read at the first token."""

import pytest
import torch
from torch import Tensor

from captum_vit import AGCAM, adapt
from captum_vit.attr.of_text import token_shares
from captum_vit.errors import UnsupportedModelError
from captum_vit.targets import Embedding, Text
from tests.families.text_towers import custom, hugging, m2m, mt5, towers
from tests.families.two_towers import FORMULAS
from tests.helpers import assert_close, images, relative_error

pytest.importorskip("open_clip")
TOWERS = towers()
IDS = torch.tensor([[3, 8, 14, 12, 17, 8, 2]])


def feature() -> Tensor:
    return torch.randn(16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("kind", TOWERS)
def test_tokens_have_what_the_tower_written_out_says(kind, name):
    model, ids, written, own, twin = TOWERS[kind]
    (formula, rules), image = FORMULAS[name], feature()
    ours = token_shares(model, Text(ids=ids), image, name)
    assert_close(ours, formula(written(model, ids, *own, rules), image)[: len(ids)], 1e-6)
    other = formula(written(model, ids, *twin, rules), image)[: len(ids)]
    assert relative_error(ours, other) > 1e-3, "the mask, or the token that is read, is no matter"


@pytest.mark.parametrize("kind", TOWERS)
def test_the_tower_written_out_gives_the_models_own_feature_and_map(kind):
    model, ids, written, own, _ = TOWERS[kind]
    theirs = model.encode_text(ids[None], normalize=True)[0].detach()
    embedded = written(model, ids, *own).run()[1].detach()
    assert_close(torch.nn.functional.normalize(embedded, dim=0), theirs, 1e-9)
    x = images(1).double()
    ours = AGCAM(model).attribute(x, Text(ids=ids))
    assert_close(ours, AGCAM(model.visual).attribute(x, Embedding(embedded)), 1e-6)
    assert relative_error(ours, AGCAM(model).attribute(x, Text(ids=ids.flip(0)))) > 1e-3


def test_what_fills_up_is_told_by_the_models_own_number():
    for kind, padding in (("CoCa", 5), ("mean", 3), ("pooler", 5)):
        model, ids, *_ = TOWERS[kind]
        tokens = adapt(model).tokens(Text(ids=ids))
        assert tokens.kinds == ("start", *["word"] * 5, "end", *["padding"] * padding)


def test_what_fills_up_a_tower_that_is_read_at_its_last_token_is_no_word():
    words = adapt(custom(pool_type="last", no_causal_mask=True))
    for ids in ([7, 8, 9, 1, 0, 0], [7, 8, 9, 1, 1, 1]):
        assert words.tokens(Text(ids=torch.tensor(ids))).kinds == (*["word"] * 3, "end", "padding", "padding")


@pytest.mark.parametrize("build", [mt5, m2m])
def test_encoders_of_models_with_a_decoder_are_followed(build, tmp_path):
    """Against the attention weights that transformers itself gives out, which are a part of the graph."""
    model, image = build(tmp_path), feature()
    tower = model.text
    tower.transformer.set_attn_implementation("eager")  # whose softmax may be in float32
    output = tower.transformer(IDS, attention_mask=torch.ones_like(IDS), output_attentions=True)
    pooled = tower.proj(tower.pooler(output, torch.ones_like(IDS)))[0]
    grads = torch.autograd.grad(torch.cosine_similarity(pooled, image, 0), output.attentions)
    whole = torch.eye(IDS.shape[1], dtype=torch.float64)
    for a, g in zip(output.attentions, grads, strict=True):
        whole = whole + (a * g)[0].relu().mean(0) @ whole
    ours = token_shares(model, Text(ids=IDS), image)
    mean, first = whole.mean(0).detach(), whole[0].detach()
    right, wrong = (mean, first) if build is mt5 else (first, mean)
    assert_close(ours, right, 1e-5)
    assert relative_error(ours, wrong) > 1e-3
    assert adapt(model).kinds(IDS)[0] == ("word" if build is mt5 else "start")


def test_as_many_tokens_are_taken_as_there_are_places(tmp_path):
    assert adapt(hugging("xlm-roberta", "mean_pooler")).longest == 18, "two of twenty stand before the first"
    assert adapt(hugging("bert", "cls_pooler")).longest == 20
    assert adapt(mt5(tmp_path)).longest > 1000, "T5 has no places"


def test_towers_whose_readout_is_of_no_token_are_refused():
    whole, greatest = custom(pool_type="none"), hugging("bert", "max_pooler")
    for model, message in ((whole, "text tower TextTransformer: .* one of first, last"), (greatest, "MaxPooler")):
        with pytest.raises(UnsupportedModelError, match=message):
            token_shares(model, Text(ids=IDS), feature())
