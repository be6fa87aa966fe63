"""Hugging Face's CLIP, SigLIP and SigLIP 2, images and texts."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from captum_vit.access import Readout, unaltered
from captum_vit.access.two_towers import Encoded, TextSide, TwoTowers
from captum_vit.adapters.hf_clip import HFClip
from captum_vit.adapters.hf_common import HFAdapter, is_hf
from captum_vit.adapters.hf_naflex import HFNaflex
from captum_vit.adapters.tokenizers import encode
from captum_vit.errors import TargetError
from captum_vit.tokenizing import SIGMOID_END, SIGMOID_FILLS, ended, filled

WHOLE = ("CLIPModel", "SiglipModel", "Siglip2Model")
OLD_END = 2  # in configurations from before the end of a text was written there rightly


class HFTextSide(TextSide, HFAdapter):
    """The text tower: CLIP reads the first end of the text, SigLIP the last token, which may be one that fills up."""

    def __init__(self, whole: nn.Module, shares: Tensor) -> None:
        self.whole = cast(Any, whole)
        super().__init__(self.whole.text_model, shares)

    def attention_of(self, block: Any) -> nn.Module:
        return block.self_attn

    @property
    def image_size(self) -> Any:
        return None

    @property
    def class_names(self) -> Mapping[int, str]:
        return {}

    def scores(self, output: Any) -> Tensor:
        pooled = output[1]
        return self.whole.text_projection(pooled) if hasattr(self.whole, "text_projection") else pooled


class HFTwoTowers(TwoTowers):
    """The whole model runs on images, with the shortest text there is beside them."""

    def __init__(self, model: nn.Module) -> None:
        self.hf = cast(Any, model)
        vision = self.hf.vision_model
        super().__init__(model, "vision_model", (HFNaflex if HFNaflex.matches(vision) else HFClip)(vision))
        self.config = self.hf.config.text_config
        self.sigmoid = hasattr(self.hf, "logit_bias")

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return any(is_hf(kind) and kind.__name__ in WHOLE for kind in type(model).__mro__)

    @property
    def readout(self) -> Readout | None:
        as_made = type(self.hf).__name__ in WHOLE and unaltered(self.hf, "transformers", ())
        return self.inner.readout if as_made else None

    def scores(self, output: Any) -> Tensor:
        if type(output) is tuple:  # return_dict=False: [loss,] logits, logits, text embeddings, image embeddings, ...
            return [each for each in output if isinstance(each, Tensor) and each.dim() == 2][3]
        return output.image_embeds

    def without_text(self) -> dict[str, Any]:
        end = 1 if self.sigmoid or self.config.eos_token_id == OLD_END else self.config.eos_token_id
        return {"input_ids": torch.tensor([[end]], device=self.hf.device)}

    @property
    def longest(self) -> int:
        return self.config.max_position_embeddings

    @property
    def scale(self) -> tuple[float, float]:
        bias = float(self.hf.logit_bias.detach()) if self.sigmoid else 0.0
        return float(self.hf.logit_scale.detach().exp()), bias

    @property
    def each_by_itself(self) -> bool:
        return self.sigmoid

    def encode(self, tokenizer: Any, sentence: str) -> Encoded:
        return encode(tokenizer, sentence, padded_to=self.longest if self.sigmoid else None)

    def row(self, ids: Tensor) -> int:
        """The token that the text's feature is read from."""
        if self.sigmoid:
            return ids.shape[1] - 1
        if self.config.eos_token_id == OLD_END:
            return int(ids[0].argmax())
        ends = ids[0].eq(self.config.eos_token_id).nonzero().flatten()
        if not len(ends):
            raise TargetError(
                f"the ids of a text must hold {self.config.eos_token_id}, the end of a text, which "
                f"{type(self.hf).__name__} reads it from: got {ids[0].tolist()}"
            )
        return int(ends[0])

    def kinds(self, ids: Tensor) -> list[str]:
        if not self.sigmoid:
            return ended(self.row(ids) + 1, ids.shape[1])
        ends = {SIGMOID_END, self.config.eos_token_id}
        return filled(ids[0].tolist(), ends, {*SIGMOID_FILLS, *ends, self.config.pad_token_id})

    def text_feature(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        return self.text_side(ids).scores(self.hf.text_model(input_ids=ids, attention_mask=mask))

    def text_side(self, ids: Tensor) -> TextSide:
        return HFTextSide(self.hf, torch.eye(ids.shape[1], dtype=torch.float64)[self.row(ids)])
