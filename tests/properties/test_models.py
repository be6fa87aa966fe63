"""What must hold for any ViT and any image, on small random models; each check next to a broken method it catches."""

from dataclasses import dataclass

import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from captum_vit import AGCAM, DAAM, AttentionRollout, GradECLIP, RawAttention, TransitionAttention
from captum_vit.attr.base import ViTAttribution
from tests.helpers import METHODS, images, timm_vit
from tests.properties.broken import caught, unshrunk

KINDS = {
    "class": {},
    "distilled": {"kind": VisionTransformerDistilled},
    "registers": {"reg_tokens": 2, "no_embed_class": True, "init_values": 0.5},
    "average": {"global_pool": "avg"},
    "gap": {"reg_tokens": 1, "class_token": False, "global_pool": "avg"},
}
OPTIONS = {AttentionRollout: ({}, {"fusion": "max", "discard_ratio": 0.5}), RawAttention: ({}, {"kind": "peak"})}


@dataclass
class World:
    """A random model, its images and a target for each."""

    model: VisionTransformer
    images: Tensor
    targets: list[int]
    grid: tuple[int, int]


depths, any_kind = st.integers(1, 3), st.sampled_from(sorted(KINDS))


@st.composite
def worlds(draw, depth=depths, kinds=any_kind) -> World:
    grid = (draw(st.integers(1, 4)), draw(st.integers(2, 4)))
    heads, count, seed = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(0, 10**6))
    size = (8 * grid[0], 8 * grid[1])
    changes = {"img_size": size, "embed_dim": 6 * heads, "num_heads": heads, "depth": draw(depth), "num_classes": 4}
    model = timm_vit(seed, **(changes | KINDS[draw(kinds)]))
    targets = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    return World(model.double(), images(count, size, seed).double(), targets, grid)


methods = st.sampled_from(METHODS)
OF_THEIR_OWN = (GradECLIP, TransitionAttention)  # which choose layers by their number
of_all_layers = st.sampled_from([method for method in METHODS if method not in OF_THEIR_OWN])
variants = st.integers(0, 1)


def maps(method: type[ViTAttribution], world: World, variant: int = 0, flow: bool = False) -> Tensor:
    kind = next(base for base in METHODS if issubclass(method, base))
    options = OPTIONS.get(kind, ({}, {}))[variant]
    ours = method(world.model)
    run = ours.attribute_flow if flow else ours.attribute
    return run(world.images, world.targets if method.class_specific else None, **options)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-8) -> None:
    """Equal up to rounding; maps that are zero everywhere are possible here."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max().clamp(min=1e-12)


class NormalisedOverTheBatch(RawAttention):
    """Divides by the batch's maximum."""

    def _maps(self, *args, **kwargs):
        found = super()._maps(*args, **kwargs)
        return found / found.amax()


class OfTheFirstImage(AGCAM):
    """Explains one image and repeats it."""

    def _maps(self, *args, **kwargs):
        found = super()._maps(*args, **kwargs)
        return found[:1].expand_as(found)


class Ramp(AttentionRollout):
    """Favours patches by their place."""

    def _maps(self, *args, **kwargs):
        found = super()._maps(*args, **kwargs)
        return found * torch.arange(1, found.shape[-1] + 1)


class FirstHead(RawAttention):
    """Looks at one head only."""

    def _maps(self, run, target, *, flow, kind="class"):
        return torch.stack([heads[:, 0] for heads in self._per_head(run, kind, flow=flow)], 1)


class Centred(DAAM):
    """Takes the mean away."""

    def _maps(self, *args, **kwargs):
        found = super()._maps(*args, **kwargs)
        return found - found.mean(-1, keepdim=True)


class FlowBackwards(DAAM):
    """Gives the blocks in the wrong order."""

    def _maps(self, *args, flow, **kwargs):
        found = super()._maps(*args, flow=flow, **kwargs)
        return found.flip(1)


class WithoutIdentity(AttentionRollout):
    """A rollout that forgets the skip connection's half."""

    def _maps(self, *args, **kwargs):
        found = super()._maps(*args, **kwargs)
        return 2 * found


def check_singles(method, world, variant=0):
    each = [
        maps(method, World(world.model, world.images[i : i + 1], world.targets[i : i + 1], world.grid), variant)
        for i in range(len(world.images))
    ]
    close(torch.cat(each), maps(method, world, variant))


@given(worlds(), methods, variants)
def test_a_batch_equals_its_singles(world, method, variant):
    check_singles(method, world, variant)


@caught
@unshrunk
@given(worlds(), st.sampled_from([NormalisedOverTheBatch, OfTheFirstImage]))
def test_a_batch_normalised_as_one(world, method):
    check_singles(method, world)


def check_batch_order(method, world, variant=0):
    order = list(range(len(world.images)))[::-1]
    moved = World(world.model, world.images[order], [world.targets[i] for i in order], world.grid)
    close(maps(method, moved, variant), maps(method, world, variant)[order])


