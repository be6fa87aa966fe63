"""The token stream of every family: the embedding and the blocks give it, and nothing else leads to the score."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_vit import adapt
from captum_vit.access import Adapter
from captum_vit.capture import TOKEN_GRADIENTS, TOKENS, Inputs, Run
from tests.families.table import FAMILIES
from tests.helpers import assert_close, called, relative_error
from tests.properties.broken import caught

NAMED = {f"{family.library}: {family.name}": family for family in FAMILIES}

JOINS = "the class token joins the patches outside any module"
NO_EMBEDDING = {"timm: relative positions, class token": JOINS, "timm: XCiT": JOINS, "timm: VOLO": JOINS}
LATE = ("timm: CaiT", "timm: CaiT, mean of patches", "timm: ConViT", "timm: ConViT, mean of patches")  # class tokens
ASIDE = {"timm: TNT": "the pixels inside each patch have a stream of their own, which the last block alone ends"}


class Watch:
    """What goes into and comes out of chosen modules in one forward, and in which order."""

    def __init__(self, adapter: Adapter, x: Tensor) -> None:
        self.events: list[tuple[str, nn.Module]] = []
        self.inputs: dict[nn.Module, tuple] = {}
        self.outputs: dict[nn.Module, Any] = {}
        watched = {*adapter.attention_layers().values(), *adapter.blocks().values(), adapter.embedding} - {None}
        hooks = [module.register_forward_pre_hook(self.enter, with_kwargs=True) for module in watched]
        hooks += [module.register_forward_hook(self.leave) for module in watched]
        try:
            with torch.no_grad():
                self.scores = adapter.scores(called(adapter.model, x))
        finally:
            for hook in hooks:
                hook.remove()

    def enter(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.events.append(("in", module))
        self.inputs[module] = (*args, *kwargs.values())

    def leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        self.events.append(("out", module))
        self.outputs[module] = output

    def at(self, event: str, module: nn.Module) -> int:
        assert self.events.count((event, module)) == 1, f"{type(module).__name__} runs once in a forward"
        return self.events.index((event, module))


def scores_with(adapter: Adapter, x: Tensor, streams: dict[nn.Module, Tensor]) -> Tensor:
    """The scores where some modules give another stream than their own."""

    def exchange(module: nn.Module, args: tuple, output: Any) -> Any:
        ours, theirs = adapter.stream(output), streams[module]
        assert ours.shape == theirs.shape
        return theirs if output is ours else type(output)(theirs if part is ours else part for part in output)

    hooks = [module.register_forward_hook(exchange) for module in streams]
    try:
        with torch.no_grad():
            return adapter.scores(called(adapter.model, x))
    finally:
        for hook in hooks:
            hook.remove()


def tokens_of(layer: nn.Module, watch: Watch) -> tuple[int, int]:
    """The queries and keys of an attention layer, by what it takes and gives."""
    output = watch.outputs[layer]
    return (output if isinstance(output, Tensor) else output[0]).shape[1], watch.inputs[layer][0].shape[1]


def check_layers(adapter: Adapter, name: str, x: Tensor) -> None:
    """Each attention layer has a block, unless its queries are tokens of their own."""
    assert list(adapter.blocks()) == [n for n in adapter.attention_layers() if n not in adapter.cross_attention]
    modules = set(adapter.model.modules())
    assert modules.issuperset(adapter.blocks().values())


def check_order(adapter: Adapter, name: str, x: Tensor) -> None:
    """A block begins before its layers, is over after them, and before the layers of the next begin."""
    watch, layers = Watch(adapter, x), adapter.attention_layers()
    blocks = list(adapter.blocks().items())
    for layer, block in blocks:
        assert watch.at("in", block) <= watch.at("in", layers[layer])
        assert watch.at("out", layers[layer]) <= watch.at("out", block)
    for (_, block), (layer, after) in pairwise(blocks):
        assert block is after or watch.at("out", block) < watch.at("in", layers[layer])


def check_tokens(adapter: Adapter, name: str, x: Tensor) -> None:
    """The stream is as long as the layer's keys, which the layout counts; or as its queries, where these are fewer."""
    watch, layers = Watch(adapter, x), adapter.attention_layers()
    layout = adapter.token_layout(adapter.size_of(x), {})
    first, block = next(iter(adapter.blocks().items()))
    assert adapter.stream(watch.inputs[block]).shape[:2] == (len(x), tokens_of(layers[first], watch)[1])
    for layer, block in adapter.blocks().items():
        queries, keys = tokens_of(layers[layer], watch)
        prefix = keys - math.prod(layout.grids.get(layer, layout.grid))
        assert prefix == layout.prefix or (prefix == 0 and name in LATE)
        stream = adapter.stream(watch.outputs[block])
        assert stream.dim() == 3
        assert stream.shape[0] == len(x)
        assert stream.shape[1] in ((keys, queries) if queries <= prefix else (keys,))


