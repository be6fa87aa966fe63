"""What tokenizers of transformers and of open_clip make of a sentence."""

from typing import Any

from captum_vit.access.two_towers import Encoded
from captum_vit.errors import TargetError, reason

ENOUGH = 1 << 12  # tokens: more than any text tower takes, so that nothing is cut


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
    fast, given = bool(getattr(tokenizer, "is_fast", False)), {"truncation": False, "verbose": False}
    plain = tokenizer(sentence, **given, return_offsets_mapping=True) if fast else tokenizer(sentence, **given)
    ids, used = list(plain["input_ids"]), len(plain["input_ids"])
    if padded_to is not None and used < padded_to:
        ids = list(tokenizer(sentence, **given, padding="max_length", max_length=padded_to)["input_ids"])
    if fast:
        spans = [tuple(span) for span in plain["offset_mapping"]]
        return Encoded(ids, used, spans + [(0, 0)] * (len(ids) - used))
    return Encoded(ids, used, None, tokenizer.convert_ids_to_tokens(ids))


def _of_open_clip(tokenizer: Any, sentence: str, padded_to: int | None) -> Encoded:
    body = tokenizer.encode(sentence)
    ids = [tokenizer.sot_token_id, *body, tokenizer.eot_token_id]
    used = len(ids)
    ids += [0] * ((padded_to or used) - used)
    letters = [bytearray(tokenizer.byte_decoder[c] for c in _bare(tokenizer.decoder[i])) for i in body]
    pieces = ["", *(each.decode("utf-8", errors="ignore") for each in letters), ""]
    return Encoded(ids, used, None, pieces + [""] * (len(ids) - used))


def _bare(piece: str) -> str:
    return piece.removesuffix("</w>")


def _of_open_clip_around(tokenizer: Any, sentence: str, padded_to: int | None) -> Encoded:
    """A tokenizer of transformers with what open_clip does before and after it."""
    inner = tokenizer.tokenizer
    ids = tokenizer([sentence], context_length=ENOUGH)[0].tolist()
    used = len(ids)
    while used > 1 and ids[used - 1] == ids[-1] == ids[used - 2]:  # the first of those that fill up ends the text
        used -= 1
    if ids[-1] not in (inner.eos_token_id, inner.sep_token_id) and ids[used - 1] == ids[-1]:
        used -= 1
    ids = ids[: max(used, padded_to or used)]
    return Encoded(ids, used, None, inner.convert_ids_to_tokens(ids))
