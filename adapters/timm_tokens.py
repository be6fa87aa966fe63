"""Where the tokens of timm's models lie, on the image and in the outputs of their projections."""

from typing import Any

from torch import Tensor

from captum_vit.access import Grid, Readout, TokenLayout
from captum_vit.errors import TokenLayoutError


def embedded(embed: Any, image_size: Grid, prefix: int, readout: Readout) -> TokenLayout:
    """The layout that timm's PatchEmbed gives, or its HybridEmbed.

    Raises:
        TokenLayoutError: images of a size that it does not take.
    """
    patch, (height, width) = embed.feat_ratio(as_scalar=False), image_size  # a hybrid's patches lie on features
    if getattr(embed, "img_size", None) is not None and embed.strict_img_size:
        require_size(image_size, embed.img_size, f"img_size=({height}, {width}) or dynamic_img_size=True")
    if not embed.dynamic_img_pad and (height % patch[0] or width % patch[1]):
        raise TokenLayoutError(
            f"images of {height}x{width} do not divide into patches of {patch[0]}x{patch[1]}: resize them, or "
            f"build the model with dynamic_img_pad=True"
        )
    return TokenLayout(tuple(embed.dynamic_feat_size(image_size)), prefix, tuple(patch), readout)


def require_size(image_size: Grid, trained: Grid, settings: str) -> None:
    """Raise TokenLayoutError for another size than the model was built for."""
    if tuple(trained) != image_size:
        (height, width), (rows, cols) = image_size, trained
        raise TokenLayoutError(
            f"the model takes images of {rows}x{cols}, got {height}x{width}: resize them, or build the model with "
            f"{settings}"
        )


def pooled(pool: Any, tokens: Readout) -> Readout | None:
    """The readout through timm's AttentionPoolLatent, which reads `tokens`."""
    latents = {"token": 1, "avg": pool.latent_len}.get(pool.pool, 0)
    return Readout(tokens.prefix, tokens.patches, tokens.even, tuple(range(latents))) if latents else None


def split_qkv(heads: int, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, 3*H*d) -> q, k and v, (B, H, N, d) each."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return q, k, v


def split_pair_and_one(heads: int, pair: Tensor, one: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, 2*H*d) and (B, M, H*e) -> (B, H, N, d) twice and (B, H, M, e)."""
    first, second = pair.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
    return first, second, one.unflatten(-1, (heads, -1)).transpose(1, 2)
