"""A grid of three numbers, and cross-attention one layer after another, with a skip connection and without."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import captum_vit
from captum_vit import AGCAM, DAAM, AttentionRollout, GradientRollout, RawAttention, adapt
from captum_vit.access import CLASS, registry, select_layers
from captum_vit.capture import Inputs, measure_readout, untouched
from captum_vit.errors import TokenLayoutError
from tests.adapters.own import ReaderAdapter, VideoAdapter, reader, video_vit, videos
from tests.families import stepwise
from tests.families.stepwise import Step
from tests.helpers import METHODS, assert_close, explain, images, recorded, relative_error
from tests.properties.broken import caught

SIZE, GRID, VIDEO_GRID = (16, 24), (2, 3), (2, 2, 3)
QUERIES, KEYS = 3, 7  # latents; a class token and six patches
SKIPS = pytest.mark.parametrize("skip", [True, False], ids=["skip", "no skip"])


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    captum_vit.register(VideoAdapter)
    captum_vit.register(ReaderAdapter)


# Layouts


def test_the_tokens_of_a_video_lie_on_three_sides():
    layout = adapt(video_vit()).token_layout((4, 16, 24), {})
    assert (layout.tokens, layout.readout) == (13, CLASS)
    found = layout.of_layer("blocks.0.attn", 13, 13)
    assert (found.grid, found.map_grid) == (VIDEO_GRID, VIDEO_GRID)
    assert (found.keys, found.skip, found.cross) == (13, True, False)
    keys = torch.arange(13.0)
    assert layout.to_grid(found.to_map(keys)).tolist() == (1 + torch.arange(12).view(VIDEO_GRID)).tolist()
    with pytest.raises(TokenLayoutError, match=r"prefix \+ rows\*cols = 1 \+ 2\*2\*3 tokens in blocks.0.attn, got 11"):
        layout.of_layer("blocks.0.attn", 11, 11)


def test_a_coarser_grid_of_three_sides_is_enlarged():
    layout = captum_vit.TokenLayout((4, 4, 6), 0, (1, 4, 4), captum_vit.Readout((), patches=True), {"last": VIDEO_GRID})
    keys = torch.rand(2, 5, 12)
    maps = layout.of_layer("last", 12, 12).to_map(keys)
    expected = F.interpolate(keys.view(2, 5, *VIDEO_GRID), (4, 4, 6), mode="trilinear", align_corners=False)
    assert_close(layout.to_grid(maps), expected)


@SKIPS
def test_latents_are_queries_of_their_own(skip):
    adapter = adapt(reader(skip))
    layout, names = adapter.token_layout(SIZE, {}), list(adapter.attention_layers())
    assert names == ["blocks.0.attn", "blocks.1.attn", "readers.0.attn", "readers.1.attn"]
    assert adapter.reading_layers(adapter.readout) == names
    assert adapter.reading_layers(CLASS) == names[:2]
    for name in names[2:]:
        found = layout.of_layer(name, QUERIES, KEYS, cross=adapter.cross_attention[name])
        assert (found.cross, found.skip, found.keys, found.read_rows) == (True, skip, KEYS, [0, 1])
        assert found.share.tolist() == found.start.tolist() == [0.5, 0.5, 0]
        assert found.to_map(torch.arange(7.0)).tolist() == [1, 2, 3, 4, 5, 6]


@SKIPS
def test_blocks_of_tokens_alone(skip):
    adapter = adapt(reader(skip))
    assert list(adapter.blocks()) == ["blocks.0.attn", "blocks.1.attn"]
    assert select_layers(adapter, ["blocks.1", "readers.1.attn"]) == ["blocks.1.attn", "readers.1.attn"]


# Runs


@SKIPS
def test_the_readout_is_the_measured_one(skip):
    adapter = adapt(reader(skip))
    with untouched(adapter):
        assert measure_readout(adapter, Inputs(images(2, SIZE))) == adapter.readout


def test_the_readout_of_a_video_is_the_measured_one():
    adapter = adapt(video_vit())
    with untouched(adapter):
        assert measure_readout(adapter, Inputs(videos())) == adapter.readout


@pytest.mark.parametrize("wrap", [nn.Identity, nn.Sequential])
@pytest.mark.parametrize("method", METHODS)
def test_maps_of_videos(method, wrap):
    model, x = video_vit(), videos()
    ours = method(model if wrap is nn.Identity else wrap(model))
    maps = explain(ours, x)
    assert maps.shape == (2, 1, *VIDEO_GRID)
    assert maps.abs().max() > 0
    flow = ours.attribute_flow(x, 1 if method.class_specific else None)
    assert flow.shape == (2, len(ours.flow_layers(recorded(ours.forward_func, x).readout)), *VIDEO_GRID)
    assert_close(flow[:, -1:], maps)
    assert_close(torch.cat([explain(ours, one[None]) for one in x]), maps)
    spatial = explain(ours, x, output_shape="spatial")
    assert_close(spatial, F.interpolate(maps, (4, 16, 24), mode="trilinear", align_corners=False))


@pytest.mark.parametrize("method", METHODS)
def test_a_video_of_one_frame_is_an_image(method):
    """The patches of two equal frames, read by an attention that knows no positions, share the map of one."""
    model, x = video_vit(), videos()
    model.pos_embed.data.zero_()
    still = x[:, :, :2].repeat(1, 1, 2, 1, 1)
    maps = explain(method(model), still)
    assert_close(maps[:, :, 0], maps[:, :, 1])
    assert relative_error(*explain(method(model), x).unbind(2)) > 1e-2


class ChannelsBehind(nn.Module):
    """Takes its images or videos with the channels behind the other axes, or behind the frames alone."""

    def __init__(self, vit: nn.Module, axis: int) -> None:
        super().__init__()
        self.vit, self.axis = vit, axis
        self.blocks, self.embedded = vit.blocks, vit.embedded

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(x.movedim(self.axis, 1))


def with_channels_at(axis: int, known: type[captum_vit.Adapter]) -> type[captum_vit.Adapter]:
    class ChannelsAdapter(known):
        kind, in_channels = ChannelsBehind, None  # these are not the second axis

        def size_of(self, images):
            return tuple(n for i, n in enumerate(images.shape) if i not in (0, axis))

        def example(self, size, draw):
            return super().example(size, draw).movedim(1, axis)

    return ChannelsAdapter


@pytest.mark.parametrize("axis", [2, 4])
@pytest.mark.parametrize("method", METHODS)
def test_videos_with_other_axes(method, axis):
    captum_vit.register(with_channels_at(axis, VideoAdapter))
    model, x = video_vit(), videos()
    maps = explain(method(ChannelsBehind(model, axis).eval()), x.movedim(1, axis))
    assert_close(maps, explain(method(model), x))


class ImageAdapter(VideoAdapter):
    """Of a reader's tokens alone."""

    batch_dims = 4

    def token_layout(self, image_size, arguments):
        return captum_vit.TokenLayout((image_size[0] // 8, image_size[1] // 8), 1, (8, 8), CLASS)


class ReadTokens(nn.Module):
    """The class token of a reader's blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = reader(True)
        self.blocks, self.embedded, self.head = self.reader.blocks, self.reader.embedded, self.reader.head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.reader.encode(x)[:, 0])


@pytest.mark.parametrize("method", METHODS)
def test_images_with_channels_last(method):
    model, x = ReadTokens().eval(), images(2, SIZE)
    captum_vit.register(type("Plain", (ImageAdapter,), {"kind": ReadTokens}))
    captum_vit.register(with_channels_at(3, ImageAdapter))
    maps = explain(method(ChannelsBehind(model, 3).eval()), x.movedim(1, 3))
    assert_close(maps, explain(method(model), x))


class Explicit:
    """The reader's own forward with explicit softmax, in float64; `held`: attention as in AGCAM, with its input
    constant, but for the values of cross-attention."""

    def __init__(self, skip: bool) -> None:
        self.model, self.x, self.skip = reader(skip).double(), images(2, SIZE).double(), skip

    def steps(self, *, held: bool, target: int = 1) -> tuple[list[Step], list[tuple[Tensor, Tensor]]]:
        model, steps = self.model, []

        def attend(block: nn.Module, x: Tensor, keys: Tensor | None) -> Tensor:
            queries, cross = block.norm1(x), keys is not None
            q, k, v = block.attn.split(queries, keys if cross else queries)
            s = q @ k.mT / q.shape[-1] ** 0.5
            a = s.softmax(-1)
            if held:
                a, v = a.detach().requires_grad_(), v if cross else v.detach()
            steps.append(Step(s.detach(), a, v, a @ v, pool=cross, skip=not cross or self.skip))
            return block.attn.proj(steps[-1].o.transpose(1, 2).flatten(2))

        tokens, latents = model.embed(self.x), model.latent_tokens.expand(len(self.x), -1, -1)
        for block in model.blocks:
            tokens = block.after(tokens, attend(block, tokens, None))
        for block in model.readers:
            latents = block.after(latents, attend(block, latents, tokens))
        score = model.head(latents[:, :2].mean(1))
        assert_close(score, model(self.x))
        return steps, stepwise.gradients(score[:, target], steps)

    def joint(self, step: Step, fused: Tensor) -> Tensor:
        """A layer as a matrix from [latents; tokens] to [latents; tokens], rows with sum 1."""
        matrix = torch.eye(QUERIES + KEYS, dtype=torch.float64).repeat(len(fused), 1, 1)
        if step.a.shape[2] == KEYS:
            matrix[:, QUERIES:, QUERIES:] += fused
        else:
            if not step.skip:
                matrix[:, :QUERIES] = 0
            matrix[:, :QUERIES, QUERIES:] += fused
        total = matrix.sum(-1, keepdim=True)  # 0 where a discard leaves nothing, and no skip connection passes it
        return matrix / total.where(total != 0, 1)

    def rollout(self, steps: list[Step], fused: list[Tensor]) -> Tensor:
        """After each layer, the map of what is read there: (B, layers, patches)."""
        maps = []
        for end, last in enumerate(steps):
            start = torch.zeros(1, 1, QUERIES + KEYS, dtype=torch.float64)
            if last.a.shape[2] == KEYS:
                start[..., QUERIES:] = 1 / KEYS
            else:
                start[..., :2] = 1 / 2
            state = start
            for step, matrix in list(zip(steps, fused, strict=True))[end::-1]:
                state = state @ self.joint(step, matrix)
            maps.append(state[:, 0, QUERIES + 1 :])
        return torch.stack(maps, 1).detach()


@pytest.fixture(params=[True, False], ids=["skip", "no skip"])
def explicit(request) -> Explicit:
    return Explicit(request.param)


def check(ours: Callable, expected: Tensor, explicit: Explicit) -> None:
    """The flow and the map of a method, against the explicit (B, layers, patches)."""
    method = ours(explicit.model)
    target = 1 if method.class_specific else None
    assert_close(method.attribute_flow(explicit.x, target).flatten(2), expected, 1e-10)
    assert_close(method.attribute(explicit.x, target).flatten(1), expected[:, -1], 1e-10)


ROLLOUTS = pytest.mark.parametrize("explicit", [True, False], indirect=True)


def test_agcam(explicit):
    steps, grads = explicit.steps(held=True)
    parts = [(grad.relu() * step.s.sigmoid()).sum((1, 2)) for step, (grad, _) in zip(steps, grads, strict=True)]
    check(AGCAM, torch.stack(parts, 1).cumsum(1)[..., 1:], explicit)


def test_daam(explicit):
    steps, grads = explicit.steps(held=False)
    parts = [
        (step.a[..., None] * step.v[:, :, None] * grad[:, :, :, None].relu()).sum((1, 2, 4)).relu()
        for step, (_, grad) in zip(steps, grads, strict=True)
    ]
    check(DAAM, torch.stack(parts, 1).cumsum(1)[..., 1:], explicit)


def test_raw_attention(explicit):
    steps, _ = explicit.steps(held=False)
    rows = [slice(None) if step.a.shape[2] == KEYS else slice(2) for step in steps]
    parts = [step.a[:, :, part].mean((1, 2)) for step, part in zip(steps, rows, strict=True)]
    check(RawAttention, torch.stack(parts, 1)[..., 1:].detach(), explicit)


@ROLLOUTS
def test_rollout(explicit):
    steps, _ = explicit.steps(held=False)
    check(AttentionRollout, explicit.rollout(steps, [step.a.mean(1) for step in steps]), explicit)


@ROLLOUTS
def test_gradient_rollout(explicit):
    steps, grads = explicit.steps(held=False)
    products = [(step.a * grad).mean(1).relu() for step, (grad, _) in zip(steps, grads, strict=True)]
    fused = [stepwise.discard(matrix, 0.9) for matrix in products]
    check(GradientRollout, explicit.rollout(steps, fused), explicit)


@caught
def test_rollout_that_forgets_the_skip_connection():
    explicit = Explicit(skip=True)
    steps, _ = explicit.steps(held=False)
    for step in steps[2:]:
        step.skip = False
    check(AttentionRollout, explicit.rollout(steps, [step.a.mean(1) for step in steps]), explicit)
