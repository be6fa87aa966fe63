"""From a model and images to their patch tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..access import Readout
from ..attr.calls import checked_inputs
from ..attr.patches import EMBEDDED, patch_tokens
from ..capture import GIVEN, READ_ATTENTION, TOKENS, Run
from ..checking import check_flag, check_whole
from ..errors import InputError, OptionError, UnsupportedModelError, brief, nearest
from ..explanation.answering import notes_of, probabilities
from ..explanation.arguments import of_each, together
from ..explanation.explaining import BATCH, Explainer
from ..explanation.seeing import Seen, batches
from ..images import Picture
from ..models import LoadedModel
from ..preprocessing import covered
from .answers import Tokens
from .lens import UNNAMED, patch_scores
from .patches import PatchTokens


def tokens(
    images: Picture | Sequence[Picture],
    model: str | nn.Module | LoadedModel | Explainer = "sample",
    *,
    blocks: Sequence[str | int] | str | int | None = None,
    lens: bool = False,
    batch_size: int = BATCH,
    forward_kwargs: Mapping[str, Any] | None = None,
    **reading: Any,
) -> Tokens:
    """Read the tokens of images' patches, for what they say by themselves: PCA, similarity, norms, names.

    >>> tokens = captum_vit.tokens("photo.jpg", "timm/vit_base_patch16_224")
    >>> tokens.pca().plot()
    >>> tokens.similarity(pixel=(320, 200)).plot()

    Args:
        images: one or several, as for `explain`.
        model: as for `explain`, or an `Explainer`, which holds a model that is loaded already.
        blocks: whose tokens are kept, by number (-1 for the last) or by the name of the attention layer, "embedding"
            for those before the first; or a module by its name, as "norm" for what the head of a timm model is given.
            All blocks by default.
        lens: also what the model's own head makes of each token, of the blocks among them.
        batch_size: images that are read at once.
        forward_kwargs: keyword arguments of the model's forward beside the images, as for `explain`.
        reading: preprocess, class_names, multi_label, output and device, as for `explain`.
    Raises:
        UnsupportedModelError: the model's tokens are not known; or with `lens`, its head reads no single token or mean
            of tokens, with the reason.
        OptionError: no such block.
        CaptumViTError: something else that was passed does not hold.
    """
    if isinstance(images, nn.Module):
        raise InputError(f"the image comes first, then the model, as tokens(image, model): got {brief(images)}")
    check_flag("lens", lens)
    check_whole("batch_size", batch_size)
    if isinstance(model, Explainer) and reading:
        raise OptionError(f"an Explainer knows its {', '.join(reading)} already: leave them out")
    explainer = model if isinstance(model, Explainer) else Explainer(model, **reading)
    pictures = images if isinstance(images, (list, tuple)) else [images]
    rows = of_each(forward_kwargs, len(pictures))
    seen = [explainer.see(picture, row) for picture, row in zip(pictures, rows, strict=True)]
    return tokens_of(seen, explainer, blocks, lens=lens, batch_size=batch_size)


def tokens_of(
    seen: Sequence[Seen],
    explainer: Explainer,
    blocks: Sequence[str | int] | str | int | None = None,
    *,
    lens: bool = False,
    batch_size: int = BATCH,
) -> Tokens:
    """The tokens of images as the model sees them; see `tokens`."""
    if not seen:
        raise InputError("no images: pass one, or a list of some")
    if lens and explainer.classless:
        what = "features" if explainer.headless else "values"
        raise UnsupportedModelError(f"{UNNAMED}: {explainer.model_name} gives {what}, and has no classes")
    reader = Reader(explainer, chosen(explainer, blocks), lens)
    photos = [photo for batch in batches(seen, batch_size) for photo in reader.read(batch)]
    kept, titles, notes = tuple(photos[0].features), explainer.vocabulary.titles, notes_of(explainer.loaded, None)
    return Tokens(tuple(photos), kept, explainer.model_name, titles, notes)


@dataclass(frozen=True)
class Chosen:
    """Whose tokens are kept: blocks by name of their attention layer, and other modules.

    every: whether these are all blocks, of which some may have no tokens of patches.
    """

    blocks: Sequence[str]
    modules: Sequence[str] = ()
    every: bool = False


def chosen(explainer: Explainer, asked: Sequence[str | int] | str | int | None) -> Chosen:
    """The blocks and modules that are asked for, in the order in which they run; all blocks by default.

    Raises:
        UnsupportedModelError: the model's blocks are not known.
        OptionError: no such block or module.
    """
    adapter = explainer.adapter
    blocks, modules = adapter.blocks(), dict(adapter.model.named_modules())
    last = {module: name for name, module in blocks.items()}  # of attentions side by side the last
    if not last:
        raise UnsupportedModelError(
            f"the tokens of {explainer.model_name} are not known: no block stands around its attention layers"
        )
    named, found = list(last.values()), list[str]()
    if asked is None:
        return Chosen([EMBEDDED, *named], every=True)
    for each in [asked] if isinstance(asked, (str, int)) else asked:
        if isinstance(each, int) and not isinstance(each, bool) and -len(named) <= each < len(named):
            found.append(named[each])
        elif each == EMBEDDED:
            found.append(EMBEDDED)
        elif isinstance(each, str) and (each in blocks or each in modules):
            found.append(last.get(blocks[each] if each in blocks else modules[each], each))
        else:
            raise OptionError(
                f"no block {brief(each)}: expected a number from 0 to {len(named) - 1}, one of {EMBEDDED}, "
                f"{', '.join(named)}, or the name of a module{nearest(str(each), named)}"
            )
    if not found:
        raise OptionError("blocks must name at least one, or be None for all")
    others = [name for name in dict.fromkeys(found) if name not in (EMBEDDED, *named)]
    return Chosen([b for b in (EMBEDDED, *named) if b in found], others)


@dataclass(frozen=True)
class Reader:
    """Reads the tokens of images whose inputs have one size.

    explainer: the model.  wanted: whose tokens.  lens: whether the head is asked about each.
    """

    explainer: Explainer
    wanted: Chosen
    lens: bool

    def read(self, seen: Sequence[Seen]) -> list[PatchTokens]:
        """The tokens of a batch."""
        explainer = self.explainer
        inputs = torch.stack([one.inputs for one in seen]).to(explainer.device, explainer.dtype)
        beside = together([one.arguments for one in seen], inputs)
        call = checked_inputs(explainer.adapter, inputs, None, beside, explainer.output)
        needs = {TOKENS} | ({GIVEN} if self.wanted.modules else set()) | ({READ_ATTENTION} if self.lens else set())
        run = Run(explainer.adapter, call, needs, layers=self._layers, given=lambda _: self.wanted.modules)
        with run:
            features = self._features(run)
            blocks = [block for block in self.wanted.blocks if block in features]
            called = patch_scores(run, blocks) if self.lens else {}
            layout = run.layout
        for block, scores in called.items():
            called[block] = probabilities(explainer.loaded, scores.flatten(0, -2)).view(scores.shape)
        size = inputs.shape[2], inputs.shape[3]
        return [
            PatchTokens(one.image, covered(one.view, layout, size), one.source, _of(features, i), _of(called, i))
            for i, one in enumerate(seen)
        ]

    def _layers(self, readout: Readout) -> list[str]:
        """Which attention is kept: of the last layer that is read, for the lens."""
        reading = [name for name in self.explainer.adapter.reading_layers(readout) if readout.reads(name)]
        return reading[-1:] if self.lens else []

    def _features(self, run: Run) -> dict[str, Tensor]:
        """The patches' tokens at each place, (N, *grid, D); places that have none are left out."""
        streams, found = run.tokens(), {}
        for name in self.wanted.blocks:
            patches = patch_tokens(streams[name], run.layout, name)
            if patches is not None:
                found[name] = patches
            elif not self.wanted.every:
                raise OptionError(f"after {name!r} there are no tokens of patches, but of what is before them alone")
        for name, given in (run.given() if self.wanted.modules else {}).items():
            count, grid = given.layout.keys - given.layout.prefix, given.layout.grid
            found[name] = given.values[:, -count:].unflatten(1, grid)
        return found


def _of(batch: Mapping[str, Tensor], image: int) -> dict[str, Tensor]:
    return {name: values[image].float().cpu() for name, values in batch.items()}
