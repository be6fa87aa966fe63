"""What tokenizers of transformers and of open_clip make of a sentence."""

from typing import Any, TypeVar

from captum_vit.access.two_towers import Encoded
from captum_vit.errors import TargetError, reason
from captum_vit.tokenizing import END, PADDING, START, WORD, Span

T = TypeVar("T")
ENOUGH = 1 << 12  # tokens: of a text tower that takes any number of them


def encode(tokenizer: Any, sentence: str, *, padded_to: int | None) -> Encoded:
    """The tokens of a sentence.

    Args:
        tokenizer: of transformers or open_clip, or a processor with one inside.
        sentence: the text.
        padded_to: up to which length it is filled up; None for not at all.
    Raises:
        TargetError: it is none of these, or fails.
    """
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer) if hasattr(tokenizer, "image_processor") else tokenizer
    name = type(tokenizer).__name__
    try:
        if hasattr(tokenizer, "convert_ids_to_tokens"):
            return _of_transformers(tokenizer, sentence, padded_to)
        if hasattr(getattr(tokenizer, "tokenizer", None), "convert_ids_to_tokens"):
            return _of_open_clip_around(tokenizer, sentence, padded_to)
        if hasattr(tokenizer, "byte_decoder"):
            return _of_open_clip(tokenizer, sentence, padded_to)
    except Exception as error:  # of anybody's tokenizer
        raise TargetError(f"the tokenizer {name} fails on {sentence!r}: {reason(error)}") from error
    raise TargetError(f"{name} is no tokenizer that is known: pass one of transformers or open_clip, or Text(ids=...)")


def _of_transformers(tokenizer: Any, sentence: str, padded_to: int | None) -> Encoded:
    ids, kinds, spans = _plain(tokenizer, sentence)
    used = len(ids)
    if padded_to is not None and used < padded_to:
        given: dict[str, Any] = {"truncation": False, "verbose": False, "padding": "max_length"}
        ids = list(tokenizer(sentence, **given, max_length=padded_to)["input_ids"])
    kinds = _filled(kinds, PADDING, len(ids), tokenizer)
    if spans is not None:
        return Encoded(ids, kinds, _filled(spans, (0, 0), len(ids), tokenizer))
    return Encoded(ids, kinds, None, tokenizer.convert_ids_to_tokens(ids))


def _filled(each: list[T], filling: T, count: int, tokenizer: Any) -> list[T]:
    """What is told of each token of a text, and what is told of those that fill it up, on their side of it."""
    others = [filling] * (count - len(each))
    return others + each if getattr(tokenizer, "padding_side", "right") == "left" else each + others


def _plain(tokenizer: Any, sentence: str) -> tuple[list[int], list[str], list[Span] | None]:
    """The ids of a sentence without any that fill up, what each is, and where they stand if the tokenizer tells."""
    fast = bool(getattr(tokenizer, "is_fast", False))
    asked: dict[str, Any] = {"truncation": False, "verbose": False, "return_special_tokens_mask": True}
    plain = tokenizer(sentence, **asked, return_offsets_mapping=True) if fast else tokenizer(sentence, **asked)
    ids, words = list(plain["input_ids"]), [not added for added in plain["special_tokens_mask"]]
    first = words.index(True) if any(words) else 1
    kinds = [WORD if word else START if i < first else END for i, word in enumerate(words)]
    return ids, kinds, [tuple(span) for span in plain["offset_mapping"]] if fast else None


def _of_open_clip(tokenizer: Any, sentence: str, padded_to: int | None) -> Encoded:
    body = tokenizer.encode(sentence)
    ids = [tokenizer.sot_token_id, *body, tokenizer.eot_token_id]
    filling = max((padded_to or 0) - len(ids), 0)
    letters = [bytearray(tokenizer.byte_decoder[c] for c in _bare(tokenizer.decoder[i])) for i in body]
    pieces = ["", *(each.decode("utf-8", errors="ignore") for each in letters), ""]
    kinds = [START, *[WORD] * len(body), END, *[PADDING] * filling]
    return Encoded(ids + [0] * filling, kinds, None, pieces + [""] * filling)


def _bare(piece: str) -> str:
    return piece.removesuffix("</w>")


def _of_open_clip_around(tokenizer: Any, sentence: str, padded_to: int | None) -> Encoded:
    """A tokenizer of transformers with what open_clip does before and after it.

    What it is given is changed before, so that places are told in another text than the sentence: then the tokens are
    looked for in that, by their own letters.
    """
    inner, cleaned = tokenizer.tokenizer, tokenizer.clean_fn(sentence)
    plain, kinds, spans = _plain(inner, cleaned)
    last: list[str] = []
    if getattr(tokenizer, "tokenizer_mode", "") == "clips":  # one that begins and one that ends it, and a last one
        words = [i for i, kind in enumerate(kinds) if kind == WORD]
        plain, kinds = [0, *(plain[i] for i in words), 0], [START, *[WORD] * len(words), END]
        spans, last = spans and [(0, 0), *(spans[i] for i in words), (0, 0)], [END]
    length = max(len(plain) + len(last), padded_to or 0)
    ids, filler = tokenizer([sentence], context_length=length)[0].tolist(), None if last else inner
    kinds = _filled(kinds, PADDING, length - len(last), filler) + last
    if spans is None:
        return Encoded(ids, kinds, None, inner.convert_ids_to_tokens(ids))
    spans = _filled(spans, (0, 0), length, filler)
    if cleaned == sentence:
        return Encoded(ids, kinds, spans)
    return Encoded(ids, kinds, None, [cleaned[start:end].strip() for start, end in spans])
