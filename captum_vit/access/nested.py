"""A supported model inside somebody's own module."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import Adapter
from .attention import Projections
from .modules import Switch
from .tokens import Grid, Readout, TokenLayout


class NestedAdapter(Adapter):
    """A supported ViT inside somebody's own module: the outer output is the score, the readout is measured.

    >>> adapter = adapt(torch.nn.Sequential(model, torch.nn.Softmax(-1)))
    >>> type(adapter).__name__, next(iter(adapter.attention_layers()))
    ('NestedAdapter', '0.blocks.0.attn')
    """

    def __init__(self, model: nn.Module, name: str, inner: Adapter) -> None:
        super().__init__(model)
        self.name, self.inner, self.vit = name, inner, inner.vit
        self.batch_dims, self.on_images = inner.batch_dims, inner.on_images

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return False

    def attention_layers(self) -> dict[str, nn.Module]:
        return {self._outer(name): layer for name, layer in self.inner.attention_layers().items()}

    def calls(self) -> dict[nn.Module, list[str | None]]:
        return {module: [name and self._outer(name) for name in names] for module, names in self.inner.calls().items()}

    def prepare(self, images: Tensor, kwargs: Mapping[str, Any]) -> None:
        return self.inner.prepare(images, kwargs)

    def call_with(self, images: Tensor) -> Mapping[str, Any]:
        """By the names under which the ViT takes them, where its owner takes several of these; else as images."""
        named = inspect.signature(self.model.forward).parameters.values()
        anything = all(parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in named)
        known = {parameter.name for parameter in named}
        inner = {name: x for name, x in self.inner.call_with(images).items() if anything or name in known}
        return inner if len(inner) > 1 else super().call_with(images)

    def batch_of(self, arguments: Mapping[str, Any]) -> tuple[int, Grid] | None:
        return self.inner.batch_of(arguments)

    def size_of(self, images: Tensor) -> Grid:
        return self.inner.size_of(images)

    def example(self, size: Grid, draw: torch.Generator) -> Tensor:
        return self.inner.example(size, draw)

    def framed(self, video: Tensor) -> Tensor:
        return self.inner.framed(video)

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        layout = self.inner.token_layout(image_size, arguments)
        grids = {self._outer(name): grid for name, grid in layout.grids.items()}
        prefixes = {self._outer(name): count for name, count in layout.prefixes.items()}
        return replace(layout, grids=grids, prefixes=prefixes)

    @property
    def first_block(self) -> nn.Module | None:
        return self.inner.first_block

    @property
    def image_size(self) -> Grid | None:
        return self.inner.image_size

    @property
    def stem(self) -> nn.Module | None:
        return self.inner.stem

    @property
    def settings(self) -> tuple:
        return self.inner.settings

    @property
    def foreign(self) -> tuple[str, ...]:
        return self.inner.foreign

    @property
    def in_channels(self) -> int | None:
        return self.inner.in_channels

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        return self.inner.prefix_tokens

    def patch_arguments(self) -> Mapping[nn.Module, str]:
        return self.inner.patch_arguments()

    @property
    def cross_attention(self) -> Mapping[str, bool]:
        return {self._outer(name): skip for name, skip in self.inner.cross_attention.items()}

    def blocks(self) -> dict[str, nn.Module]:
        return {self._outer(name): block for name, block in self.inner.blocks().items()}

    @property
    def embedding(self) -> nn.Module | None:
        return self.inner.embedding

    def stream(self, values: Any) -> Tensor:
        return self.inner.stream(values)

    @property
    def tokens_first(self) -> bool:
        return self.inner.tokens_first

    def reading_layers(self, readout: Readout) -> list[str]:
        return [self._outer(name) for name in self.inner.reading_layers(readout)]

    @property
    def bypass(self) -> tuple[nn.Module, ...]:
        return self.inner.bypass

    @property
    def gap(self) -> str | None:
        return self.inner.gap

    @property
    def measured(self) -> bool:
        return self.inner.measured

    @property
    def mixes_before(self) -> bool:
        return self.inner.mixes_before

    def projections(self) -> Mapping[str, Projections]:
        return {self._outer(name): projections for name, projections in self.inner.projections().items()}

    def capturing(self) -> Iterable[Switch]:
        return self.inner.capturing()

    def _outer(self, name: str) -> str:
        return f"{self.name}.{name}"