def check_embedding(adapter: Adapter, name: str, x: Tensor) -> None:
    """It gives what the first block takes."""
    assert (adapter.embedding is None) == (name in NO_EMBEDDING)
    if adapter.embedding is not None:
        watch, first = Watch(adapter, x), next(iter(adapter.blocks().values()))
        assert watch.at("out", adapter.embedding) < watch.at("in", first)
        stream = adapter.stream(watch.outputs[adapter.embedding])
        assert torch.equal(stream, adapter.stream(watch.inputs[first]))


def check_enough(adapter: Adapter, name: str, x: Tensor) -> None:
    """With the stream of another image at any one place, the scores are those of that image."""
    ours, theirs = Watch(adapter, x[:1]), Watch(adapter, x[1:])
    assert relative_error(ours.scores, theirs.scores) > 1e-3
    prefix = adapter.token_layout(adapter.size_of(x), {}).prefix
    places = [module for module in (adapter.embedding, *adapter.blocks().values()) if module is not None]
    whole: dict[nn.Module, Tensor] = {}
    for place in places[-1:] if name in ASIDE else places:
        stream = adapter.stream(theirs.outputs[place])
        if stream.shape[1] > prefix:
            whole = {place: stream}
        assert_close(scores_with(adapter, x[:1], whole | {place: stream}), theirs.scores)


CHECKS = [check_layers, check_order, check_tokens, check_embedding, check_enough]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", NAMED)
def test_blocks_and_embedding(name, check):
    family = NAMED[name]
    check(adapt(family.build()), name, family.batch())


@pytest.mark.parametrize("name", NAMED)
def test_a_run_keeps_these_streams(name):
    family = NAMED[name]
    adapter, x = adapt(family.build()), family.batch()
    watch, run = Watch(adapter, x), Run(adapter, Inputs(x), {TOKENS, TOKEN_GRADIENTS})
    first, *_ = adapter.blocks().values()
    expected = {"embedding": adapter.stream(watch.inputs[first])}
    expected |= {layer: adapter.stream(watch.outputs[block]) for layer, block in adapter.blocks().items()}
    found, gradients = run.tokens(), run.token_gradients(lambda output: adapter.scores(output)[:, 1])
    assert list(found) == list(expected)
    for layer, stream in found.items():
        assert_close(stream, expected[layer])
        assert gradients[layer].shape == stream.shape
    assert gradients["embedding"].abs().max() > 0


# Adapters that are wrong on purpose


def wrong(adapter: Adapter, **members: Any) -> Adapter:
    return type("Wrong", (type(adapter),), members)(adapter.model)


def layers_for_blocks(adapter: Adapter) -> Adapter:
    """Takes the attention's own output for the stream, without what passes it by."""
    return wrong(adapter, blocks=lambda self: self.attention_layers())


def by_default(adapter: Adapter) -> Adapter:
    """Takes the nearest entry of a list, though several attentions stand side by side in a block."""
    return wrong(adapter, blocks=Adapter.blocks)


def one_late(adapter: Adapter) -> Adapter:
    """Names the block after."""
    names, modules = zip(*adapter.blocks().items(), strict=True)
    shifted = dict(zip(names, modules[1:] + modules[-1:], strict=True))
    return wrong(adapter, blocks=lambda self: shifted)


def without_the_last(adapter: Adapter) -> Adapter:
    return wrong(adapter, blocks=lambda self: dict(list(type(adapter).blocks(self).items())[:-1]))


def patches_for_tokens(adapter: Adapter) -> Adapter:
    """Takes the patches for the stream, without class token and positions."""
    return wrong(adapter, embedding=property(lambda self: self.timm.patch_embed))


def first_entry(adapter: Adapter) -> Adapter:
    """Takes the first of what a block returns, which is the pixels' stream."""
    return wrong(adapter, stream=Adapter.stream)


@caught
@pytest.mark.parametrize(
    ("name", "mistake", "check"),
    [
        ("timm: ViT, DeiT, DINO", without_the_last, check_layers),
        ("timm: ViT, DeiT, DINO", one_late, check_order),
        ("timm: parallel attention", by_default, check_enough),
        ("timm: XCiT", layers_for_blocks, check_enough),
        ("timm: PiT", one_late, check_tokens),
        ("timm: TNT", first_entry, check_tokens),
        ("timm: ViT, DeiT, DINO", patches_for_tokens, check_embedding),
        ("transformers: ViT, DINO", layers_for_blocks, check_enough),
        ("open_clip: CLIP", layers_for_blocks, check_enough),
    ],
)
def test_a_wrong_adapter(name, mistake: Callable, check: Callable):
    family = NAMED[name]
    check(mistake(adapt(family.build())), name, family.batch())
