"""Models of images and texts: texts as targets, and their words, against the text tower written out."""

import pytest
import torch
import transformers
from torch import Tensor

from captum_vit import AGCAM, GradECLIP, adapt
from captum_vit.attr import METHODS
from captum_vit.attr.of_text import token_shares
from captum_vit.errors import InputError, OptionError, TargetError
from captum_vit.targets import Contrast, Embedding, Text
from tests.families import two_towers
from tests.families.two_towers import BOS, EOS, FORMULAS, Written, clip, open_clip_of, siglip, siglip2, tokenizer
from tests.helpers import assert_close, hf_vit, images, relative_error

CLIP_IDS = torch.tensor([BOS, 8, 14, 12, 17, 8, EOS, EOS])  # "a cat, sof-a", and one that fills up
SIGLIP_IDS = torch.tensor([8, 14, 12, 17, 1, 1, 1, 1, 1, 1, 1, 1])
MODELS = {
    "CLIP": (clip, CLIP_IDS, True, 6),
    "SigLIP": (siglip, SIGLIP_IDS, False, 11),
    "SigLIP 2 of any shape": (siglip2, SIGLIP_IDS, False, 11),
}


def feature(width: int, seed: int = 3) -> Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def width_of(model) -> int:
    return 16 if hasattr(model, "text_projection") else 24


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("kind", MODELS)
def test_tokens_have_what_the_tower_written_out_says(kind, name):
    build, ids, causal, row = MODELS[kind]
    model, (formula, rules) = build(), FORMULAS[name]
    image = feature(width_of(model))
    ours = token_shares(model, Text(ids=ids), image, name)
    assert_close(ours, formula(Written(model, ids, causal, row, rules), image), 1e-6)
    for twin in (Written(model, ids, not causal, row, rules), Written(model, ids, causal, row - 1, rules)):
        assert relative_error(ours, formula(twin, image)) > 1e-3, "the mask, or the token that is read, is no matter"


def test_all_methods_that_say_something_of_words_are_held_against_it():
    assert {name for name, method in METHODS.items() if method.of_words} == set(FORMULAS)


@pytest.mark.parametrize("name", FORMULAS)
def test_what_comes_after_the_end_has_nothing(name):
    ours = token_shares(clip(), Text(ids=CLIP_IDS), feature(16), name)
    assert (ours[7:] == 0).all()
    assert ours[:6].abs().max() > 0


@pytest.mark.parametrize("name", FORMULAS)
def test_masks_of_every_form_are_kept(name):
    """A causal kernel, a boolean mask, and an additive one under a softmax written out: the same shares."""
    model, image, mask = clip(), feature(16), (torch.arange(8) < 7).long()
    plain = token_shares(model, Text(ids=CLIP_IDS), image, name)
    assert_close(token_shares(model, Text(ids=CLIP_IDS, mask=mask), image, name), plain, 1e-9)
    model.text_model.config._attn_implementation_internal = "eager"  # whose softmax is in float32
    assert_close(token_shares(model, Text(ids=CLIP_IDS, mask=mask), image, name), plain, 1e-5)


@pytest.mark.parametrize("name", FORMULAS)
def test_open_clip_says_the_same_on_the_same_weights(name):
    pytest.importorskip("open_clip")
    model, image, x = clip(), feature(16), images().double()
    other = open_clip_of(model)
    padded = Text(ids=torch.cat([CLIP_IDS[:7], torch.zeros(5, dtype=torch.long)]))
    filled = Text(ids=torch.cat([CLIP_IDS, torch.full((4,), EOS)]))  # LeGrad's mean is over all tokens
    theirs = token_shares(other, padded, image, name)
    assert_close(theirs, token_shares(model, filled, image, name), 1e-6)
    assert (theirs[7:] == 0).all()
    method, options = METHODS[name], {"pooling": "readout"} if name == "legrad" else {}
    on_images = method(model).attribute(x, Text(ids=CLIP_IDS), **options)
    assert_close(method(other).attribute(x, padded, **options), on_images, 1e-6)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("method", [AGCAM, GradECLIP])
