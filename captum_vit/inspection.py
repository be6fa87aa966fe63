"""What the library sees of a model: layers, tokens, readout, and the methods that apply."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from math import prod
from typing import Any

import torch
from torch import nn

from .access import Adapter, AttentionCall, Grid, LayerLayout, TokenLayout
from .access.any_model import AnyModel, adapt_any
from .attr import METHODS
from .attr.calls import checked_inputs
from .attr.stated import why_not
from .attr.trying import tried
from .capture import Run
from .capture.examine import Examined
from .capture.which import Attentions
from .checking import check_whole
from .errors import InputError, OptionError, brief
from .readouts import describe

FEW = 6  # of those who had a hand in a model


@dataclass(frozen=True)
class SeenLayer:
    """One attention layer: its name, module class, heads, and where its queries and keys lie."""

    name: str
    kind: str
    heads: int
    layout: LayerLayout

    @property
    def told(self) -> str:
        """Class, heads, and how many queries meet how many keys."""
        return f"{self.kind}, {self.heads} heads, {len(self.layout.share)} x {self.layout.keys}"


@dataclass(frozen=True, repr=False)
class Inspection:
    """The layer-access view of a model, shown as a table where it is printed or ends a notebook's cell.

    >>> view = inspect(model)
    >>> view.layers[0].name, view.layers[0].heads, view.layout.grid
    ('blocks.0.attn', 12, (14, 14))

    model, adapter: names of the classes.  layers: in execution order.  layout: tokens of an image of `image_size`.
    prefix_tokens: what each token before the patches is.  measured: whether the readout was, for want of a known head.
    methods: name -> None if it applies, else the reason why not.
    output: which of several outputs the scores are, in words; empty where there is one.
    found: what was found, by heading, of a model that no library made as it stands: how its attention was found, who
        else had a hand in it, which part of the image it sees, and what was checked.
    """

    model: str
    adapter: str
    image_size: Grid
    layout: TokenLayout
    prefix_tokens: tuple[str, ...]
    measured: bool
    headless: bool
    layers: tuple[SeenLayer, ...]
    methods: Mapping[str, str | None]
    output: str = ""
    found: Mapping[str, str] = field(default_factory=dict)

    @property
    def _facts(self) -> dict[str, str]:
        """What stands before the layers."""
        size, grid = (" x ".join(map(str, lengths)) for lengths in (self.image_size, self.layout.grid))
        features = "features: a target is FeatureImportance(...), Embedding(...) or one of them"
        if not self.layers:
            return {"image": f"{size} pixels", "scores": features if self.headless else "classes", **self.found}
        measured, names = " (measured)" if self.measured else "", [layer.name for layer in self.layers]
        return {
            "image": f"{size} pixels, {grid} patches",
            "tokens": ", ".join((*self.prefix_tokens, f"{prod(self.layout.grid)} patches")),
            "readout": f"{describe(self.layout.readout, self.prefix_tokens, names)}{measured}",
            "scores": (features if self.headless else "classes") + (f": {self.output}" if self.output else ""),
            **self.found,
        }

    def __repr__(self) -> str:
        lines = [f"{self.model} by {self.adapter}", *(f"{name:7}  {text}" for name, text in self._facts.items())]
        lines.append(f"layers   {len(self.layers)}")
        width = max((len(layer.name) for layer in self.layers), default=0)
        lines += [f"  {index:3d}  {layer.name:{width}}  {layer.told}" for index, layer in enumerate(self.layers)]
        lines.append("methods")
        width = max(map(len, self.methods))
        lines += [f"  {name:{width}}  {_applies(name, why)}" for name, why in self.methods.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        facts = _html(self._facts.items())
        layers = _html((str(index), layer.name, layer.told) for index, layer in enumerate(self.layers))
        methods = _html((name, _applies(name, why)) for name, why in self.methods.items())
        return (
            f"<p><b>{escape(self.model)}</b> by {escape(self.adapter)}</p>{facts}"
            f"<details><summary>{len(self.layers)} layers</summary>{layers}</details>"
            f"<details open><summary>methods</summary>{methods}</details>"
        )


def _applies(name: str, why: str | None) -> str:
    """Whether a method applies, or why not; of a costly one what it costs."""
    costly = METHODS[name].costly if name in METHODS else ""
    return f"no: {why}" if why is not None else f"yes, by name alone: {costly}" if costly else "yes"


def _html(rows: Iterable[tuple[str, ...]]) -> str:
    """A table, its first column as headings."""
    lines = (
        f'<tr><th style="text-align: left">{escape(first)}</th>'
        + "".join(f'<td style="text-align: left">{escape(cell)}</td>' for cell in cells)
        + "</tr>"
        for first, *cells in rows
    )
    return f"<table>{''.join(lines)}</table>"


def inspect(
    model: nn.Module,
    image_size: Grid | None = None,
    *,
    forward_kwargs: Mapping[str, Any] | None = None,
    output: Any = None,
) -> Inspection:
    """Look at a model through its adapter, by one forward of an image of noise; more where the readout is measured, or
    others have had a hand in the model.

    >>> print(inspect(model))  # doctest: +ELLIPSIS
    VisionTransformer by TimmViT
    image    224 x 224 pixels, 14 x 14 patches
    tokens   class, 196 patches
    readout  class token
    ...

    Args:
        model: any supported model.
        image_size: (height, width) of the image; by default what the model was built for.
        forward_kwargs: keyword arguments of the model's forward beside the image, for one image.
        output: which of the model's outputs are its scores, where it gives several tensors; as for the methods.
    Raises:
        UnsupportedModelError: no adapter knows the model, and it looks at no images.
        InputError: the model does not say for which size it was built, and none was given; or it needs further
            arguments.
        TokenLayoutError: it does not take images of that size.
        LayerNotRecordedError: it computes attention in a way that its adapter does not see.
    """
    adapter = adapt_any(model)
    if image_size is not None:
        if not isinstance(image_size, (tuple, list)) or len(image_size) != adapter.batch_dims - 2:
            raise OptionError(f"image_size must be (height, width), got {brief(image_size)}")
        for side in image_size:
            check_whole("image_size", side)
    if isinstance(adapter, AnyModel):
        return _of_any_model(adapter, image_size, forward_kwargs, output)
    size = image_size or adapter.image_size
    if size is None:
        raise InputError(f"{type(model).__name__} does not say for which images it was built: pass image_size")
    weight = next((p for p in adapter.vit.parameters() if p.is_floating_point()), torch.zeros(()))
    draw = torch.Generator().manual_seed(0)  # of a blank image a measured score can be flat
    image = adapter.example(size, draw).to(weight)
    call = checked_inputs(adapter, image, None, forward_kwargs, output)
    with torch.no_grad():
        run = Run(adapter, call, {_heads_and_layout})
        seen, found = run.reduced(_heads_and_layout), _found(adapter, run)
    modules = adapter.attention_layers()
    return Inspection(
        type(adapter.model).__name__,
        type(adapter).__name__,
        size,
        run.layout,
        _prefix_tokens(adapter, run.layout),
        not run.readout.declared,
        adapter.headless,
        tuple(SeenLayer(n, type(modules[n]).__name__, *found) for n, found in seen.items()),
        {name: method.unsuited(adapter) for name, method in METHODS.items()},
        run.scores_told,
        found,
    )


def _of_any_model(adapter: AnyModel, size: Grid | None, kwargs: Mapping[str, Any] | None, output: Any) -> Inspection:
    """Of a model that no adapter knows: each kind of method is tried, on noise of a size that the model takes."""
    told = tried(adapter, size, kwargs, output)
    methods = {
        name: told.refusals.get(name, why_not(method, adapter)) if method.any_model else "it reads attention or tokens"
        for name, method in METHODS.items()
    }
    found = {**told.facts, "attention": f"not read: {adapter.reason}"}
    kind = type(adapter.model).__name__
    return Inspection(kind, "no adapter", told.size, told.layout, (), False, adapter.headless, (), methods, "", found)


def _heads_and_layout(call: AttentionCall) -> tuple[int, LayerLayout]:
    return call.heads, call.layout


def _found(adapter: Adapter, run: Run) -> dict[str, str]:
    """What was found of a model that no library made as it stands, by heading."""
    examined, told = run.examined, dict[str, str]()
    found = getattr(adapter, "attentions", None)
    if adapter.measured and isinstance(found, Attentions):
        layers = sum(name is not None for names in found.layers.values() for name in names)
        told["found"] = (
            f"by running it on an image of noise: {layers} times a softmax over keys is multiplied with values; which "
            f"patch of the image each token is was measured"
        )
    if examined.hands.words:
        told["others"] = _listed(examined.hands.words)
    if (view := examined.place.view or run.layout.view) is not None:
        left, top, right, bottom = view.window
        told["view"] = f"x from {left:.0f} to {right:.0f}, y from {top:.0f} to {bottom:.0f} (pixels of the input)"
    if examined.place.order is not None or run.layout.order is not None:
        told["order"] = "tokens stand in another order than their patches; maps are put into that of the patches"
    if told:
        told["checked"] = _checked(adapter, run, examined)
    return told


def _listed(words: tuple[str, ...]) -> str:
    return "; ".join(words[:FEW]) + (f"; and {len(words) - FEW} more" if len(words) > FEW else "")


def _checked(adapter: Adapter, run: Run, examined: Examined) -> str:
    """How far what is seen can be relied on."""
    parts = []
    if not adapter.training:
        plain = run.score(run.inputs.images).double()
        difference = float((run.scores.double() - plain).abs().max() / plain.abs().max().clamp_min(1e-30))
        parts.append(f"scores equal those of a plain call to {max(difference, 1e-7):.0e}")
    if adapter.gap is not None:
        parts.append(f"tokens meet elsewhere too: {adapter.gap}")
    elif examined.intact:
        parts.append("tokens meet nowhere but in these layers")
    else:
        parts.append("tokens meet elsewhere too, so that what the score is read from was measured")
    return "; ".join(parts)


def _prefix_tokens(adapter: Adapter, layout: TokenLayout) -> tuple[str, ...]:
    """The adapter's names, or numbers where it has none."""
    names = adapter.prefix_tokens
    return names if len(names) == layout.prefix else tuple(f"token {i}" for i in range(layout.prefix))
