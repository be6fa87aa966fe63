"""The token stream before the first block and after each."""

from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from ..access import Adapter
from ..errors import UnsupportedModelError
from .shelf import Shelf

EMBEDDED = "embedding"  # what the stream before the first block is called


class Streams:
    """Hooks that keep the stream while the model runs.

    Args:
        adapter: whose `blocks` give the stream.
        names: the attention layers after whose blocks it is kept, None for all; before the first block it always is.
        active: whether the forward that runs is the one that is listened to.
        graph: whether the streams are part of a graph.
        rooted: whether that begins before the first block.
    """

    def __init__(
        self,
        adapter: Adapter,
        names: Collection[str] | None,
        active: Callable[[], bool],
        graph: bool,
        rooted: bool = True,
    ) -> None:
        self.adapter, self.active, self.graph, self.rooted = adapter, active, graph, graph and rooted
        self.found: dict[nn.Module | str, Tensor] = {}
        self._versions: dict[nn.Module | str, int] = {}
        blocks = adapter.blocks()
        if not blocks:
            raise UnsupportedModelError(
                f"{type(adapter).__name__} does not say where the token stream is: it names no block after any "
                f"attention layer"
            )
        self._first = next(iter(blocks.values()))
        self.layers = {name: block for name, block in blocks.items() if names is None or name in names}
        self._shelf = Shelf(len(set(self.layers.values())) + 1)

    def listen(self, stack: ExitStack) -> None:
        """Register the hooks, until the stack ends."""
        stack.callback(self._first.register_forward_pre_hook(self._before, with_kwargs=True).remove)
        for module in dict.fromkeys(self.layers.values()):
            stack.callback(module.register_forward_hook(self._after).remove)

    def tokens(self) -> dict[str, Tensor]:
        """The stream by attention layer, (B, N, D) each, after `EMBEDDED`."""
        for key, stream in self.found.items():
            if self.graph and stream._version != self._versions[key]:
                raise UnsupportedModelError(
                    f"{type(self.adapter.model).__name__} changes its token stream in place, so that what stood after "
                    f"each block is lost"
                )
        return {EMBEDDED: self.found[EMBEDDED], **{name: self.found[module] for name, module in self.layers.items()}}

    def _before(self, module: nn.Module, args: tuple, kwargs: dict | None = None) -> tuple[tuple, dict] | None:
        if not self.active() or kwargs is None:
            return None
        if not args or not isinstance(stream := stream_of(self.adapter, args), Tensor):
            raise UnsupportedModelError(f"the first block, {type(module).__name__}, is called without a token stream")
        if self.rooted and not stream.requires_grad:
            stream = stream.detach().requires_grad_()
        self._put(EMBEDDED, stream)
        return with_stream(self.adapter, args, stream), kwargs

    def _after(self, module: nn.Module, args: tuple, output: Any) -> Any:
        if not self.active():
            return None
        stream = stream_of(self.adapter, output)
        if not isinstance(stream, Tensor) or stream.dim() != 3:
            raise UnsupportedModelError(f"a block, {type(module).__name__}, gives no token stream (B, N, D)")
        self._put(module, stream)
        # what goes on has to come of what is kept: a view of it, and not what this is a view of
        return with_stream(self.adapter, output, stream) if self.adapter.tokens_first else None

    def _put(self, key: nn.Module | str, stream: Tensor) -> None:
        self.found[key] = stream if self.graph else self._shelf.put(stream)
        self._versions[key] = stream._version


def stream_of(adapter: Adapter, values: Any) -> Tensor:
    """The token stream (B, N, D) in what a block gives, or in what the first is given."""
    stream = adapter.stream(values)
    return stream.transpose(0, 1) if adapter.tokens_first and isinstance(stream, Tensor) else stream


def with_stream(adapter: Adapter, output: Any, stream: Tensor) -> Any:
    """What a block gave, with another token stream (B, N, D) in it.

    Raises:
        UnsupportedModelError: the stream stands where nothing can be put in its place.
    """
    given = adapter.stream(output)
    stream = stream.transpose(0, 1) if adapter.tokens_first else stream
    if output is given:
        return stream
    if type(output) in (tuple, list):
        return type(output)(stream if part is given else part for part in output)
    if isinstance(output, dict):
        return type(output)({key: stream if part is given else part for key, part in output.items()})
    raise UnsupportedModelError(
        f"a block gives its token stream in a {type(output).__name__}, whose parts stay as they are"
    )
