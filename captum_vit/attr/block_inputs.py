"""What blocks are given, of the token streams of a run."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ..access import LayerLayout
from ..capture import Run
from ..errors import UnsupportedModelError


def block_inputs(
    run: Run, streams: Mapping[str, Tensor], layouts: Mapping[str, LayerLayout], *, patches: bool = False
) -> dict[str, Tensor]:
    """Of each attention layer the stream that enters its block, or the gradient there, (B, N, D), N its keys.

    Args:
        run: whose layers these are.
        streams: the token streams, or gradients of their shape, as the run gives them.
        layouts: by layer, where its keys lie.
        patches: whether the patches alone are wanted, which may be there before all of the other tokens are.
    Raises:
        UnsupportedModelError: the keys of the attention are not the tokens of that stream.
    """
    blocks = run.adapter.blocks()
    found = {}
    for name, layout in layouts.items():
        counts = range(layout.keys - layout.prefix if patches else layout.keys, layout.keys + 1)
        stream = next((x for x in _before(name, streams, blocks) if not patches or x.shape[1] in counts), None)
        if stream is None or stream.shape[1] not in counts:
            raise UnsupportedModelError(
                f"the attention of layer {name!r} reads {layout.keys} tokens, and they are not those that a block is "
                f"given, as in an attention pool, or where a class token joins late: what stands for each of them is "
                f"not known"
            )
        if layout.order is not None:
            order = layout.order[layout.keys - stream.shape[1] :].argsort().argsort()  # of those that are there
            stream = stream[:, order.to(stream.device)]
        found[name] = stream[:, layout.prefix - layout.keys :] if patches else stream
    return found


def _before(name: str, streams: Mapping[str, Tensor], blocks: Mapping[str, Any]) -> Iterator[Tensor]:
    """The streams before the block of a layer, the nearest first."""
    if name in blocks and name in streams:
        names = list(streams)
        earlier = names[: names.index(name)]
        yield from (streams[other] for other in reversed(earlier) if blocks.get(other) is not blocks[name])
