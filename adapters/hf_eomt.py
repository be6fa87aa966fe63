"""Hugging Face's EoMT, on DINOv2 and on DINOv3: queries join the tokens before the last blocks, each with a mask."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from captum_vit.access import PATCHES, Grid, Readout, TokenLayout
from captum_vit.adapters.hf_common import HFAdapter
from captum_vit.adapters.hf_tokens import prefix_tokens
from captum_vit.errors import TokenLayoutError, UnsupportedModelError
from captum_vit.targets.masks_of_queries import semantic

MODELS = ("EomtForUniversalSegmentation", "EomtDinov3ForUniversalSegmentation")


class HFEomt(HFAdapter):
    """Tokens are [class, registers, patches], and in the last blocks queries come before these.

    The scores are those of its semantic map; targets find queries and masks beside it.
    """

    readouts: Mapping[str, Any] = dict.fromkeys(MODELS)  # measured: each target is read from tokens of its own
    headless = bare = False
    any_size = True  # its own one alone, which is asked here
    first_block = None  # not all tokens go into it

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        return ("query",) * self.hf.config.num_queries + prefix_tokens(self.backbone.embeddings)

    @property
    def _joined(self) -> list[str]:
        """The layers of which queries are tokens."""
        return list(self.attention_layers())[-self.hf.config.num_blocks :]

    def reading_layers(self, readout: Readout) -> list[str]:
        earlier = readout.patches or any(index >= self.hf.config.num_queries for index in readout.prefix)
        return list(self.attention_layers()) if earlier else self._joined

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        chances = self.hf.attn_mask_probs.tolist()
        if any(0 < chance < 1 for chance in chances):
            raise UnsupportedModelError(
                f"{type(self.hf).__name__} draws at random, outside training too, which queries its masks hold for, so "
                f"that no two forwards are alike: attn_mask_probs has {[round(chance, 4) for chance in chances]}. Set "
                f"them by model.attn_mask_probs.fill_(0), as a trained model has it, or to 1"
            )
        if image_size != self.image_size:
            (height, width), own = image_size, self.image_size
            raise TokenLayoutError(f"the model takes images of {own[0]}x{own[1]}, got {height}x{width}: resize them")
        layout, joined = super().token_layout(image_size, arguments), self._joined
        own = self.prefix - self.hf.config.num_queries
        prefixes = {name: self.prefix if name in joined else own for name in self.attention_layers()}
        return replace(layout, readout=PATCHES, prefixes=prefixes)

    def scores(self, output: Any) -> Tensor:
        found = semantic(output)
        return super().scores(output) if found is None else found
