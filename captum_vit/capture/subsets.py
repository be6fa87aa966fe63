"""The model on a part of its patch tokens: the others never enter its blocks, and all keep their positions."""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..access import Adapter, Readout, TokenLayout
from ..errors import CaptumViTError, InputError, UnsupportedModelError
from ..targets import Output, Target
from .inputs import Inputs
from .untouched import untouched

NEAR = 1e-3  # of the largest score: how near the scores must come with all tokens, in another order

_chosen: ContextVar["_Rows | None"] = ContextVar("captum_vit_chosen_tokens", default=None)


@dataclass
class _Rows:
    """Which tokens of each row of a batch go into the blocks.

    tokens: their places in the model's own order, prefix tokens too, (R, prefix + k).
    patches: those among them that are patches, as numbers among all patches, (R, k).
    total: how many tokens there are.
    entered: whether the first block was called.
    """

    tokens: Tensor
    patches: Tensor
    total: int
    entered: bool = field(default=False)


class Subsets:
    """A model, its images, and forwards in which some of their patches are left out.

    Args:
        adapter, inputs: the model, without hooks that must not hear this, and what it is called with.
        layout: where its tokens lie.
        readout: the tokens that the score is read from.
        scores: of the images with all their patches.
    Raises:
        UnsupportedModelError: its blocks do not take a part of the tokens, or more than attention tells where these
            stand.
    """

    def __init__(
        self,
        adapter: Adapter,
        inputs: Inputs,
        layout: TokenLayout,
        readout: Readout,
        scores: Tensor,
    ) -> None:
        self.adapter, self.inputs, self.layout = adapter, inputs, layout
        self.name = type(adapter.model).__name__
        if adapter.training:
            raise UnsupportedModelError(
                f"{self.name} is in train mode, in which a part of its tokens is not run alike: call model.eval()"
            )
        if self.adapter.first_block is None:
            raise self._refused("no one block is known through which all of them go, whatever their number")
        order = torch.arange(layout.tokens) if layout.order is None else layout.order.cpu()
        self.prefix, self.places = order[: layout.prefix], order[layout.prefix :]
        self.patches, self.reads_patches = prod(layout.grid), readout.patches and not readout.prefix
        self._check(scores)

    def scores(self, kept: Tensor, target: Target, batch: int) -> Tensor:
        """What a target makes of each choice of patches; see `Run.on_tokens`."""
        images = len(self.inputs.images)
        fits = kept.dtype == torch.bool and kept.dim() in (2, 3) and kept.shape[-1] == self.patches and kept.numel()
        if not fits:
            raise InputError(
                f"which patches are kept is bool (choices, {self.patches}) or (images, choices, {self.patches}), at "
                f"least one choice, got {kept.dtype} {tuple(kept.shape)}"
            )
        if kept.dim() == 3 and len(kept) != images:
            raise InputError(f"of {images} images other patches each are kept, got {tuple(kept.shape)}")
        kept = kept.expand(images, -1, -1).cpu()
        if self.reads_patches and not bool(kept.any(2).all()):
            raise InputError("no patch is kept in one of the choices, and the score is read from patches")
        alike = target.of_image(0) is target
        parts = [torch.arange(images)] if alike else torch.arange(images).split(1)
        return torch.cat(
            [
                self._of_images(rows, kept[rows], target if alike else target.of_image(int(rows)), batch)
                for rows in parts
            ]
        )

    def _of_images(self, images: Tensor, kept: Tensor, target: Target, batch: int) -> Tensor:
        """Of some of the images, with one target for all, (images, S)."""
        flat, numbers = kept.flatten(0, 1), images.repeat_interleave(kept.shape[1])
        counts, order, parts = flat.sum(1), [], []
        for count in counts.unique():
            for rows in (counts == count).nonzero()[:, 0].split(batch):
                patches = flat[rows].nonzero()[:, 1].view(len(rows), -1)
                tokens = torch.cat([self.prefix.expand(len(rows), -1), self.places[patches]], 1).sort(1).values
                parts.append(ops.widen(target.score(self._run(numbers[rows], tokens)).detach()).cpu())
                order.append(rows)
        return torch.cat(parts)[torch.cat(order).argsort()].unflatten(0, kept.shape[:2])

    def _run(self, images: Tensor, tokens: Tensor) -> Output:
        """One forward of rows of images; the places of their tokens in the model's own order, (R, prefix + k)."""
        among_patches = torch.isin(tokens, self.places)
        ranks = torch.full((self.layout.tokens,), -1)
        ranks[self.places.sort().values] = torch.arange(self.patches)
        rows = _Rows(tokens, ranks[tokens[among_patches]].view(len(tokens), -1), self.layout.tokens)
        inputs, token = self.inputs.rows(images), _chosen.set(rows)
        try:
            with untouched(self.adapter), torch.no_grad(), ExitStack() as stack:
                self._listen(stack)
                raw = inputs.run(self.adapter.model)
                scores = inputs.scores(self.adapter, raw)
        finally:
            _chosen.reset(token)
        if not rows.entered:
            raise self._refused("its first block did not run")
        if len(scores) != len(tokens):
            raise self._refused(f"of {len(tokens)} rows it gives {len(scores)} scores")
        return Output(raw, scores, self.adapter.headless)

    def _check(self, scores: Tensor) -> None:
        """All tokens in another order give the same where only position embeddings say where they stand.

        Of one image: position tables in the attention, convolutions between tokens and lists of places would show.
        """
        mixed = torch.arange(self.layout.tokens)
        draw = torch.Generator().manual_seed(0)
        mixed[self.places.sort().values] = self.places[torch.randperm(self.patches, generator=draw)]
        try:
            found = self._run(torch.zeros(1, dtype=torch.long), mixed[None]).scores
        except CaptumViTError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = " ".join(str(error).split())[:160]
            raise self._refused(f"it fails on them in another order ({type(error).__name__}: {reason})") from error
        difference = float((found.float() - scores[:1].float()).abs().max())
        if not difference <= NEAR * max(float(scores[:1].float().abs().max()), 1e-6):
            raise self._refused(
                "more than their position embedding tells where they stand, as a table of positions in the attention "
                "or a convolution: all of them in another order give other scores"
            )

    def _refused(self, reason: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"tokens of {self.name} cannot be left out: {reason}. Methods and metrics that change the image instead "
            f"apply, as occlusion with patches of one colour"
        )

    def _listen(self, stack: ExitStack) -> None:
        first = self.adapter.first_block
        assert first is not None
        for block, name in self.adapter.patch_arguments().items():
            stack.callback(block.register_forward_pre_hook(_changing(name, _patch_rows), with_kwargs=True).remove)
        stack.callback(first.register_forward_pre_hook(_changing(None, _token_rows), with_kwargs=True).remove)