def test_the_map_of_a_text_is_that_of_its_feature_on_the_tower_alone(kind, method):
    build, ids, causal, row = MODELS[kind]
    model, x = build(), images().double()
    embedded = Written(model, ids, causal, row).run()[1].detach()
    theirs = model.get_text_features(ids[None]).pooler_output[0]
    assert_close(embedded, theirs.detach(), 1e-9)
    tower, project = model.vision_model, getattr(model, "visual_projection", torch.nn.Identity())

    def cosine(output):
        return torch.nn.functional.cosine_similarity(project(output.pooler_output), embedded[None])

    ours = method(model).attribute(x, Text(ids=ids))
    assert_close(ours, method(tower).attribute(x, cosine), 1e-6)
    assert_close(ours, method(model).attribute(x, Embedding(embedded)), 1e-9)
    other = method(model).attribute(x, Text(ids=ids.roll(1) if kind != "CLIP" else ids[[0, 2, 1, 3, 4, 5, 6]]))
    assert relative_error(ours, other) > 1e-3, "any text would do"


def test_two_texts_can_be_held_against_each_other():
    model, x = clip(), images().double()
    a, b = Text(ids=CLIP_IDS), Text(ids=CLIP_IDS[[0, 2, 1, 6]])
    one, other = (model.get_text_features(t.ids[None]).pooler_output[0].detach() for t in (a, b))
    ours = AGCAM(model).attribute(x, Contrast(a, b))
    assert_close(ours, AGCAM(model).attribute(x, Contrast(Embedding(one), Embedding(other))), 1e-9)
    assert Contrast(a, b).unit == "cosine difference"
    assert Contrast(1, 2).unit == "logit difference"


def test_an_old_configuration_reads_the_greatest_id():
    model = clip(eos_token_id=2)
    assert adapt(model).row(torch.tensor([[BOS, 2, 5, EOS, EOS]])) == 3


@pytest.mark.parametrize("given", [tokenizer(), None], ids=["told", "aligned"])
def test_tokens_are_put_together_to_words(given, monkeypatch):
    """Also where a tokenizer does not tell where they stand; what begins and ends the text is no word."""
    ours = given or tokenizer()
    if given is None:
        monkeypatch.setattr(type(ours), "is_fast", False)
    tokens = adapt(clip()).tokens(Text("A Cat,  on a sofa"), ours)
    values = [float(2**i) for i in range(len(tokens.kinds))]
    assert tokens.words == ("A", "Cat,", "on", "a", "sofa")
    assert tokens.kinds == ("start", *["word"] * 8, "end")
    assert tokens.summed(values) == [2.0, 4.0 + 8.0, 16.0 + 32.0, 64.0, 128.0 + 256.0]
    assert tokens.apart(values) == {"start": 1.0, "end": 512.0}
    assert sum(tokens.summed(values)) + sum(tokens.apart(values).values()) == sum(values), "a token is lost"
    assert tokens.without(1) == "A on a sofa"


def test_a_text_that_fills_up_all_there_is_has_no_end():
    model = siglip()
    tokens = adapt(model).tokens(Text(ids=torch.tensor([8, 14] * 6)))
    assert tokens.kinds == ("word",) * 12
    assert adapt(model).tokens(Text(ids=SIGLIP_IDS)).kinds == ("word",) * 4 + ("end",) + ("padding",) * 7


FILLED = {  # W: of a word, E: ends, P: fills up
    "SigLIP": ([7, 8, 9, 1, 1, 1], "WWWEPP"),
    "SigLIP 2": ([7, 8, 9, 1, 0, 0, 0], "WWWEPPP"),
    "SigLIP 2, one place left": ([7, 8, 9, 9, 1, 0], "WWWWEP"),
    "SigLIP 2, before the text": ([0, 0, 7, 8, 9, 1], "PPWWWE"),
    "before a text without an end": ([0, 0, 7, 8, 9], "PPWWW"),
    "no end and no place": ([7, 8, 9, 9], "WWWW"),
}


@pytest.mark.parametrize(("ids", "kinds"), FILLED.values(), ids=FILLED)
def test_what_fills_up_a_text_is_no_word_whatever_the_configuration_says(ids, kinds):
    told = tuple({"W": "word", "E": "end", "P": "padding"}[letter] for letter in kinds)
    for settings in ({}, {"pad_token_id": None}, {"eos_token_id": 21}, {"pad_token_id": 0}):
        model = siglip2()
        model.config.text_config.update(settings)
        tokens = adapt(model).tokens(Text(ids=torch.tensor(ids)))
        assert tokens.kinds == told
        shorter = next(tokens.shorter())[0][0].tolist()
        assert adapt(model).tokens(Text(ids=torch.tensor(shorter))).kinds.count("word") == kinds.count("W") - 1
        assert len(shorter) == len(ids) - (kinds[0] == kinds[-1] == "W")
        assert shorter[-1] == ids[-1], "the token that is read is another"


