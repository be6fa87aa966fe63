"""How open_clip's own text towers read a text."""

from typing import Any

import torch
from torch import Tensor, nn

from captum_vit.access.two_towers import TextSide
from captum_vit.adapters.open_clip_sides import OpenClipClassSide, OpenClipTextSide
from captum_vit.errors import TargetError, UnsupportedModelError
from captum_vit.tokenizing import SIGMOID_END, SIGMOID_FILLS, ended, filled

READ = ("first", "last", "argmax", "eos")  # by name, how a text's feature is read


class OpenClipText:
    """How a transformer of open_clip's own reads a text."""

    def __init__(self, whole: Any) -> None:
        self.tower: Any = getattr(whole, "text", whole)
        self.longest: int = whole.context_length
        self.padded_to: int | None = self.longest
        self.pooled = getattr(self.tower, "pool_type", getattr(self.tower, "text_pool_type", ""))
        self.joined = getattr(self.tower, "cls_emb", None) is not None

    def row(self, ids: Tensor) -> int:
        """The token that is read, where no class token is."""
        if self.pooled in ("first", "last"):
            return 0 if self.pooled == "first" else ids.shape[1] - 1
        if self.pooled != "eos":
            return int(ids[0].argmax())
        end: Any = getattr(self.tower, "eos_id", getattr(self.tower, "text_eos_id", None))
        ends = ids[0].eq(end).nonzero().flatten()
        if not len(ends):
            raise TargetError(f"the ids of a text must hold {end}, the end of a text: got {ids[0].tolist()}")
        return int(ends[0])

    def kinds(self, ids: Tensor) -> list[str]:
        count = ids.shape[1]
        if self.joined:
            return ended(own_of(ids, self.tower.pad_id), count)
        if self.pooled == "last":
            ends = {SIGMOID_END}
            return filled(ids[0].tolist(), ends, {*SIGMOID_FILLS, getattr(self.tower, "pad_id", SIGMOID_END)})
        if self.pooled != "first":
            return ended(self.row(ids) + 1, count)
        used = count
        while used > 1 and ids[0, used - 1] == ids[0, used - 2] == ids[0, -1]:
            used -= 1
        return ended(used, count)

    def side(self, ids: Tensor) -> TextSide:
        name = type(self.tower).__name__
        if not hasattr(getattr(self.tower, "transformer", None), "resblocks") or self.pooled not in READ:
            raise UnsupportedModelError(
                f"what each word gives is not known of the text tower {name}: a transformer of open_clip's own is, "
                f"whose pool_type is one of {', '.join(READ)}, and one of transformers in its HFTextEncoder"
            )
        kind = OpenClipClassSide if self.joined else OpenClipTextSide
        side = kind(self.tower, torch.eye(ids.shape[1], dtype=torch.float64)[self.row(ids)])
        for layer, module in side.attention_layers().items():
            if not (isinstance(module, nn.MultiheadAttention) or getattr(module, "logit_scale", 0) is None):
                raise UnsupportedModelError(f"{layer} of this open_clip tower is no dot-product attention of its own")
        return side


def own_of(ids: Tensor, padding: int) -> int:
    """How many ids there are before those that only fill up."""
    own = ids[0].ne(padding).nonzero().flatten()
    return int(own[-1]) + 1 if len(own) else 0
