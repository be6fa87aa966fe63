"""An adapter for attention that nobody can see into, written from CONTRIBUTING.md alone."""

import torch

import captum_vit
from captum_vit.access import CLASS, Projections, TokenLayout

from .compiled import HEADS, PATCH, CompiledViT


class CompiledAdapter(captum_vit.Adapter):
    """Patches column by column, then the class token."""

    readout = CLASS
    prefix_tokens = ("class",)

    @classmethod
    def matches(cls, model):
        return isinstance(model, CompiledViT)

    def attention_layers(self):
        return {f"layers.{i}.attention": layer.attention for i, layer in enumerate(self.model.layers)}

    def projections(self):
        layers = self.attention_layers().items()
        return {name: Projections((layer.q, layer.kv), split, layer.out, scale=0.4) for name, layer in layers}

    def token_layout(self, image_size, arguments):
        rows, cols = (side // PATCH for side in image_size)
        by_column = torch.arange(rows * cols).view(cols, rows).T.flatten()  # of each patch, row by row, its place
        order = torch.cat([torch.tensor([rows * cols]), by_column])  # the class token stands last
        return TokenLayout((rows, cols), 1, (PATCH, PATCH), CLASS, order=order)


def split(q, kv):
    """(B, N, H * d) and (B, N, 2 * H * d) -> q, k and v, (B, H, N, d) each."""
    return tuple(x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, *kv.chunk(2, -1)))