def test_words_have_their_own_tokens_where_a_tokenizer_fills_up_before_the_text():
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *"acdot\u2581", "ca", "cat", "do"]
    made = {"vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": [("c", "a"), ("ca", "t"), ("d", "o")]}
    for side in ("left", "right"):
        ours = transformers.Siglip2Tokenizer(**made, padding_side=side)
        tokens = adapt(siglip2()).tokens(Text("a cat do"), ours)
        own = {name: tokens.ids[0].eq(pieces.index(name)).double().tolist() for name in ("cat", "do", "<pad>")}
        assert tokens.summed(own["cat"]) == [0, 1, 0]
        assert tokens.summed(own["do"]) == [0, 0, 1]
        assert tokens.summed(own["<pad>"]) == [0, 0, 0]
        assert tokens.apart(own["<pad>"]) == {"padding": 7.0}
        assert tokens.ids[0, -1] == (pieces.index("do") if side == "left" else 0)


REFUSED = {
    "too long": (clip, Text("a cat on a sofa a cat on a sofa"), r"16 tokens, .* CLIPModel takes 12: 4 too many"),
    "too many ids": (clip, Text(ids=torch.full((13,), EOS)), "13 tokens, .* takes 12: 1 too many"),
    "nothing left": (clip, Text(ids=torch.tensor([BOS, EOS])), "nothing is left of"),
    "no end": (clip, Text(ids=torch.tensor([BOS, 5, 6])), "must hold 21, the end of a text"),
    "no tower": (hf_vit, Text("a cat"), "has no text tower: pass the whole model"),
}


@pytest.mark.parametrize(("build", "text", "message"), REFUSED.values(), ids=REFUSED)
def test_a_text_that_cannot_be_taken_is_refused(build, text, message):
    model = build()
    given = Text(text.sentence, ids=text.ids, tokenizer=tokenizer() if text.ids is None else None)
    with pytest.raises(TargetError, match=message):
        AGCAM(model).attribute(images().to(next(model.parameters()).dtype), given)


def test_a_tokenizer_that_is_not_known_is_asked_for():
    with pytest.raises(TargetError, match=r"the tokenizer of CLIPModel is not known: .*tokenizer=\.\.\."):
        AGCAM(clip()).attribute(images().double(), Text("a cat"))
    with pytest.raises(TargetError, match="dict is no tokenizer that is known"):
        AGCAM(clip()).attribute(images().double(), Text("a cat", tokenizer={}))


@pytest.mark.parametrize("wrong", [{}, {"sentence": " "}, {"sentence": 3}, {"sentence": "a", "ids": CLIP_IDS}])
def test_what_is_no_text_is_refused(wrong):
    with pytest.raises(TargetError):
        Text(**wrong)
    for ids in (CLIP_IDS.float(), CLIP_IDS.reshape(2, 4), [1, 2]):
        with pytest.raises(TargetError, match="ids"):
            Text(ids=ids)


def test_other_methods_say_nothing_of_words():
    with pytest.raises(OptionError, match="rollout says nothing of words: of a text it is agcam"):
        token_shares(clip(), Text(ids=CLIP_IDS), feature(16), "rollout")
    with pytest.raises(InputError, match="has 24 numbers, and the text's 16"):
        token_shares(clip(), Text(ids=CLIP_IDS), feature(24))


def test_classes_of_texts_that_are_not_there_are_refused():
    """The text that only stands beside the images is never explained."""
    model, x = clip(), images().double()
    with pytest.raises(InputError, match="takes input_ids beside images, and its scores are of these texts"):
        AGCAM(model).attribute(x, 0)
    with pytest.raises(InputError, match="takes input_ids beside images"):
        AGCAM(model).attribute(x, lambda output: output.logits_per_image[:, 0])
    with pytest.raises(InputError, match="takes input_ids beside images"):
        AGCAM(model).attribute_classes(x[:1])


def test_the_formulas_are_of_this_tower():
    """The tower written out gives the model's own feature."""
    for build, ids, causal, row in MODELS.values():
        model = build()
        own = model.get_text_features(ids[None]).pooler_output[0].detach()
        assert_close(two_towers.Written(model, ids, causal, row).run()[1].detach(), own, 1e-9)
