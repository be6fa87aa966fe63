"""Hugging Face's ViLT: words and patches in one sequence, [words, class, patches]."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from captum_vit.access import CLASS, Grid, TokenLayout
from captum_vit.adapters.hf_common import HFAdapter
from captum_vit.errors import InputError, TokenLayoutError

READOUTS = dict.fromkeys(["ViltModel", "ViltForQuestionAnswering", "ViltForImageAndTextRetrieval"], CLASS)
SEVERAL = "ViltForImagesAndTextClassification"


class HFVilt(HFAdapter):
    """The words are prefix tokens, and the first of them is read; images of any size, without padding.

    The model puts its patches in a random order at each call, and nothing depends on it: while it is explained they
    stay in their own (`captum_vit.capture.still.in_own_order`).
    """

    readouts = READOUTS
    heads = ("classifier", "rank_output", "pooler")
    any_size = True

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return super().matches(model) or any(kind.__name__ == SEVERAL for kind in type(model).__mro__)

    @classmethod
    def refusal(cls, model: nn.Module) -> str | None:
        if all(kind.__name__ != SEVERAL for kind in type(model).__mro__):
            return None
        return (
            f"{type(model).__name__} runs its ViT once for each of several images beside a text, and reads them "
            f"together: explain model.vilt on each of them"
        )

    def attention_of(self, block: Any) -> nn.Module:
        return block.attention.attention  # type: ignore[no-any-return]

    def prepare(self, images: Tensor, kwargs: Mapping[str, Any]) -> None:
        most, mask = self.backbone.config.max_image_length, kwargs.get("pixel_mask")
        if mask is not None and not bool((mask != 0).all()):
            raise InputError(
                f"{type(self.model).__name__} draws patches at random to fill up padded images (pixel_mask has zeros): "
                f"pass images of one size without padding, or one at a time"
            )
        rows, cols = self.token_layout(self.size_of(images), {**kwargs, "inputs_embeds": images[:, :1, 0]}).grid
        if isinstance(most, int) and 0 <= most < rows * cols:
            raise TokenLayoutError(
                f"{type(self.model).__name__} takes at most {most} patches, drawn at random, of the {rows * cols} of "
                f"images of {'x'.join(map(str, self.size_of(images)))}: resize them, or raise its max_image_length"
            )

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        given = [arguments.get(name) for name in ("input_ids", "inputs_embeds")]
        words = next((x for x in given if x is not None), None)
        if words is None:
            raise InputError(
                f"{type(self.model).__name__} takes input_ids beside images: pass forward_kwargs={{'input_ids': ...}}"
            )
        layout = super().token_layout(image_size, {})
        return TokenLayout(layout.grid, words.shape[1] + 1, layout.patch, layout.readout)

    @property
    def first_block(self) -> nn.Module | None:
        return None  # its blocks are given a mask over all tokens

    @property
    def embedding(self) -> nn.Module | None:
        return None  # its embeddings come with their mask

    def features(self, output: Any) -> Tensor:
        """What the pooler gives; without one, the first word."""
        return output[1] if self.backbone.pooler is not None else super().features(output)
