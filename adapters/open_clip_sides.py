"""The tokens of texts in open_clip's own text towers, where a ViT has patches."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from captum_vit.access import CLASS, Grid, Readout, TokenLayout
from captum_vit.access.two_towers import TextSide


class OpenClipTextSide(TextSide):
    """A transformer of open_clip's own; of CLIP itself its parts lie in the model."""

    argument = "text"

    def attention_layers(self) -> dict[str, nn.Module]:
        blocks: Any = self.model.get_submodule("transformer.resblocks")
        return {f"transformer.resblocks.{i}.attn": block.attn for i, block in enumerate(blocks)}

    def scores(self, output: Any) -> Tensor:
        if isinstance(output, dict):
            return output["text_features"]
        if isinstance(output, tuple):  # CLIP's images, texts and scale; a tower's feature and tokens
            return next(each for each in output if each is not None)
        return output


class OpenClipClassSide(OpenClipTextSide):
    """The class token of CoCa comes last, and is read; it is no token of the text."""

    @property
    def readout(self) -> Readout:
        return CLASS

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        return ("class",)

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        order = torch.arange(self.tokens + 1).roll(1)
        return TokenLayout((self.tokens,), 1, (1,), CLASS, order=order)
