"""open_clip's VisionTransformer, the image tower of its CLIP and CoCa models (`model.visual`)."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from torch import nn

from captum_vit.access import CLASS, PATCHES, Adapter, Grid, Readout, Switch, TokenLayout, unaltered
from captum_vit.errors import TokenLayoutError, UnsupportedModelError

TOWER = ("VisionTransformer", "open_clip.transformer")  # by name: a model of it implies the import


class OpenClipViT(Adapter):
    """The tokens are [class, patches]; the scores are features, to be compared with the embedding of a text."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.tower = cast(Any, model)
        if getattr(self.tower, "attn_pool_contrastive", None) is not None:
            raise UnsupportedModelError("an open_clip tower with two attention pools is not supported")
        for name, layer in self.attention_layers().items():
            if not (isinstance(layer, nn.MultiheadAttention) or getattr(layer, "logit_scale", 0) is None):
                raise UnsupportedModelError(f"{name} of this open_clip tower is no dot-product attention of its own")

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return any((k.__name__, k.__module__) == TOWER for k in type(model).__mro__)

    def attention_layers(self) -> dict[str, nn.Module]:
        layers = {f"transformer.resblocks.{i}.attn": b.attn for i, b in enumerate(self.tower.transformer.resblocks)}
        return layers | {name: self.tower.get_submodule(name) for name in self.cross_attention}

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        height, width = self.tower.image_size
        if image_size != (height, width):
            raise TokenLayoutError(
                f"the model takes images of {height}x{width}, got {image_size[0]}x{image_size[1]}: resize them, or "
                f"create it with force_image_size=..."
            )
        return TokenLayout(tuple(self.tower.grid_size), 1, tuple(self.tower.patch_size), self.readout or CLASS)

    @property
    def readout(self) -> Readout | None:
        if not unaltered(self.model, "open_clip", ()):
            return None
        if not self.cross_attention:
            return {"tok": CLASS, "avg": PATCHES}.get(self.tower.pool_type)
        queries = range(len(self.tower.attn_pool.query))  # the first takes the place of the class token
        latents = {"tok": queries[:1], "avg": queries[1:]}.get(self.tower.pool_type)
        return None if latents is None else Readout((0,), patches=True, even=True, latents=tuple(latents))

    @property
    def image_size(self) -> Grid:
        return tuple(self.tower.image_size)

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        return ("class",)

    @property
    def cross_attention(self) -> Mapping[str, bool]:
        return {} if getattr(self.tower, "attn_pool", None) is None else {"attn_pool.attn": False}

    @property
    def embedding(self) -> nn.Module:
        return self.tower.ln_pre

    @property
    def first_block(self) -> nn.Module:
        return self.tower.transformer.resblocks[0]

    @property
    def headless(self) -> bool:
        return True

    def capturing(self) -> Iterable[Switch]:
        yield self.tower.transformer, "grad_checkpointing", False
