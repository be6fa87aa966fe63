"""The model on a part of its patch tokens: the others are as if they had never been, and all keep their positions."""

from collections.abc import Callable, Hashable
from math import prod

import torch
from torch import Tensor, nn

from .. import ops
from ..access import Adapter, Readout, TokenLayout
from ..errors import CaptumViTError, InputError, UnsupportedModelError
from ..targets import Output, Target
from .chosen import Chosen
from .inputs import Inputs
from .leaving import Entering, Unseen, Way, run

FAILS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError)  # of code that expects all of its tokens
PART = 4  # of the patches, one in so many, in which another order is tried too
NOISE = 10.0  # of the spread of what attention gives


class Subsets:
    """A model, its images, and forwards in which some of their patches are left out.

    Args:
        adapter, inputs: the model, without hooks that must not hear this, and what it is called with.
        layout: where its tokens lie.
        readout: the tokens that the score is read from.
        scores: of the images with all their patches.
        tried: what was found of the model before, by `state`; what is found now is added.
        state: what tells one state of its numbers from another.
    Attributes:
        way: how they are left out.
    Raises:
        UnsupportedModelError: there is no way that is sure.
    """

    def __init__(
        self,
        adapter: Adapter,
        inputs: Inputs,
        layout: TokenLayout,
        readout: Readout,
        scores: Tensor,
        tried: dict[Hashable, str],
        state: Hashable,
    ) -> None:
        self.adapter, self.inputs, self.layout = adapter, inputs, layout
        self.name, self.patches = type(adapter.model).__name__, prod(layout.grid)
        if adapter.training:
            raise UnsupportedModelError(
                f"{self.name} is in train mode, in which a part of its tokens is not run alike: call model.eval()"
            )
        met = adapter.gap or ("patches meet before its first block" if adapter.mixes_before else None)
        if met is not None:  # what is left out may be in the others
            raise self._refused(met)
        mean_of_all = readout.even and bool(readout.prefix)
        self.needs_a_patch = readout.patches and not mean_of_all
        kind = scores.device.type
        coarse = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        depths = tuple(name for name, share in (readout.shares or {}).items() if share.any())
        key = state, readout, depths, scores.dtype, coarse
        if key not in tried:
            if len(tried) > 8:  # of a model whose weights change again and again
                tried.clear()
            tried[key] = self._surest(readout, scores[:1])
        if tried[key] not in self._ways:
            raise self._refused(tried[key])
        self.way = self._ways[tried[key]](readout)

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
        if self.needs_a_patch and not bool(kept.any(2).all()):
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
                output = self._run(self.way, numbers[rows], Chosen.of(self.layout, flat[rows]))
                parts.append(ops.widen(target.score(output).detach()).cpu())
                order.append(rows)
        return torch.cat(parts)[torch.cat(order).argsort()].unflatten(0, kept.shape[:2])

    def _run(self, way: Way, images: Tensor, chosen: Chosen) -> Output:
        """One forward of rows of images."""
        try:
            return run(self.adapter, way, self.inputs.rows(images), chosen)
        except FAILS as error:
            if isinstance(error, (CaptumViTError, torch.OutOfMemoryError)):
                raise
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            count = chosen.patches.shape[1]
            raise UnsupportedModelError(
                f"{self.name} fails on {count} of its {self.patches} patches ({reason})"
            ) from error

    @property
    def _ways(self) -> dict[str, Callable[[Readout], Way]]:
        """How tokens can be left out, the cheapest first."""
        return {
            "entering": lambda readout: Entering(self.adapter),
            "unseen": lambda readout: Unseen(self.adapter, self.layout, readout),
        }

    def _surest(self, readout: Readout, scores: Tensor) -> str:
        """The cheapest way that is seen to be right, or why there is none.

        scores: of the first image.
        """
        reasons = []
        for name, check in (("entering", self._check_entering), ("unseen", self._check_unseen)):
            try:
                check(self._ways[name](readout), readout, scores)
                return name
            except CaptumViTError as error:
                reasons.append(str(error))
        return f"{reasons[0]}; nor is it enough that attention does not see them: {reasons[1]}"

    def _check_entering(self, way: Way, readout: Readout, scores: Tensor) -> None:
        """Where only position embeddings tell where tokens stand, their order is of no matter, whatever their number.

        Tables of positions in the attention, convolutions between tokens and lists of places would show.
        """
        mixed = torch.randperm(self.patches, generator=torch.Generator().manual_seed(0))
        part = mixed[: max(1, self.patches // PART)]
        in_order = self._as_they_stand(part)
        other = self._of_first(way, mixed[None])
        alike = self._same(other, scores)
        if alike:
            other, own = self._of_first(way, torch.cat([part[None], in_order])).split(1)
            alike = self._same(other, own)
        if not alike:
            raise UnsupportedModelError(
                "more than their position embedding tells where they stand, as a table of positions in the attention "
                "or a convolution: in another order they give other scores"
            )

    def _check_unseen(self, way: Way, readout: Readout, scores: Tensor) -> None:
        """Where tokens meet in attention alone, it is of no matter what stands in place of those that are left out."""
        every = torch.arange(self.patches)
        if not self._same(self._of_first(way, self._as_they_stand(every)), scores):
            raise UnsupportedModelError("where attention is computed anew the scores are others")
        half = self._as_they_stand(every[::2])
        noisy = Unseen(self.adapter, self.layout, readout, NOISE)
        if not self._same(self._of_first(noisy, half), self._of_first(way, half)):
            raise UnsupportedModelError("they are seen in other ways, as in a convolution, or by the head")

    def _as_they_stand(self, patches: Tensor) -> Tensor:
        """Some patches in the order of the model, (1, k)."""
        return Chosen.of(self.layout, torch.isin(torch.arange(self.patches), patches)[None]).patches

    def _of_first(self, way: Way, patches: Tensor) -> Tensor:
        """The scores of the first image with these patches of it, in this order, in each row."""
        return self._run(way, torch.zeros(len(patches), dtype=torch.long), Chosen(self.layout, patches)).scores

    def _same(self, found: Tensor, scores: Tensor) -> bool:
        """Whether scores are equal but for rounding; nan never is."""
        if found.shape != scores.shape:
            return False
        difference = (found.double() - scores.double()).abs().max()
        size = scores.double().abs().max().clamp(min=1e-6)
        return bool(difference <= _rounding(self.adapter.model, scores) ** 0.5 * size)

    def _refused(self, reason: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"tokens of {self.name} cannot be left out: {reason}. Methods and metrics that change the image instead "
            f"apply, as occlusion with patches of one colour"
        )


def _rounding(model: nn.Module, scores: Tensor) -> float:
    """Of the coarsest type that the model computes in; many compute a softmax or a norm in float32 at best."""
    kind = scores.device.type
    types = {scores.dtype} | {p.dtype for p in model.parameters() if p.is_floating_point()}
    if torch.is_autocast_enabled(kind):
        types.add(torch.get_autocast_dtype(kind))
    tensor_cores = kind == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return max(2.0**-10 if tensor_cores else 2.0**-23, *(torch.finfo(x).eps for x in types if x.is_floating_point))
