"""open_clip's CLIP models, images and texts."""

from typing import Any, cast

from torch import Tensor, nn

from captum_vit.access import Readout, adapt, unaltered
from captum_vit.access.two_towers import Encoded, TextSide, TwoTowers, check_unmasked
from captum_vit.adapters.tokenizers import encode
from captum_vit.errors import TargetError, UnsupportedModelError

WHOLE = ("CLIP", "CustomTextCLIP")
MODULE = "open_clip.model"
KNOWN = ("argmax", "last", "eos")  # how a text's feature is read


class OpenClipTextSide(TextSide):
    """The text tower; of CLIP itself its parts lie in the model, of others in `model.text`."""

    argument = "text"

    def __init__(self, whole: nn.Module, tower: Any, row: int, tokens: int) -> None:
        super().__init__(whole, row, tokens)
        self.tower = tower
        self.prefix = "" if tower is whole else "text."

    def attention_layers(self) -> dict[str, nn.Module]:
        blocks = enumerate(self.tower.transformer.resblocks)
        return {f"{self.prefix}transformer.resblocks.{i}.attn": block.attn for i, block in blocks}

    def scores(self, output: Any) -> Tensor:
        return output["text_features"] if isinstance(output, dict) else output[1]


class OpenClipTwoTowers(TwoTowers):
    """The whole model runs on images alone."""

    def __init__(self, model: nn.Module) -> None:
        self.whole = cast(Any, model)
        super().__init__(model, "visual", adapt(self.whole.visual))
        self.tower: Any = getattr(model, "text", model)
        self.pooled = getattr(self.tower, "pool_type", getattr(self.tower, "text_pool_type", ""))

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return any(kind.__name__ in WHOLE and kind.__module__ == MODULE for kind in type(model).__mro__)

    @property
    def readout(self) -> Readout | None:
        return self.inner.readout if unaltered(self.model, "open_clip", ()) else None

    def scores(self, output: Any) -> Tensor:
        return output["image_features"] if isinstance(output, dict) else output[0]

    @property
    def longest(self) -> int:
        return self.whole.context_length

    @property
    def scale(self) -> tuple[float, float]:
        bias = self.whole.logit_bias
        return float(self.whole.logit_scale.detach().exp()), 0.0 if bias is None else float(bias.detach())

    @property
    def each_by_itself(self) -> bool:
        return self.whole.logit_bias is not None

    def encode(self, tokenizer: Any, sentence: str) -> Encoded:
        return encode(tokenizer, sentence, padded_to=self.longest)

    def row(self, ids: Tensor) -> int:
        if self.pooled == "last":
            return ids.shape[1] - 1
        if self.pooled != "eos":
            return int(ids[0].argmax())
        end: Any = getattr(self.tower, "eos_id", getattr(self.tower, "text_eos_id", None))
        ends = ids[0].eq(end).nonzero().flatten()
        if not len(ends):
            raise TargetError(f"the ids of a text must hold {end}, the end of a text: got {ids[0].tolist()}")
        return int(ends[0])

    def used(self, ids: Tensor) -> int:
        if self.pooled != "last":
            return self.row(ids) + 1
        used = ids.shape[1]
        while used > 1 and ids[0, used - 1] == ids[0, used - 2] == ids[0, -1]:
            used -= 1
        return used

    def begins(self, ids: Tensor) -> int:
        return 0 if self.pooled == "last" else 1

    def text_feature(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        check_unmasked(self.whole, mask)
        return self.whole.encode_text(ids)

    def text_side(self, ids: Tensor) -> TextSide:
        own = hasattr(getattr(self.tower, "transformer", None), "resblocks")
        if not own or self.pooled not in KNOWN or getattr(self.tower, "cls_emb", None) is not None:
            raise UnsupportedModelError(
                f"what each word gives is not known of the text tower {type(self.tower).__name__} of "
                f"{type(self.whole).__name__}: a transformer of open_clip's own is, read at the end of the text"
            )
        for name, layer in OpenClipTextSide(self.whole, self.tower, 0, 1).attention_layers().items():
            if not (isinstance(layer, nn.MultiheadAttention) or getattr(layer, "logit_scale", 0) is None):
                raise UnsupportedModelError(f"{name} of this open_clip tower is no dot-product attention of its own")
        return OpenClipTextSide(self.whole, self.tower, self.row(ids), ids.shape[1])
