"""By which weights a head reads the tokens, and whether it reads them alike in every image and for every class."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from ..access import Adapter, Readout, TokenLayout
from ..errors import UnsupportedModelError
from ..targets import Output, Target
from .basis import Basis, images_like
from .depths import Alike, Depths, LastSum, Leaf, Read, as_it_is, cut_of, gradients_at
from .forward import run_forward
from .inputs import Inputs
from .meeting import COPIES, Meeting, exchanged
from .place import Place
from .repeated import raised_by_others
from .shares import BY_CONTENT, Sizes, shares_at
from .still import draws_in_training
from .taps import Keep

Cut = Callable[[Leaf], Depths | LastSum]
READ = 1e-6  # of the largest gradient, above which a token counts as read
AGREE = 1e-3  # of the readout, by which that of two images may differ
BESIDE = "the head reads the tokens of earlier blocks as well, and no module gives them by themselves"
UNASKED = "nobody asked for the weights"
BY_CLASS = (
    "some scores are read from other tokens than others, as where the scores of several tasks stand side by side, or "
    "one for each patch. Choose those that are read alike, as output=lambda output: output[:, :4]"
)


class Weighed(Target):
    """All scores, each with a random weight."""

    def score(self, output: Output) -> Tensor:
        """Their sum, (N,)."""
        flat = output.scores.flatten(1)
        return flat @ torch.rand(flat.shape[1], generator=torch.Generator().manual_seed(0)).to(flat)


@dataclass(frozen=True, eq=False)
class Half(Weighed):
    """The same of the scores in whose number a binary digit is 1."""

    digit: int

    def score(self, output: Output) -> Tensor:
        """Their sum, (N,)."""
        flat = output.scores.flatten(1)
        chosen = torch.arange(flat.shape[1], device=flat.device) >> self.digit & 1
        return super().score(Output(None, flat * chosen))


def measured(
    adapter: Adapter,
    inputs: Inputs,
    target: Target,
    place: Place,
    *,
    alone: bool,
    basis: Basis | None = None,
    weights: bool = True,
) -> Readout | None:
    """The readout by depth and token; None where the score reads the stream after no block.

    Args:
        adapter, inputs: the model, and what it is called with.
        target: what the gradient is taken of.
        place: where the tokens lie on the images.
        alone: whether it is of the first image, and looked at in others made of it; else it must be that of all.
        basis: a plain call of these images, on which they, and others made of a single one, are looked at where the
            scores are read from the streams after its blocks and from nothing else in them.
        weights: whether it is asked by which weights the tokens are read, and not only which are.
    Raises:
        UnsupportedModelError: it is not alone, and other tokens are read in one image than in another.
    """
    shown = images_like(inputs) if alone and len(inputs.images) == 1 else inputs
    weighing = None
    if basis is not None and basis.streams:
        weighing = _on_basis(adapter, shown, target, place, basis)
    if weighing is None:
        cut = cut_of(adapter, inputs, place)
        if cut is None:
            return None
        weighing = Weighing(adapter, shown, target, place, cut)
    rows = [slice(None)] if draws_in_training(adapter) else weighing.rows
    found = [weighing.readout(row, weights=weights) for row in rows]
    if not found:
        return None
    content = None if found[0].unclear else weighing.by_content(rows[0])
    first = replace(found[0], unclear=found[0].unclear or content)
    differing = [i for i, other in enumerate(found) if not _alike(first, other)]
    if differing and not alone:
        raise UnsupportedModelError(
            f"the score of {type(adapter.model).__name__} is read from other tokens in image {differing[0]} of this "
            f"batch than in the first, as where a mask, a box, the image itself or its target says which count: "
            f"explain one image at a time"
        )
    by_class = alone and content is None and weighing.by_class(first)
    return replace(first, unclear=BY_CLASS if by_class else first.unclear, by_image=bool(differing), by_class=by_class)


def _on_basis(adapter: Adapter, shown: Inputs, target: Target, place: Place, basis: Basis) -> "Weighing | None":
    """Of streams made of those of a plain call; None where the scores are not those of that call, as where a head reads
    what stands inside a block, or a block cannot run on such tokens."""
    cut = cut_of(adapter, shown, place, basis)
    assert cut is not None
    try:
        weighing = Weighing(adapter, shown, target, place, cut)
    except Exception as error:  # whatever somebody's code raises of tensors that are not torch's own
        if raised_by_others(error):
            raise
        return None
    return weighing if basis.gives(weighing.plain.scores) else None


class Weighing:
    """What the gradients at the streams tell of each image."""

    def __init__(self, adapter: Adapter, inputs: Inputs, target: Target, place: Place, cut: Cut) -> None:
        self.adapter, self.inputs, self.target, self.place, self.cut = adapter, inputs, target, place, cut
        self.plain, self._moved = self._gradients(as_it_is), dict[int, Read]()

    def _gradients(self, leaf: Leaf) -> Read:
        return gradients_at(self.adapter, self.inputs, [self.target], self.place, self.cut(leaf))

    def moved(self, images: slice) -> Sizes | None:
        """Which tokens are read of some of the images with the patches in other places; None where the scores are flat
        there, as behind a ReLU, wherever patches have moved."""
        for third in (0, 1):
            if third not in self._moved:
                self._moved[third] = self._gradients(partial(_rolled, self.layout, third))
            read = _read(_sizes(self._moved[third], images))
            if any(bool(rows.any()) for rows in read.values()):
                return read
        return None

    @cached_property
    def same(self) -> Read:
        """With all tokens the same."""
        return self._gradients(Alike())

    @property
    def layout(self) -> TokenLayout:
        """Where the tokens lie."""
        return self.plain.layout

    @property
    def rows(self) -> list[slice]:
        """The images whose score is not flat."""
        gradients = self.plain.by_target[0].values()
        count = max((len(gradient) for gradient in gradients), default=0)
        return [slice(i, i + 1) for i in range(count) if any(bool(gradient[i : i + 1].any()) for gradient in gradients)]

    def readout(self, images: slice, *, weights: bool = True) -> Readout:
        """Of some of the images, all of which are read alike; without weights where these are not asked for."""
        prefix, read = self.layout.prefix, _read(_sizes(self.plain, images))
        shares = {name: rows.double() for name, rows in read.items()}
        unclear = BESIDE if self.plain.beside else None
        moved = self.moved(images) if _part(read, self.layout) else None
        if moved is not None:
            _choices(read, moved, self.layout)
            shares = {name: rows.double() for name, rows in read.items()}
        if unclear is None and sum(int(rows.sum()) for rows in read.values()) > 1:
            unclear = UNASKED
            if weights:
                same = {name: gradient[images][0] for name, gradient in self.same.by_target[0].items()}
                shares, unclear = shares_at(prefix, read, same)
        last = next((rows for rows in reversed(read.values()) if rows.any()), None)
        any_patch = any(bool(rows[prefix:].any()) for rows in read.values())
        own = () if last is None else tuple(last[:prefix].nonzero().flatten().tolist())
        even = bool(own) and any_patch and len({round(float(x), 9) for x in torch.cat([*shares.values()]) if x}) == 1
        shares = {name: share.cpu() for name, share in shares.items()}
        return Readout(own, any_patch, even, declared=False, shares=shares, unclear=unclear)

    def by_content(self, images: slice) -> str | None:
        """Whether the first of these images weighs its tokens by what they hold, in words."""
        read = _read(_sizes(self.plain, images))
        first = slice(images.start or 0, (images.start or 0) + 1)
        sizes = _sizes(self.plain, first)
        sizes = sizes if any(size.any() for size in sizes.values()) else _sizes(self.plain, images)
        return _by_content(self.adapter, self.inputs, self.layout, sizes, read, self.cut)

    def by_class(self, found: Readout) -> bool:
        """Whether some scores of the first image are read from fewer of these tokens than others.

        Of each binary digit of their numbers, those with a 1 there and those with a 0 must be read from all of them.
        """
        assert found.shares is not None
        classes, read = self.plain.classes, _read(_sizes(self.plain, self.rows[0]))
        if classes < 2 or not read or sum(int(rows.sum()) for rows in read.values()) < 2:
            return False
        halves = [Weighed(), *map(Half, range((classes - 1).bit_length()))]
        whole, *parts = gradients_at(
            self.adapter, self.inputs.first(), halves, self.place, self.cut(as_it_is)
        ).by_target
        most = max(float(gradient.abs().max()) for gradient in whole.values())
        for part in parts:
            for half in (part, {name: whole[name] - gradient for name, gradient in part.items()}):
                sizes = {name: gradient.abs().amax((0, 2)) for name, gradient in half.items()}
                largest = max(float(size.max()) for size in sizes.values())
                unread = any(bool((size[read[name]] < READ * largest).any()) for name, size in sizes.items())
                if unread and largest > READ * most:
                    return True
        return False


def _sizes(found: Read, images: slice) -> Sizes:
    """How large the gradient is at each token."""
    return {name: gradient[images].abs().amax((0, 2)) for name, gradient in found.by_target[0].items()}


def _read(sizes: Sizes) -> Sizes:
    """Which tokens are read, bool."""
    largest = max((float(size.max()) for size in sizes.values()), default=0.0)
    return {name: size > READ * largest for name, size in sizes.items()}


def _alike(one: Readout, other: Readout) -> bool:
    """Whether the same tokens are read, and weigh the same as far as that is known of both."""
    assert one.shares is not None
    assert other.shares is not None
    weighed = one.unclear is None
    if weighed and other.unclear is not None:
        return False
    pairs = ((share, other.shares[name]) for name, share in one.shares.items())
    return all(bool(((a - b).abs() < AGREE).all() if weighed else torch.equal(a > 0, b > 0)) for a, b in pairs)


def _part(read: Sizes, layout: TokenLayout) -> bool:
    """Whether some patches are read after a block, and others not."""
    return any(bool(rows[layout.prefix :].any() and not rows[layout.prefix :].all()) for rows in read.values())


def _rolled(layout: TokenLayout, third: int, stream: Tensor) -> Tensor:
    """The patches one third of them further on, or two."""
    order = torch.arange(layout.tokens) if layout.order is None else layout.order
    places = order[layout.prefix :].to(stream.device)
    stream = stream.clone()
    if stream.shape[1] == layout.tokens:
        stream[:, places] = stream[:, places.roll(1 + (1 + third) * len(places) // 3)]
    return stream


def _choices(read: Sizes, moved: Sizes, layout: TokenLayout) -> None:
    """Mark all patches as read where others are read as soon as they have moved: they are chosen by what they hold."""
    for name, rows in read.items():
        patches = rows[layout.prefix :]  # a view
        if not torch.equal(patches, moved[name][layout.prefix :]):
            patches.fill_(True)


def _by_content(
    adapter: Adapter,
    inputs: Inputs,
    layout: TokenLayout,
    sizes: dict[str, Tensor],
    read: dict[str, Tensor],
    cut: Cut,
) -> str | None:
    """Whether the patches that the score reads most and least are weighed by what they hold, in words."""
    last = next(name for name, size in reversed(sizes.items()) if size.any())
    patches, among = sizes[last][layout.prefix :], read[last][layout.prefix :]
    if int(among.sum()) < 2:
        return None
    order = torch.arange(layout.tokens) if layout.order is None else layout.order
    ranked = patches.where(among, -1).argsort(descending=True)
    chosen = layout.prefix + ranked[[0, int(among.sum()) - 1]].cpu()
    first, second = (order[chosen] - layout.tokens).tolist()  # from the end: streams may be of any length

    def leaf(stream: Tensor) -> Tensor:
        alone = stream.shape[1] < -min(first, second)  # of prefix tokens alone
        return stream[:1].repeat(COPIES, 1, 1) if alone else exchanged(stream, first, second)

    copies = inputs.copies(COPIES)
    tap = Meeting(adapter, copies, None, Keep(()), True)
    run_forward(adapter, copies, None, Keep(()), graph=True, tap=tap, also=cut(leaf).listen)
    return BY_CONTENT if tap.by_content else None
