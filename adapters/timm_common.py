"""What the adapters of timm's models share."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from captum_vit.errors import TokenLayoutError
from captum_vit.layers import Adapter, Grid, Readout, Switch, TokenLayout, unaltered


class TimmAdapter(Adapter):
    """A model of timm; what is missing here is where its attention layers stand."""

    kinds: tuple[str, ...] = ()  # names of timm's classes that the adapter serves, subclasses too

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.timm = cast(Any, model)

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return any(is_timm(kind) and kind.__name__ in cls.kinds for kind in type(model).__mro__)

    @property
    def as_made(self) -> bool:
        """Whether the model is timm's own, but for its heads; a subclass may pool in its own way."""
        heads = (getattr(self.timm, name, None) for name in ("head", "head_dist", "aux_head"))
        return is_timm(type(self.model)) and unaltered(self.model, "timm", (h for h in heads if h is not None))

    @property
    def image_size(self) -> Grid | None:
        embed = getattr(self.timm, "patch_embed", None) or self.timm.pixel_embed
        built = getattr(embed, "img_size", None) or (self.timm.pretrained_cfg or {}).get("input_size", (0, 0, 0))[1:]
        return (built[0], built[1]) if built[0] else None

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        known = {"cls_token": "class", "dist_token": "distillation", "reg_token": "register"}
        tokens = {name: getattr(self.timm, part, None) for part, name in known.items()}
        return tuple(name for name, token in tokens.items() if token is not None for _ in range(token.shape[1]))

    @property
    def headless(self) -> bool:
        return self.timm.num_classes == 0

    @property
    def class_names(self) -> Mapping[int, str]:
        names = (getattr(self.timm, "pretrained_cfg", None) or {}).get("label_names")
        return dict(enumerate(names or ()))

    def scores(self, output: Any) -> Tensor:
        if isinstance(output, Tensor) and output.dim() == 3:
            return output[:, 0]  # unpooled: (B, N, D)
        return super().scores(output)

    def capturing(self) -> Iterable[Switch]:
        for module in self.timm.modules():
            if hasattr(module, "grad_checkpointing"):
                yield module, "grad_checkpointing", False
        for layer in self.attention_layers().values():
            if hasattr(layer, "fused_attn"):
                yield layer, "fused_attn", True

    def embedded(self, image_size: Grid, prefix: int, readout: Readout) -> TokenLayout:
        """The layout that timm's PatchEmbed gives, or its HybridEmbed."""
        embed = self.timm.patch_embed
        patch, (height, width) = embed.feat_ratio(as_scalar=False), image_size  # a hybrid's patches lie on features
        if embed.img_size is not None and embed.strict_img_size:
            require_size(image_size, embed.img_size, f"img_size=({height}, {width}) or dynamic_img_size=True")
        if not embed.dynamic_img_pad and (height % patch[0] or width % patch[1]):
            raise TokenLayoutError(
                f"images of {height}x{width} do not divide into patches of {patch[0]}x{patch[1]}: resize them, or "
                f"build the model with dynamic_img_pad=True"
            )
        return TokenLayout(tuple(embed.dynamic_feat_size(image_size)), prefix, tuple(patch), readout)


def is_timm(kind: type) -> bool:
    """Whether the class is one of timm's own."""
    return kind.__module__.split(".")[0] == "timm"


def require_size(image_size: Grid, trained: Grid, settings: str) -> None:
    """Raise TokenLayoutError for another size than the model was built for."""
    if tuple(trained) != image_size:
        (height, width), (rows, cols) = image_size, trained
        raise TokenLayoutError(
            f"the model takes images of {rows}x{cols}, got {height}x{width}: resize them, or build the model with "
            f"{settings}"
        )


def split_qkv(heads: int, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, 3*H*d) -> q, k and v, (B, H, N, d) each."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return q, k, v


def split_pair_and_one(heads: int, pair: Tensor, one: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, 2*H*d) and (B, M, H*e) -> (B, H, N, d) twice and (B, H, M, e)."""
    first, second = pair.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
    return first, second, one.unflatten(-1, (heads, -1)).transpose(1, 2)
