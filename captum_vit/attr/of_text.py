"""Which words of a text its likeness to an image comes from: methods on the text tower."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..access import Adapter, adapt
from ..access.two_towers import TwoTowers
from ..capture import Inputs
from ..errors import InputError, OptionError, TargetError
from ..targets import Embedding, Text
from ..tokenizing import Tokens
from . import METHODS, ViTAttribution, find_method
from .options import check_options
from .starting import start

ON_WORDS: Mapping[str, Mapping[str, Any]] = {
    "legrad": {"pooling": "readout"}
}  # the mean of a causal tower reads nothing


def token_shares(
    model: nn.Module | Adapter,
    text: Any,
    image: Tensor,
    method: Any = "generic_relevance",
    *,
    tokenizer: Any = None,
    **options: Any,
) -> Tensor:
    """What each token of a text gives to its cosine with an image, by one forward and one backward of the text tower.

    >>> text = Text(ids=torch.tensor([48, 5, 6, 7, 49]))
    >>> token_shares(clip, text, image_feature).shape
    torch.Size([5])

    It is the method's map, with the tokens of the text where an image has patches and the token that the text's feature
    is read from where it has the class token. Masks are the model's own: of a causal tower, what comes after the end of
    the text has exactly 0.

    Args:
        model: a model of images and texts, of transformers or open_clip.
        text: a `Text`, or a str.
        image: the image's feature, (D,) or (1, D), as `AGCAM(model).adapter.scores(...)` or the model itself gives it.
        method: agcam, generic_relevance, grad_eclip, legrad, cp_lrp, attn_lrp or libragrad, by name or class. Of
            LeGrad the default on words is pooling="readout".
        tokenizer: the model's own, where the text has none.
        options: of the method.
    Returns:
        (T,), all tokens: also those that begin, end and fill up the text.
    Raises:
        TargetError: the model has no text tower, or cannot take the text.
        OptionError: the method says nothing of words, or an option that it does not have.
        InputError: the image's feature is of another width than the text's.
        UnsupportedModelError: the tower's tokens cannot be followed, and why.
    """
    adapter = model if isinstance(model, Adapter) else adapt(model)
    wanted = Text(text) if isinstance(text, str) else text
    if not isinstance(adapter, TwoTowers) or not isinstance(wanted, Text):
        raise TargetError(f"words are of a Text and a model with a text tower, got {type(adapter.model).__name__}")
    name, kind = find_method(method)
    if not kind.of_words:
        able = ", ".join(name for name, each in METHODS.items() if each.of_words)
        raise OptionError(f"{name} says nothing of words: of a text it is {able}")
    check_options(name, kind.options(), options)
    return shares_of(adapter, adapter.tokens(wanted, tokenizer), image.reshape(1, -1), {name: (kind, options)})[name][0]


def shares_of(
    adapter: TwoTowers,
    tokens: Tokens,
    images: Tensor,
    methods: Mapping[str, tuple[type[ViTAttribution], Mapping[str, Any]]],
) -> dict[str, Tensor]:
    """The same of a text that is tokens already, for the features of several images, (N, D), by several methods.

    One forward of the text tower serves all of them, and its backwards are shared among the methods.

    Returns:
        by name of the method, (N, T).
    """
    device = next(adapter.model.parameters()).device
    side, ids = adapter.text_side(tokens.ids), tokens.ids.to(device)
    mask = {} if tokens.mask is None else {"attention_mask": tokens.mask.to(device)}
    call = Inputs(ids, kwargs=mask)
    ours = {name: (kind(side), {**ON_WORDS.get(name, {}), **given}) for name, (kind, given) in methods.items()}  # type: ignore[arg-type]
    found: dict[str, list[Tensor]] = {name: [] for name in ours}
    with start(list(ours.values()), call, flow=False, once=len(images) == 1) as run:
        width = run.scores.shape[1]
        if images.shape[1] != width:
            raise InputError(f"the image's feature has {images.shape[1]} numbers, and the text's {width}")
        for number, image in enumerate(images, 1):
            target, run.once = Embedding(image.to(device)), number == len(images)
            for name, (method, own) in ours.items():
                found[name].append(ops.widen(method._maps(run, target, flow=False, **own).detach())[0, -1])
    return {name: torch.stack(maps) for name, maps in found.items()}


def cosine(text: Tensor, image: Tensor) -> float:
    """How like a text an image is, by their features."""
    return float(torch.nn.functional.cosine_similarity(ops.widen(text), ops.widen(image).reshape(-1), dim=-1))
