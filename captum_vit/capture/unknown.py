"""Models of nobody's library, whose attention is found by running them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..access import Adapter, Grid, Readout, TokenLayout
from ..access.outputs import all_among
from ..access.registry import last_resort
from ..errors import CaptumViTError, UnsupportedModelError
from ..geometry import View
from .finding import Event, Finder, watch
from .kinds import FewKinds
from .labels import Patches, patches_of
from .remembered import remembered
from .trial_sizes import sizes_of
from .which import Attentions, attentions, first_of_tokens, reached

FACTS = ("attentions", "batch_dims", "_blocks", "_channels", "_features", "_layouts", "_size", "_tokens_first")
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d, nn.ConvTranspose3d)
HEAD = re.compile(r"(^|_)(head|classifier|logits)s?$")  # how modules are called that give scores of classes


class NotTakenError(Exception):
    """The model does not run on images of this size: whatever it raised is the cause."""


@last_resort
class Found(Adapter):
    """A Vision Transformer that no adapter knows: its attention is what a watched forward shows.

    >>> adapter = Found(model)  # adapt(model) gives this of somebody's own module
    >>> list(adapter.attention_layers())[:2]
    ['blocks.0.attn', 'blocks.1.attn']

    The model runs once on an image of noise, of a size that it takes, and once on each other size that is asked for,
    and not again while it stays as it is: which softmax meets values over all tokens, which patch of the image each
    token is. All of it is checked against what the model computes before a map is given.

    Raises:
        UnsupportedModelError: it is no Vision Transformer, does not run on an image alone, or no attention to single
            patches is found.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.attentions: Attentions
        self._layouts: dict[Grid, TokenLayout] = {}
        self._size: Grid = ()
        self.batch_dims = 5 if isinstance(self.stem, nn.Conv3d) else 4
        vars(self).update(remembered(model, type(self), self._look))

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return False

    def _look(self) -> dict[str, Any]:
        self.attentions = self._find()
        return {name: vars(self)[name] for name in FACTS}

    def _find(self) -> Attentions:
        """From the first size, of those that the model may be made for, on which it runs."""
        failed: BaseException | None = None
        for channels, size in sizes_of(self):
            images = self._noise(channels, size)
            with torch.inference_mode(False), torch.enable_grad():
                images = images.clone().requires_grad_()
                try:
                    found = self._find_on(images, FewKinds()) or self._find_on(images)
                except NotTakenError as error:
                    failed = failed or error.__cause__
                    continue
                assert found is not None
                return found
        assert failed is not None
        reason = f"{type(failed).__name__}: {failed}".splitlines()[0][:200]
        raise UnsupportedModelError(
            f"{type(self.model).__name__} has no adapter, and to find its attention it has to run on an image of "
            f"noise, which it does on none of the sizes that were tried. The first said: {reason}. Give the model an "
            f"attribute `image_size = (height, width)`, wrap it so that it takes images alone, or register an adapter"
        )

    def _find_on(self, images: Tensor, few: FewKinds | None = None) -> Attentions | None:
        """From one forward. Tokens of few kinds cost little; None where these do not show that the score depends on all
        attention, or the model is refused: both are decided by tokens that all differ."""
        finder = Finder(1, few)
        try:
            output = self._watched(images, finder)
            events = reached(finder.events, self._ends(output))
            if few is not None and few.made and len(events) < len(finder.events):
                return None
            return self._find_in(images, finder, events, output)
        except Exception:
            if few is None or not few.made:
                raise
            return None

    def _watched(self, images: Tensor, finder: Finder) -> Any:
        try:
            return watch(self.model, finder, partial(self.model, images.clone()))
        except CaptumViTError:
            raise
        except Exception as error:
            raise NotTakenError from error

    def _find_in(self, images: Tensor, finder: Finder, events: Sequence[Event], output: Any) -> Attentions:
        kind = type(self.model).__name__
        first = first_of_tokens(finder, events, kind)
        patches = patches_of(first.values, images, kind)
        found = attentions(finder, events, len(patches.tokens), kind)
        layers = [name for names in found.layers.values() for name in names if name]
        self._blocks = blocks_of(self.model, finder, layers)
        last = self._blocks.get(layers[-1], layers[-1]).partition("#")[0]
        self._features = self._gives_tokens(output, first.values.shape[1] * first.values.shape[3], finder, last)
        _, stream = finder.passed[next(iter(self._blocks.values()))] if self._blocks else (None, None)
        self._tokens_first = stream is not None and len(self.stream(stream)) > 1  # of one image
        self._channels, self._size, self.batch_dims = images.shape[1], self.size_of(images), images.dim()
        self._layouts[self._size] = self._layout_of(patches, first.keys, found.tokens - found.patches, self._size)
        return found

    def _ends(self, output: Any) -> Tensor:
        """The scores; or all that the model gives, where nobody has said yet which of it they are."""
        try:
            return self.scores(output)
        except UnsupportedModelError:
            return all_among(output)

    def _gives_tokens(self, output: Any, width: int, finder: Finder, last: str) -> bool:
        """Whether the scores may be tokens as they come out of the last block, of the width that all of them have."""
        try:
            scores = self.scores(output)
        except UnsupportedModelError:
            return False
        return width in scores.shape[1:] and not (scores.dim() > 3 and convolved(self.model, finder, last))

    def _noise(self, channels: int, size: Grid) -> Tensor:
        known = next((p for p in self.model.parameters() if p.is_floating_point()), torch.zeros(()))
        draw = torch.Generator().manual_seed(0)
        return torch.randn(1, channels, *size, generator=draw).to(known.device, known.dtype)

    def prepare(self, images: Tensor, kwargs: Mapping[str, Any]) -> None:
        size = self.size_of(images)
        if size not in self._layouts:
            self._layouts[size] = self._layout(images[:1].detach(), dict(kwargs))

    def _layout(self, images: Tensor, kwargs: dict[str, Any]) -> TokenLayout:
        """Where the tokens of images of this size lie."""
        kind = type(self.model).__name__
        with torch.inference_mode(False), torch.enable_grad():
            images = images.clone().requires_grad_()
            finder = Finder(1, first=True)
            watch(self.model, finder, partial(self.model, images.clone(), **kwargs))
            first = first_of_tokens(finder, finder.events, kind)
            patches = patches_of(first.values, images, kind)
        prefix = self.attentions.tokens - self.attentions.patches
        return self._layout_of(patches, first.keys, prefix, self.size_of(images))

    def _layout_of(self, patches: Patches, tokens: int, prefix: int, size: Grid) -> TokenLayout:
        own = set(patches.tokens.tolist())
        order = torch.tensor([*(token for token in range(tokens) if token not in own), *patches.tokens.tolist()])
        natural = torch.equal(order, torch.arange(tokens))
        if tokens < prefix + len(own):  # the others join later, before the patches
            order = torch.cat([torch.arange(prefix), order + prefix])
        view = None
        if any(patches.start):
            height, width = (round(cells * side) for cells, side in zip(patches.grid, patches.patch, strict=True))
            view = View.of((size[1], size[0])).cropped(patches.start[1], patches.start[0], width, height)
        return TokenLayout(patches.grid, prefix, patches.patch, order=None if natural else order, view=view)

    def blocks(self) -> dict[str, nn.Module]:
        modules = dict(self.model.named_modules())
        return {name: modules[block] for name, block in self._blocks.items()}

    @property
    def tokens_first(self) -> bool:
        return self._tokens_first

    @property
    def first_block(self) -> nn.Module | None:
        """The first of blocks through which all tokens go; that a part of them can is seen when they do."""
        apart = (*self.attentions.bare, *self.attentions.alone, *self.attentions.cross)
        return None if apart or self.tokens_first else next(iter(self.blocks().values()), None)

    def reading_layers(self, readout: Readout) -> list[str]:
        left_out = {
            *(() if readout.patches else self.attentions.bare),
            *(() if readout.prefix else self.attentions.alone),
        }
        return [name for name in super().reading_layers(readout) if name not in left_out]

    @property
    def measured(self) -> bool:
        return True

    def attention_layers(self) -> dict[str, nn.Module]:
        modules = dict(self.model.named_modules())
        return {name: modules[module] for module, name in self._in_order()}

    def _in_order(self) -> Iterator[tuple[str, str]]:
        for module, names in self.attentions.layers.items():
            yield from ((module, name) for name in names if name is not None)

    def calls(self) -> dict[nn.Module, list[str | None]]:
        modules = dict(self.model.named_modules())
        return {modules[module]: names for module, names in self.attentions.layers.items()}

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        if image_size not in self._layouts:
            self.prepare(self._noise(self._channels, image_size), {})
        return self._layouts[image_size]

    @property
    def cross_attention(self) -> Mapping[str, bool]:
        return dict.fromkeys(self.attentions.cross, False)

    @property
    def image_size(self) -> Grid:
        return self._size

    @property
    def in_channels(self) -> int:
        return self._channels

    @property
    def headless(self) -> bool:
        linear = (name for name, module in self.model.named_modules() if isinstance(module, nn.Linear))
        return self._features and not any(HEAD.search(part) for name in linear for part in name.split("."))


