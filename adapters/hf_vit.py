"""Hugging Face's ViT, DeiT (teacher too), ViTModel as in DINO checkpoints, DINOv2 with and without registers."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from torch import Tensor, nn
from transformers import (
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DeiTModel,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    ViTForImageClassification,
    ViTModel,
)

from captum_vit.errors import TokenLayoutError
from captum_vit.layers import (
    CLASS,
    CLASS_AND_DISTILLATION,
    CLASS_AND_PATCHES,
    Adapter,
    Readout,
    Switch,
    TokenLayout,
    unaltered,
)

READOUTS: dict[type[PreTrainedModel], Readout] = {
    ViTForImageClassification: CLASS,
    ViTModel: CLASS,
    DeiTForImageClassification: CLASS,
    DeiTForImageClassificationWithTeacher: CLASS_AND_DISTILLATION,
    DeiTModel: CLASS,
    Dinov2ForImageClassification: CLASS_AND_PATCHES,
    Dinov2Model: CLASS,
    Dinov2WithRegistersForImageClassification: CLASS_AND_PATCHES,
    Dinov2WithRegistersModel: CLASS,
}


class HFViT(Adapter):
    """Layers with one `attention` each; the tokens are [class, distillation or registers, patches]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.hf = cast(Any, model)
        self.backbone: Any = self.hf.base_model
        self.embeddings: Any = self.backbone.embeddings

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return isinstance(model, tuple(READOUTS))

    @property
    def _blocks(self) -> Any:
        return self.backbone.encoder.layer if hasattr(self.backbone, "encoder") else self.backbone.layers

    def attention_layers(self) -> dict[str, nn.Module]:
        names: dict[nn.Module, str] = {module: name for name, module in self.hf.named_modules()}
        return {names[block.attention]: block.attention for block in self._blocks}

    def token_layout(self, image_size: tuple[int, int], arguments: Mapping[str, Any]) -> TokenLayout:
        (height, width), patch = image_size, self.embeddings.patch_embeddings.projection.kernel_size
        trained = getattr(self.embeddings, "image_size", image_size)  # DINOv2 takes any size
        if tuple(trained) != image_size and not arguments.get("interpolate_pos_encoding"):
            raise TokenLayoutError(
                f"the model takes images of {trained[0]}x{trained[1]}, got {height}x{width}: resize them, or pass "
                f"forward_kwargs={{'interpolate_pos_encoding': True}}"
            )
        grid = (height // patch[0], width // patch[1])
        if 0 in grid:
            raise TokenLayoutError(f"images of {height}x{width} are smaller than a patch of {patch[0]}x{patch[1]}")
        return TokenLayout(grid, self._prefix, tuple(patch), self.readout or CLASS)

    @property
    def _prefix(self) -> int:
        tokens = (
            getattr(self.embeddings, name, None) for name in ("cls_token", "distillation_token", "register_tokens")
        )
        return sum(token.shape[1] for token in tokens if token is not None)

    @property
    def readout(self) -> Readout | None:
        names = ("classifier", "cls_classifier", "distillation_classifier", "pooler")
        heads = [head for name in names if isinstance(head := getattr(self.hf, name, None), nn.Module)]
        # a subclass may pool in its own way
        return READOUTS.get(type(self.hf)) if unaltered(self.hf, "transformers", heads) else None

    @property
    def first_block(self) -> nn.Module:
        return self._blocks[0]

    @property
    def headless(self) -> bool:
        return self.model is self.backbone or getattr(self.hf.config, "num_labels", 1) == 0

    @property
    def class_names(self) -> Mapping[int, str]:
        return {} if self.headless else dict(self.hf.config.id2label)

    def scores(self, output: Any) -> Tensor:
        """Logits; of a bare backbone its class token, since the pooler of DINO checkpoints is random."""
        if self.model is self.backbone:
            hidden = output[0]  # last_hidden_state, as a tuple too
            return hidden[:, 0]
        return super().scores(output)

    def capturing(self) -> Iterable[Switch]:
        for config in {id(m.config): m.config for m in self.hf.modules() if hasattr(m, "config")}.values():
            yield config, "_attn_implementation_internal", "sdpa"
        for block in self._blocks:
            yield block, "gradient_checkpointing", False
