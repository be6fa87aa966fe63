"""Hugging Face's V-JEPA 2: an encoder with rotary positions, and behind it a pooler that reads by attention."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from captum_vit.access import PATCHES, Grid, Readout, TokenLayout
from captum_vit.adapters.hf_video_common import HFVideoAdapter
from captum_vit.errors import TokenLayoutError

READOUTS = {"VJEPA2ForVideoClassification": Readout((), patches=True, latents=(0,)), "VJEPA2Model": PATCHES}
POOLER = "pooler.cross_attention_layer.cross_attn"


class HFVJepa(HFVideoAdapter):
    """Videos of any size; tokens are (frames, rows, columns), of which the classifier's one query reads all."""

    readouts = READOUTS

    @property
    def bare(self) -> bool:
        return not isinstance(getattr(self.hf, "pooler", None), nn.Module)

    def attention_layers(self) -> dict[str, nn.Module]:
        found = super().attention_layers()
        if not self.bare:
            for number, layer in enumerate(self.hf.pooler.self_attention_layers):
                found[f"pooler.self_attention_layers.{number}.self_attn"] = layer.self_attn
            found[POOLER] = self.hf.pooler.cross_attention_layer.cross_attn
        return found

    @property
    def cross_attention(self) -> Mapping[str, bool]:
        return {} if self.bare else {POOLER: True}

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        tubelet = self.tubelet
        frames = image_size[0] * (tubelet[0] if image_size[0] < tubelet[0] else 1)  # a short video is repeated
        grid = tuple(side // part for side, part in zip((frames, *image_size[1:]), tubelet, strict=True))
        if 0 in grid:
            got, wanted = ("x".join(map(str, each)) for each in (image_size, tubelet))
            raise TokenLayoutError(f"videos of {got} (frames, height, width) are smaller than a tubelet of {wanted}")
        patch = tubelet if frames == image_size[0] else (image_size[0] / grid[0], *tubelet[1:])
        return TokenLayout(grid, 0, patch, self.readout or PATCHES)

    @property
    def channels(self) -> int:
        return int(self.hf.config.in_chans)

    @property
    def image_size(self) -> Grid:
        config = self.backbone.config
        return config.frames_per_clip, config.crop_size, config.crop_size

    def features(self, output: Any) -> Tensor:
        """The mean of the encoder's tokens; its predictor is not read."""
        return output[0].mean(1)  # type: ignore[no-any-return]
