"""torchvision's VisionTransformer (vit_b_16 and its kin), whose blocks are nn.MultiheadAttention."""

from collections.abc import Mapping
from typing import Any, cast

from torch import nn
from torchvision.models import VisionTransformer, ViT_B_16_Weights  # type: ignore[import-untyped]

from captum_vit.access import CLASS, Adapter, Grid, Readout, TokenLayout, unaltered
from captum_vit.errors import TokenLayoutError


class TorchvisionViT(Adapter):
    """The tokens are [class, patches]; the model takes images of one square size."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.torchvision = cast(Any, model)

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return isinstance(model, VisionTransformer)

    def attention_layers(self) -> dict[str, nn.Module]:
        layers = self.torchvision.encoder.layers.named_children()
        return {f"encoder.layers.{name}.self_attention": block.self_attention for name, block in layers}

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        side, patch = self.torchvision.image_size, self.torchvision.patch_size
        if image_size != (side, side):
            raise TokenLayoutError(
                f"the model takes images of {side}x{side}, got {image_size[0]}x{image_size[1]}: resize them, or build "
                f"the model with image_size=... and interpolate its weights by torchvision's interpolate_embeddings"
            )
        return TokenLayout((side // patch, side // patch), 1, (patch, patch), self.readout or CLASS)

    @property
    def image_size(self) -> Grid:
        return self.torchvision.image_size, self.torchvision.image_size

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        return ("class",)

    @property
    def readout(self) -> Readout | None:
        own = type(self.model) is VisionTransformer and unaltered(self.model, "torchvision", [self.torchvision.heads])
        return CLASS if own else None

    @property
    def first_block(self) -> nn.Module | None:
        return next(iter(self.torchvision.encoder.layers))

    @property
    def embedding(self) -> nn.Module:
        return self.torchvision.encoder.dropout

    @property
    def class_names(self) -> Mapping[int, str]:
        last = next((m for m in reversed(list(self.torchvision.heads.modules())) if isinstance(m, nn.Linear)), None)
        names = ViT_B_16_Weights.IMAGENET1K_V1.meta["categories"]  # those of all its weights
        return dict(enumerate(names)) if last is not None and last.out_features == len(names) else {}

    @property
    def headless(self) -> bool:
        return not any(isinstance(module, nn.Linear) for module in self.torchvision.heads.modules())
