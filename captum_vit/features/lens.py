"""What each patch would be called: the model's own head on each patch's token, after each block."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from ..access import Readout
from ..attr.patches import patch_tokens
from ..capture import READ_ATTENTION, Run
from ..errors import UnsupportedModelError
from ..readouts import SAME, describe
from ..visualization import thinned
from .drawing import Row, figure, labelled
from .patches import PatchTokens, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALPHA = 0.75  # opacity of a probability of 1
UNNAMED = "what each patch would be called is not defined"


@dataclass(frozen=True, eq=False)
class Lens:
    """What the model's own norm and head make of each patch's token, as if the score were read from it.

    A head was trained on the tokens that it reads, after the last block. What it says of others is a hint at what they
    hold, surest late in a model whose head reads the mean of its patches.

    probabilities: by block, of each image (*grid, classes), each class in 0..1 as for an image.
    names: number -> what a class is called.

    Source: Vilas, Schaumlöffel & Roig 2023, "Analyzing Vision Transformers for Image Classification in Class Embedding
        Space" (arXiv:2310.18969), equation 2; the logit lens of language models is nostalgebraist's (2020).
    """

    photos: Sequence[PatchTokens]
    probabilities: Mapping[str, tuple[Tensor, ...]]
    names: Mapping[int, str]

    def best(self, block: str, count: int = 1) -> list[tuple[Tensor, Tensor]]:
        """Of each image the best classes of each patch, numbers and probabilities, (*grid, count) each.

        >>> (numbers, shares), *_ = tokens.lens().best("blocks.11.attn", count=3)
        """
        return [
            (numbers, shares) for shares, numbers in (each.topk(count, dim=-1) for each in self.probabilities[block])
        ]

    def called(self, count: int = 1) -> "Called":
        """The best classes of each patch alone, as pictures show them."""
        best = {block: self.best(block, count) for block in self.probabilities}
        numbers = {block: tuple(each for each, _ in found) for block, found in best.items()}
        shares = {block: tuple(each for _, each in found) for block, found in best.items()}
        return Called(self.photos, numbers, shares, self.names)

    def pictures(self, block: str, *, alpha: float = ALPHA) -> list[Image.Image]:
        """The best class of each patch on each photograph, RGB in its size, the commonest of them named.

        A class has one colour in all blocks and images, the commonest eight one of their own; it lies on a patch as
        opaque as it is probable.

        Args:
            block: one of `probabilities`.
            alpha: opacity of a probability of 1.
        """
        return self.called().pictures(block, alpha=alpha)

    def plot(self, ax: "Axes | None" = None, *, count: int | None = 4, alpha: float = ALPHA) -> "Figure":
        """A row for each image: what its patches would be called after so many of the blocks.

        Args:
            ax: axes of yours, to be drawn in.
            count: how many of the blocks, at even distance; None for all.
            alpha: opacity of a probability of 1.
        """
        return self.called().plot(ax, count=count, alpha=alpha)


@dataclass(frozen=True, eq=False)
class Called:
    """The best classes of each patch after each block, the best first: what is drawn of a `Lens`.

    numbers, shares: by block, of each image (*grid, count), the classes and their probabilities.
    names: number -> what a class is called.
    order: the classes in the order in which they have colours of their own; by default the commonest first.
    """

    photos: Sequence[PatchTokens]
    numbers: Mapping[str, tuple[Tensor, ...]]
    shares: Mapping[str, tuple[Tensor, ...]]
    names: Mapping[int, str]
    order: Sequence[int] | None = None

    def title(self, number: int) -> str:
        """What a class is called over pictures."""
        return self.names.get(number) or f"class {number}"

    def pictures(self, block: str, *, alpha: float = ALPHA) -> list[Image.Image]:
        """See `Lens.pictures`."""
        order = commonest(count_classes(self.numbers.values())) if self.order is None else self.order
        return [
            labelled(photo.image, photo.view, numbers[..., 0], alpha * shares[..., 0], order, self.title)
            for photo, numbers, shares in zip(self.photos, self.numbers[block], self.shares[block], strict=True)
        ]

    def plot(self, ax: "Axes | None" = None, *, count: int | None = 4, alpha: float = ALPHA) -> "Figure":
        """See `Lens.plot`."""
        every = list(self.numbers)
        blocks = [every[i] for i in thinned(len(every), count)]
        columns = {block: self.pictures(block, alpha=alpha) for block in blocks}
        rows = [
            Row(photo.source, [columns[block][i] for block in blocks], [named(block) for block in blocks])
            for i, photo in enumerate(self.photos)
        ]
        return figure(rows, ("what each patch would be called", ", as opaque as it is probable"), ax)


def count_classes(numbers: Iterable[Iterable[Tensor]]) -> Counter[int]:
    """How many patches are called what, over blocks and images; numbers (*grid, count), of which the first count."""
    seen = Counter[int]()
    for block in numbers:
        for each in block:
            seen.update(each[..., 0].flatten().tolist())
    return seen


def commonest(seen: Counter[int]) -> list[int]:
    """Classes, the commonest first."""
    return [number for number, _ in seen.most_common()]


def patch_scores(run: Run, blocks: Sequence[str]) -> dict[str, Tensor]:
    """What the model's head makes of each patch's token after each block, (N, *grid, classes), float32.

    Args:
        run: of the images, and inside it.
        blocks: of the names that `run.tokens()` has.
    Raises:
        UnsupportedModelError: a head that reads no single token or mean of tokens, or no such token stands there.
    """
    check_defined(run)
    streams, found = run.tokens(), {}
    for block in blocks:
        patches, width = patch_tokens(streams[block], run.layout, block), list(streams.values())[-1].shape[-1]
        assert patches is not None
        if patches.shape[-1] != width:
            raise UnsupportedModelError(
                f"{UNNAMED} after {block}: its tokens have {patches.shape[-1]} channels, and those that the head of "
                f"{type(run.adapter.model).__name__} reads have {width}: name later ones by blocks="
            )
        scores = run.head_scores(patches.flatten(0, -2)).float()
        found[block] = scores.view(*patches.shape[:-1], scores.shape[-1])
    return found


def check_defined(run: Run) -> None:
    """Raise UnsupportedModelError unless the head says something of a single token, and was trained on such."""
    adapter, readout = run.adapter, run.readout
    model = type(adapter.model).__name__
    if adapter.headless:
        raise UnsupportedModelError(f"{UNNAMED}: {model} gives features, and has no classes")
    if adapter.training:
        raise UnsupportedModelError(
            f"{UNNAMED}: {model} is in train mode, in which its head may draw, or count over the batch: call eval()"
        )
    if run.scores.dim() != 2:
        raise UnsupportedModelError(
            f"{UNNAMED}: {model} has scores of shape {tuple(run.scores.shape)}, not one for each class of an image"
        )
    told = describe(readout, adapter.prefix_tokens, list(adapter.attention_layers()))
    if readout.latents:
        raise UnsupportedModelError(f"{UNNAMED}: the head of {model} compares tokens with each other ({told})")
    if readout.unclear is not None:
        raise UnsupportedModelError(f"{UNNAMED}: what the head of {model} reads is not known ({told})")
    if readout.by_class:
        raise UnsupportedModelError(f"{UNNAMED}: the head of {model} reads other tokens for some classes than others")
    if not _alike(readout):
        raise UnsupportedModelError(
            f"{UNNAMED}: the head of {model} reads tokens that are not alike ({told}), and no patch's is both"
        )
    if not readout.patches:
        _check_patches_attend(run)


def _alike(readout: Readout) -> bool:
    """Whether one token is read, or a mean of tokens."""
    if readout.shares is None:
        return readout.even or len(readout.prefix) + readout.patches == 1
    read = [share[share > 0] for share in readout.shares.values() if bool(share.any())]
    return len(read) == 1 and bool((read[0] - read[0].mean()).abs().max() <= SAME * read[0].mean())


def _check_patches_attend(run: Run) -> None:
    """Raise UnsupportedModelError where patches do not go through the last block, as where a class token alone does."""
    last = [name for name in run.adapter.reading_layers(run.readout) if run.readout.reads(name)][-1]
    call = run.calls([last], {READ_ATTENTION})[last]
    if len(call.layout.share) <= call.layout.prefix:
        raise UnsupportedModelError(
            f"{UNNAMED}: in the last blocks of {type(run.adapter.model).__name__} the class token alone attends, so "
            f"that its head never saw what is like a patch's token"
        )
