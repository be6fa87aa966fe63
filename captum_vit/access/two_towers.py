"""Models that compare images with texts: one tower for each, and the cosine of what they give."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TargetError, UnsupportedModelError, brief
from ..targets import Text, TextEmbedding
from ..tokenizing import WORD, Span, Tokens, aligned, places_of
from .adapter import Adapter
from .nested import NestedAdapter
from .tokens import Grid, Readout, TokenLayout


@dataclass(frozen=True)
class Encoded:
    """What a tokenizer makes of a sentence.

    ids: all of them, those before, behind and filling up too, and never cut.
    kinds: what each is: "start", "word", "end" or "padding".
    spans: where each stands in the sentence; None where the tokenizer does not tell.
    pieces: each as text, where there are no spans.
    """

    ids: Sequence[int]
    kinds: Sequence[str]
    spans: Sequence[Span] | None = None
    pieces: Sequence[str] = ()


class TextSide(Adapter):
    """The text tower of a model, for one text: its tokens stand where a ViT has patches.

    The grid is (T,), all tokens of the text, and the score is read from some of them.

    Args:
        model: the module that is run on the ids, (1, T).
        shares: what each of them gives to the text's feature behind the last layer, (T,), with sum 1.

    Attributes:
        argument: the name by which the ids go to the model.
    """

    batch_dims = 2
    on_images = False
    argument = "input_ids"

    def __init__(self, model: nn.Module, shares: Tensor) -> None:
        super().__init__(model)
        self.shares, self.tokens = shares, len(shares)

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return False  # it is asked for by the adapter of the whole, `TwoTowers.text_side`

    def call_with(self, images: Tensor) -> Mapping[str, Any]:
        return {self.argument: images}

    def size_of(self, images: Tensor) -> Grid:
        return (images.shape[1],)

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        return TokenLayout((self.tokens,), 0, (1,), self.readout)

    @property
    def readout(self) -> Readout:
        return Readout((), patches=True, shares={list(self.attention_layers())[-1]: self.shares})

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        return ()

    @property
    def image_size(self) -> Grid | None:
        return None

    @property
    def first_block(self) -> nn.Module | None:
        return None  # all tokens before the one that is read have a part in it

    @property
    def stem(self) -> nn.Module | None:
        return None  # a convolution in the same module is the image side's

    @property
    def mixes_before(self) -> bool:
        return True

    @property
    def headless(self) -> bool:
        return True


class TwoTowers(NestedAdapter):
    """A model of images and texts, run on images: its scores are the image's feature, and its texts are targets.

    >>> type(adapt(clip)).__mro__[1].__name__
    'TwoTowers'
    """

    def __init__(self, model: nn.Module, name: str, inner: Adapter) -> None:
        super().__init__(model, name, inner)
        self.vit = model  # nobody owns the tower: the whole is one model of its library

    @property
    def headless(self) -> bool:
        return True

    @property
    def class_names(self) -> Mapping[int, str]:
        return {}

    @property
    def readout(self) -> Readout | None:
        return self.inner.readout  # the image's feature is what the tower inside gives

    def without_text(self) -> dict[str, Any]:
        """What the model's forward is given for a text where none is asked, since it wants one beside images."""
        return {}

    @property
    @abstractmethod
    def longest(self) -> int:
        """How many tokens a text may have."""

    @property
    @abstractmethod
    def scale(self) -> tuple[float, float]:
        """What cosines are multiplied by, and what is added, before they become probabilities."""

    @property
    @abstractmethod
    def each_by_itself(self) -> bool:
        """Whether a text is likely by itself (sigmoid), and not against others (softmax)."""

    @abstractmethod
    def encode(self, tokenizer: Any, sentence: str) -> Encoded:
        """What a tokenizer makes of a sentence, as the model was trained with it.

        Raises:
            TargetError: it is none that is known.
        """

    @abstractmethod
    def kinds(self, ids: Tensor) -> list[str]:
        """What each of ids (1, T) is, as far as the model alone tells it.

        Raises:
            TargetError: the ids do not have the token that the text's feature is read from.
        """

    @abstractmethod
    def text_feature(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """The feature of a text, (1, D)."""

    @abstractmethod
    def text_side(self, ids: Tensor) -> TextSide:
        """The text tower for this text.

        Raises:
            UnsupportedModelError: its tokens cannot be followed, and why.
        """

    def tokens(self, text: Text, tokenizer: Any = None) -> Tokens:
        """A text as the model takes it.

        Raises:
            TargetError: the tokenizer is not known, the text is too long, or nothing is left of it.
        """
        if text.ids is not None:
            ids = text.ids.reshape(1, -1).long().cpu()
            return self._counted(ids, self.kinds(ids), text)
        tokenizer = text.tokenizer if tokenizer is None or text.tokenizer is not None else tokenizer
        if tokenizer is None:
            raise TargetError(
                f"the tokenizer of {type(self.model).__name__} is not known: give it by Text({brief(text.sentence)}, "
                f"tokenizer=...) or explain(..., tokenizer=...), or the ids of the tokens by Text(ids=...)"
            )
        found = self.encode(tokenizer, text.sentence)
        return self._counted(torch.tensor([list(found.ids)]), list(found.kinds), text, found)

    def _counted(self, ids: Tensor, kinds: list[str], text: Text, found: Encoded | None = None) -> Tokens:
        """Of ids the tokens, as many as the model takes, with what each of them is."""
        if ids.shape[1] > self.longest:
            over = ids.shape[1] - self.longest
            raise TargetError(
                f"{text!r} has {ids.shape[1]} tokens, with those at its ends, and {type(self.model).__name__} "
                f"takes {self.longest}: {over} too many. Shorten it: nothing is cut off"
            )
        count = kinds.count(WORD)
        if not count:
            raise TargetError(f"nothing is left of {text!r} in the tokenizer: give it words that the model knows")
        words = [i for i, kind in enumerate(kinds) if kind == WORD]
        mask = None if text.mask is None else text.mask.reshape(1, -1)
        if found is None:
            sentence = " ".join(f"#{int(ids[0, i])}" for i in words)
            return Tokens(sentence, ids, tuple(kinds), tuple(range(count)), mask, of_ids=True)
        spans = [found.spans[i] for i in words] if found.spans else []
        spans = spans or aligned(text.sentence, [found.pieces[i] for i in words])
        return Tokens(text.sentence, ids, tuple(kinds), places_of(text.sentence, spans), mask)


def embedded(adapter: Adapter, text: Text, tokenizer: Any = None) -> TextEmbedding:
    """A text with the feature that the model's text tower gives.

    Raises:
        TargetError: the model has none, or cannot take the text.
    """
    if not isinstance(adapter, TwoTowers):
        raise TargetError(
            f"{type(adapter.model).__name__} has no text tower: pass the whole model of images and texts, as "
            f"transformers.CLIPModel, or captum_vit.targets.Embedding(vector) with the feature of the text"
        )
    tokens = adapter.tokens(text, tokenizer)
    device = next(adapter.model.parameters()).device
    mask = None if tokens.mask is None else tokens.mask.to(device)
    with torch.no_grad():
        feature = adapter.text_feature(tokens.ids.to(device), mask)
    return TextEmbedding(feature[0].detach(), tokens)


def compares_texts(adapter: Adapter, output: object) -> tuple[bool, bool]:
    """Whether what a model is asked is how like a text an image is, and whether its scores are features, no classes.

    output: which of its outputs are the scores, where somebody chose: those are of texts that stand beside the images.
    """
    given = isinstance(adapter, TwoTowers) and output is not None
    return isinstance(adapter, TwoTowers) and not given, adapter.headless and not given


def check_unmasked(model: nn.Module, mask: Tensor | None) -> None:
    """Raise UnsupportedModelError where a mask is given for a text tower that takes none."""
    if mask is not None:
        raise UnsupportedModelError(f"the text tower of {type(model).__name__} takes no mask: leave it out")
