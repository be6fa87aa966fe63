"""open_clip's models of images and texts, CLIP and CoCa."""

from typing import Any, cast

from torch import Tensor, nn

from captum_vit.access import Readout, adapt, unaltered
from captum_vit.access.two_towers import Encoded, TextSide, TwoTowers, check_unmasked
from captum_vit.adapters.open_clip_hf_text import HFText
from captum_vit.adapters.open_clip_text import OpenClipText
from captum_vit.adapters.tokenizers import encode

WHOLE = (("CLIP", "open_clip.model"), ("CustomTextCLIP", "open_clip.model"), ("CoCa", "open_clip.coca_model"))


class OpenClipTwoTowers(TwoTowers):
    """The whole model runs on images alone, and its text tower on the ids of a text."""

    def __init__(self, model: nn.Module) -> None:
        self.whole = cast(Any, model)
        super().__init__(model, "visual", adapt(self.whole.visual))
        tower = getattr(model, "text", None)
        reading = HFText if type(tower).__name__ == "HFTextEncoder" else OpenClipText
        self.words: HFText | OpenClipText = reading(self.whole)

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return any((kind.__name__, kind.__module__) in WHOLE for kind in type(model).__mro__)

    @property
    def readout(self) -> Readout | None:
        beside = (self.whole.text,) if hasattr(self.whole, "text") else ()  # no part of what an image gives
        return self.inner.readout if unaltered(self.model, "open_clip", beside) else None

    def scores(self, output: Any) -> Tensor:
        return output["image_features"] if isinstance(output, dict) else output[0]

    @property
    def longest(self) -> int:
        return self.words.longest

    @property
    def scale(self) -> tuple[float, float]:
        bias = self.whole.logit_bias
        return float(self.whole.logit_scale.detach().exp()), 0.0 if bias is None else float(bias.detach())

    @property
    def each_by_itself(self) -> bool:
        return self.whole.logit_bias is not None

    def encode(self, tokenizer: Any, sentence: str) -> Encoded:
        return encode(tokenizer, sentence, padded_to=self.words.padded_to)

    def kinds(self, ids: Tensor) -> list[str]:
        return self.words.kinds(ids)

    def text_feature(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        check_unmasked(self.whole, mask)
        return self.whole.encode_text(ids)

    def text_side(self, ids: Tensor) -> TextSide:
        return self.words.side(ids)
