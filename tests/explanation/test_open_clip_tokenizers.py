"""open_clip's wrapper around a tokenizer of transformers: the ids that it gives, and which word each belongs to."""

from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from captum_vit import adapt
from captum_vit.adapters.tokenizers import encode
from captum_vit.errors import TargetError
from captum_vit.targets import Text
from captum_vit.tokenizing import Tokens, aligned, places_of
from tests.families.text_towers import hugging

pytest.importorskip("open_clip")
PIECES = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[BOS]", "[EOS]", "a", "cat", "on", "so", "##fa", ",", "é", "&", "the"]
OPTIONS: dict[str, dict[str, Any]] = {
    "whitespace": {},
    "lower": {"clean": "lower"},
    "canonical, no separator": {"clean": "canonicalize", "strip_sep_token": True},
    "clips": {"tokenizer_mode": "clips"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    model = tokenizers.models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]")
    inner = tokenizers.Tokenizer(model)
    inner.normalizer = tokenizers.normalizers.BertNormalizer(strip_accents=False)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        "[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)]
    )
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        bos_token="[BOS]",
        eos_token="[EOS]",
    )
    found = tmp_path_factory.mktemp("tokenizer")
    made.save_pretrained(found)
    return found


def wrapped(folder: Path, **options: Any) -> Any:
    from open_clip.tokenizer import HFTokenizer

    return HFTokenizer(str(folder), context_length=12, **options)


def words_of(sentence: str, found: Any) -> dict[str, list[int]]:
    """Of each word the ids of its tokens."""
    own = [i for i, kind in enumerate(found.kinds) if kind == "word"]
    spans = [found.spans[i] for i in own] if found.spans else aligned(sentence, [found.pieces[i] for i in own])
    tokens: dict[str, list[int]] = {}
    for place, i in zip(places_of(sentence, spans), own, strict=True):
        tokens.setdefault(sentence.split()[place], []).append(found.ids[i])
    return tokens


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("sentence", ["A cat,  on a sofa", "the café"])
def test_the_ids_are_the_wrappers_own_and_words_are_whole(folder, options, sentence):
    tokenizer = wrapped(folder, **options)
    found = encode(tokenizer, sentence, padded_to=12)
    assert found.ids == tokenizer([sentence])[0].tolist()
    assert len(found.kinds) == 12
    kinds = list(found.kinds)
    count, clips = kinds.count("word"), "tokenizer_mode" in options
    assert kinds == ["start", *["word"] * count, "end", *["padding"] * (10 - count - clips), *["end"] * clips]
    told = words_of(sentence, found)
    if sentence.startswith("the"):
        assert told == {"the": [14], "café": [3]}
        return
    comma = [] if options.get("clean") == "canonicalize" else [11]
    assert told == {"A": [6], "cat,": [7, *comma], "on": [8], "a": [6], "sofa": [9, 10]}


@pytest.mark.parametrize("sentence", ["a cat on a sofa", "A cat,  on a sofa"])
def test_what_fills_up_before_the_text_is_no_word(folder, sentence):
    tokenizer = wrapped(folder, padding_side="left")
    found = encode(tokenizer, sentence, padded_to=12)
    assert found.ids == tokenizer([sentence])[0].tolist()
    count = found.kinds.count("word")
    assert found.kinds == ["padding"] * (10 - count) + ["start", *["word"] * count, "end"]
    assert words_of(sentence, found)["sofa"] == [9, 10]


def test_a_text_of_any_length_is_told_whole(folder):
    """The wrapper would cut it: that is refused, and says by how much it is too long."""
    long = "a cat on the sofa " * 4
    for options in OPTIONS.values():
        found = encode(wrapped(folder, **options), long, padded_to=12)
        assert len(found.ids) == 24 + 2 + ("tokenizer_mode" in options)
        assert "padding" not in found.kinds
    model = hugging("bert", "cls_pooler")
    with pytest.raises(TargetError, match=r"26 tokens, .* takes 20: 6 too many"):
        adapt(model).tokens(Text(long), wrapped(folder))


def test_a_tower_with_a_mask_of_its_own_is_given_no_padding(folder):
    tokens: Tokens = adapt(hugging("bert", "cls_pooler")).tokens(Text("a cat on a sofa"), wrapped(folder))
    assert tokens.kinds == ("start", *["word"] * 6, "end")
    assert tokens.summed([1.0] * 8) == [1.0, 1.0, 1.0, 1.0, 2.0]