def _changing(name: str | None, change: Callable[[Any, _Rows], Any]) -> Callable[..., tuple[tuple, dict] | None]:
    """A hook that changes one argument of a module, by default the first, where tokens are chosen in this context."""

    def hook(module: nn.Module, args: tuple, kwargs: dict | None = None) -> tuple[tuple, dict] | None:
        rows = _chosen.get()
        if rows is None or kwargs is None:
            return None
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        key = next(iter(bound.arguments)) if name is None else name
        given = bound.arguments if bound.arguments.get(key) is not None else bound.arguments.get("kwargs", {})
        if given.get(key) is not None:
            given[key] = change(given[key], rows)
        return bound.args, bound.kwargs

    return hook


def _token_rows(stream: Tensor, rows: _Rows) -> Tensor:
    """The chosen tokens of a stream (R, N, D)."""
    if stream.shape[:2] != (len(rows.tokens), rows.total):
        raise UnsupportedModelError(
            f"expected {len(rows.tokens)} times {rows.total} tokens at the first block, got {tuple(stream.shape)}: "
            f"which of them are left out is not known"
        )
    rows.entered = True
    index = rows.tokens.to(stream.device)[..., None].expand(-1, -1, stream.shape[2])
    return stream.gather(1, index)


def _patch_rows(x: Any, rows: _Rows) -> Any:
    """Of tensors (patches, d), with a row for each patch: (R, 1, k, d), as they meet queries (R, heads, k, d)."""
    if isinstance(x, (tuple, list)):
        return type(x)(_patch_rows(part, rows) for part in x)
    if x.shape[:-2].numel() != 1:
        raise UnsupportedModelError(f"what blocks are given for each patch is {tuple(x.shape)}: of which is not known")
    return x.reshape(x.shape[-2:])[rows.patches.to(x.device)][:, None]