def convolved(model: nn.Module, finder: Finder, block: str) -> bool:
    """Whether convolutions run behind a block, as where they draw a heatmap of keypoints out of the patches."""
    passed = list(finder.passed)
    behind = passed[passed.index(block) + 1 :] if block in passed else []
    return any(isinstance(model.get_submodule(name), CONVOLUTIONS) for name in behind)


def blocks_of(model: nn.Module, finder: Finder, layers: Sequence[str]) -> dict[str, str]:
    """The module around each attention layer whose output is the input of that around the next; none if there is none.

    Only then it is the token stream: a skip connection may lead past what stands in a list.
    """
    paths = [name.partition("#")[0].split(".") for name in layers]
    if len(set(map(tuple, paths))) < len(paths):
        return {}
    for depth in range(1, max(map(len, paths)) + 1):
        chosen = [".".join(path[:depth]) for path in paths]
        distinct = list(dict.fromkeys(chosen))
        if len(distinct) < 2 and len(layers) > 1:
            continue
        passed = [finder.passed.get(name) for name in distinct]
        if all(passed) and all(_goes_on(a, b) for a, b in pairwise(passed)):
            return dict(zip(layers, chosen, strict=True))
    return {}


def _goes_on(one: Any, other: Any) -> bool:
    """Whether one module's output is the other's input."""
    output, given = one[1], other[0]
    output = output[0] if isinstance(output, (tuple, list)) and output else output
    return isinstance(output, Tensor) and output is given and output.dim() == 3
