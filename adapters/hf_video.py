"""Hugging Face's VideoMAE and ViViT: tokens of a few frames each, which attend to one another in space and time."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from captum_vit.access import CLASS, PATCHES, Grid, Readout, TokenLayout
from captum_vit.adapters.hf_video_common import HFVideoAdapter
from captum_vit.errors import TokenLayoutError

READOUTS = {
    "VideoMAEForVideoClassification": PATCHES,
    "VideoMAEModel": PATCHES,
    "VivitForVideoClassification": CLASS,
    "VivitModel": CLASS,
}
PRETRAINING = "VideoMAEForPreTraining"


class HFVideo(HFVideoAdapter):
    """Tokens are [class, where there is one; frames, rows, columns]; it takes videos of the size it is built for."""

    readouts = READOUTS
    heads = ("classifier", "pooler")

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return super().matches(model) or type(model).__name__ == PRETRAINING

    @classmethod
    def refusal(cls, model: nn.Module) -> str | None:
        if type(model).__name__ != PRETRAINING:
            return None
        return (
            f"{PRETRAINING} is not supported: most patches of its videos are masked and never seen, and it gives their "
            f"pixels; pass its encoder, model.videomae"
        )

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        self.check_size(image_size)
        if arguments.get("bool_masked_pos") is not None:
            raise TokenLayoutError("bool_masked_pos leaves patches out, whose tokens a map has no place for: pass none")
        tubelet = self.tubelet
        grid = tuple(side // part for side, part in zip(image_size, tubelet, strict=True))
        return TokenLayout(grid, self.prefix, tubelet, self.readout or CLASS)

    @property
    def by_first_token(self) -> bool:
        """Whether the score is read from the first token, which without a class token is the first patch."""
        return self.prefix == 0 and not self.backbone.config.use_mean_pooling

    @property
    def readout(self) -> Readout | None:
        return None if self.by_first_token else super().readout  # measured, since a patch is no prefix token

    def features(self, output: Any) -> Tensor:
        """What the classifier would be given: the class token or the first patch, else the mean of the patches."""
        return output[0].mean(1) if self.prefix == 0 and not self.by_first_token else super().features(output)