@given(worlds(), methods, variants)
def test_permuting_the_batch_permutes_the_maps(world, method, variant):
    check_batch_order(method, world, variant)


@caught
@unshrunk
@given(worlds())
def test_permuting_when_only_the_first_image_counts(world):
    check_batch_order(OfTheFirstImage, world)


def permuted_patches(world: World, order: Tensor) -> World:
    """Image patches and their position embeddings in another order."""
    (rows, cols), model = world.grid, world.model
    blocks = world.images.unflatten(3, (cols, 8)).unflatten(2, (rows, 8)).permute(0, 1, 2, 4, 3, 5).flatten(2, 3)
    blocks = blocks[:, :, order].unflatten(2, (rows, cols)).permute(0, 1, 2, 4, 3, 5)
    with torch.no_grad():
        own = model.pos_embed.shape[1] - rows * cols
        model.pos_embed.copy_(torch.cat([model.pos_embed[:, :own], model.pos_embed[:, own:][:, order]], 1))
    return World(model, blocks.flatten(4, 5).flatten(2, 3), world.targets, world.grid)


def check_patch_order(method, world, data, variant=0):
    order = torch.tensor(data.draw(st.permutations(range(world.grid[0] * world.grid[1]))))
    before = maps(method, world, variant).flatten(2)[..., order]
    after = maps(method, permuted_patches(world, order), variant).flatten(2)
    close(after, before)


@given(worlds(), methods, variants, st.data())
def test_permuting_patches_permutes_the_grid(world, method, variant, data):
    check_patch_order(method, world, data, variant)


@caught
@unshrunk
@given(worlds(), st.data())
def test_permuting_patches_of_a_map_that_favours_places(world, data):
    check_patch_order(Ramp, world, data)


def permute_heads(model: VisionTransformer, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for block in model.blocks:
            order = torch.randperm(block.attn.num_heads, generator=draw)
            for weight in (block.attn.qkv.weight, block.attn.qkv.bias):
                weight.copy_(weight.unflatten(0, (3, len(order), -1))[:, order].reshape(weight.shape))
            out = block.attn.proj.weight
            out.copy_(out.unflatten(1, (len(order), -1))[:, order].reshape(out.shape))


def check_head_order(method, world, seed, variant=0):
    before = maps(method, world, variant)
    permute_heads(world.model, seed)
    close(maps(method, world, variant), before)


@given(worlds(), methods, variants, st.integers(0, 99))
def test_heads_in_any_order(world, method, variant, seed):
    check_head_order(method, world, seed, variant)


@caught
@unshrunk
@given(worlds(), st.integers(0, 99))
def test_heads_in_any_order_when_only_one_counts(world, seed):
    check_head_order(FirstHead, world, seed)


def check_sign(method, world):
    assert (maps(method, world) >= 0).all()


@given(worlds(), st.sampled_from([method for method in METHODS if not method.signed]))
def test_maps_are_never_negative(world, method):
    check_sign(method, world)


@caught
@unshrunk
@given(worlds())
def test_a_centred_map(world):
    check_sign(Centred, world)


def check_flow(method, world, variant=0):
    flow, last = maps(method, world, variant, flow=True), maps(method, world, variant)
    assert flow.shape[1] == len(world.model.blocks)
    close(flow[:, -1:], last)
    if issubclass(method, (AGCAM, DAAM)):  # sums of what each block adds
        assert (flow.diff(dim=1) >= 0).all()


@given(worlds(), methods, variants)
def test_the_last_slice_of_a_flow_is_the_map(world, method, variant):
    check_flow(method, world, variant)


@caught
@unshrunk
@given(worlds(depth=st.integers(2, 3)))
def test_a_flow_in_the_wrong_order(world):
    check_flow(FlowBackwards, world)


def check_one_layer(method, world):
    """Half the attention: the readout row of (A + I)/2, whose identity lies on a prefix token."""
    close(maps(method, world), RawAttention(world.model).attribute(world.images) / 2)


@given(worlds(depth=st.just(1), kinds=st.sampled_from(["class", "distilled", "registers"])))
def test_a_rollout_of_one_layer_is_half_its_attention(world):
    check_one_layer(AttentionRollout, world)


@caught
@unshrunk
@given(worlds(depth=st.just(1), kinds=st.just("class")))
def test_a_rollout_of_one_layer_without_the_identity(world):
    check_one_layer(WithoutIdentity, world)


@given(worlds(), of_all_layers)
def test_each_slice_of_a_flow_is_the_map_up_to_there(world, method):
    flow = maps(method, world, flow=True)
    for i in range(flow.shape[1]):
        upto = method(world.model, list(range(i + 1)))
        close(flow[:, i : i + 1], upto.attribute(world.images, world.targets if method.class_specific else None))
