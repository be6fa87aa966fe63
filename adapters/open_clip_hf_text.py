"""Text towers of transformers inside open_clip's models, as XLM-RoBERTa's."""

from typing import Any

import torch
from torch import Tensor, nn

from captum_vit.access.two_towers import TextSide
from captum_vit.adapters.open_clip_text import own_of
from captum_vit.adapters.tokenizers import ENOUGH
from captum_vit.errors import UnsupportedModelError
from captum_vit.tokenizing import ended

MEAN, FIRST = "MeanPooler", ("ClsPooler", "ClsLastHiddenStatePooler")
WITHOUT_START = ("t5", "mt5", "umt5")  # whose texts have an end alone


class OpenClipHFTextSide(TextSide):
    """Its attention is the innermost of each layer: what is around it adds what came in."""

    argument = "x"

    def attention_layers(self) -> dict[str, nn.Module]:
        found = {n: m for n, m in self.model.named_modules() if type(m).__name__.endswith("Attention")}
        return {name: found[name] for name in found if not any(other.startswith(f"{name}.") for other in found)}

    def blocks(self) -> dict[str, nn.Module]:
        """The layers of the encoder: of T5 each is a list of its own inside of the stack."""
        stack = next(name for name, m in self.model.named_modules() if isinstance(m, nn.ModuleList))
        depth = stack.count(".") + 2
        return {name: self.model.get_submodule(".".join(name.split(".")[:depth])) for name in self.attention_layers()}

    def scores(self, output: Any) -> Tensor:
        return output[0] if isinstance(output, tuple) else output


class HFText:
    """How a tower of transformers reads a text: what fills it up is left out by a mask, of its own making."""

    padded_to: int | None = None

    def __init__(self, whole: Any) -> None:
        self.tower = whole.text
        self.config: Any = self.tower.config
        places = getattr(self.config, "max_position_embeddings", None) or ENOUGH
        counted_from = self.config.pad_token_id + 1 if "roberta" in self.config.model_type else 0
        self.longest = places - counted_from

    def kinds(self, ids: Tensor) -> list[str]:
        starts = 0 if self.config.model_type in WITHOUT_START else 1
        return ended(own_of(ids, self.config.pad_token_id), ids.shape[1], starts)

    def side(self, ids: Tensor) -> TextSide:
        pooler = type(self.tower.pooler).__name__
        own = ids[0].ne(self.config.pad_token_id).double()
        if pooler != MEAN and pooler not in FIRST:
            raise UnsupportedModelError(
                f"what each word gives is not known of a text tower that is read by open_clip's {pooler}: of one that "
                f"reads the mean of its tokens, or the first of them, it is"
            )
        shares = own / own.sum() if pooler == MEAN else torch.eye(len(own), dtype=torch.float64)[0]
        return OpenClipHFTextSide(self.tower, shares.cpu())
