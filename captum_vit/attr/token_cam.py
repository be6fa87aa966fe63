"""What all class activation maps on tokens share: where tokens and gradients are taken."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..access import Layer, Readout, select_layers
from ..access.any_model import AnyModel
from ..capture import GIVEN, GIVEN_GRADIENTS, CellRun, Given, Run
from ..errors import LayerNotFoundError, UnsupportedModelError
from ..targets import Target
from ..unusual import note_once
from .any_model import OnAnyModel

Cam = Callable[[Tensor, Tensor], Tensor]
HALF = "in half precision its maps may differ from those in float32 by more than their highest value, so use float32"


class AtTokens(OnAnyModel):
    """A method that reads tokens at single places, as the output of the norm before an attention."""

    accumulates = False
    any_model = False
    weighs = False

    def layers_read(self, readout: Readout) -> list[str]:
        """The chosen layers up to the last attention in which the score is read, and other chosen modules.

        Raises:
            LayerNotFoundError: there is none.
        """
        if isinstance(self.adapter, AnyModel):
            return super().layers_read(readout)
        attention = list(self.adapter.attention_layers())
        reading = [name for name in self.adapter.reading_layers(readout) if readout.reads(name)]
        reached = attention[: attention.index(reading[-1]) + 1]
        read = [name for name in self.layer_names if name in reached or name not in attention]
        if not read:
            raise LayerNotFoundError(
                f"{', '.join(self.layer_names)}: the score is read neither there nor in a later layer. The last in "
                f"which it is read is {reading[-1]}"
            )
        return read

    def layers_kept(self, readout: Readout, flow: bool, **options: Any) -> list[str]:
        """None: of the attention itself nothing is read."""
        return []

    def layers_given(self, readout: Readout, flow: bool) -> list[str]:
        """The last layer alone, for a map."""
        names = self.layers_read(readout)
        return names if flow else names[-1:]

    def flow_layers(self, readout: Readout) -> list[str]:
        """All that are read."""
        return self.layers_read(readout)

    def _chosen(self, layer: Layer | Sequence[Layer] | None) -> dict[str, nn.Module]:
        if isinstance(self.adapter, AnyModel):
            return super()._chosen(layer)
        attention, blocks = self.adapter.attention_layers(), set(self.adapter.blocks().values())
        modules = dict(self.adapter.model.named_modules(remove_duplicate=False))
        wanted: list[Any] = list(layer) if isinstance(layer, (list, tuple, range)) else [] if layer is None else [layer]
        others: dict[str, nn.Module] = {}
        for each in wanted:
            path = each if isinstance(each, str) else next((name for name, m in modules.items() if m is each), "")
            module = modules.get(path) if path else None
            if module is not None and module not in blocks and module not in attention.values():
                others[path] = module
        rest = [each for each in wanted if each not in others and not any(each is m for m in others.values())]
        if not others:
            return super()._chosen(layer)
        found = others | {name: attention[name] for name in (select_layers(self.adapter, rest) if rest else ())}
        order = {module: place for place, module in enumerate(self.adapter.model.modules())}
        return dict(sorted(found.items(), key=lambda item: order[item[1]]))


class TokenCAM(AtTokens):
    """A class activation map on the tokens at one layer, as `GradCAM`.

    By default that is what the last attention is given through which the score reads patches: the output of the norm
    before it. It is the last block's, be the score read from a class token or from the mean of the patches; CaiT's last
    class block's; and an attention pool's, where one reads the tokens. The gradient is of what passes that attention
    alone, and not the skip connection around it.

    Of a model that no adapter knows, as a Swin or a ConvNeXt, it is what the last module gives that gives a grid of
    cells over the image on which the score depends: the last stage, or the norm behind it.

    A subclass implements `_cam`.

    Args:
        model: any timm or Hugging Face ViT, a module with one inside, or a model of any architecture.
        layer: an attention layer, or the block around it, by name, index or module, stands for what that attention is
            given. Any other module, by name or as itself, stands for what it gives, which has to be the token stream.
            None reads all attention layers. A map is that of the last of several, in the order in which the model lists
            them; a flow shows each alone. Of a model that no adapter knows it is the one module that gives the cells,
            as (N, C, rows, cols), (N, rows, cols, C) or (N, rows * cols, C).
    Raises:
        UnsupportedModelError: no adapter knows the model; with the map, a layer at which no patch has a gradient, as
            behind the last attention where the score is read from a class token.
        LayerNotFoundError: a layer that the model does not have, or one behind the last in which the score is read.
    """

    needs = frozenset({GIVEN, GIVEN_GRADIENTS})
    cancels: ClassVar[str] = ""  # what its formula divides by, where that may be nearly 0 and rounding shows
    any_model = True

    def modules_of(self, run: CellRun) -> Mapping[str, nn.Module]:
        return self._asked or run.last_grid()

    def ahead(self, run: CellRun, **options: Any) -> None:
        run.at(self.modules_of(run))

    def _maps(self, run: Run, target: Target, *, flow: bool) -> Tensor:
        return self._by_layer(run, target, flow)

    def _by_layer(self, run: Run, target: Target | None, flow: bool, cam: Cam | None = None) -> Tensor:
        """The map at each layer, or at the last alone, (B, layers or 1, patches); without a target of values alone."""
        cam = cam or self._cam
        if self.cancels and halved(run.inputs.images):
            note_once(run.adapter.model, f"half {self.name}", f"{self.title} divides by {self.cancels}: {HALF}")
        if isinstance(run, CellRun):
            return cam(*run.cells(self.modules_of(run), target)).unsqueeze(1)
        gradients = None if target is None else run.given_gradients(target)
        given = run.given()
        maps = []
        for name in self.layers_given(run.readout, flow):
            gradient = given[name].values if gradients is None else gradients[name]
            if gradients is not None:
                check_read(name, given[name], gradient)
            maps.append(placed(given[name], cam(*patches(given[name], gradient))))
        return torch.stack(maps, 1)

    @abstractmethod
    def _cam(self, a: Tensor, g: Tensor) -> Tensor:
        """The map (B, P) of patches a (B, P, D) and the score's gradients g there."""


def halved(images: Tensor) -> bool:
    """Whether a model computes in half precision on these images, under autocast or by its own type."""
    return images.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled(images.device.type)


def patches(given: Given, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Values and gradients of the patches at one place, (B, P, D) each, in float32 at least."""
    prefix = given.layout.prefix
    return ops.widen(given.values[:, prefix:]), ops.widen(gradient[:, prefix:])


def placed(given: Given, maps: Tensor) -> Tensor:
    """Maps of a layer's own patches, (B, P), on the grid of all maps."""
    return given.layout.to_map(F.pad(maps, (given.layout.prefix, 0)))


def check_read(name: str, given: Given, gradient: Tensor) -> None:
    """Raise UnsupportedModelError where tokens before the patches have a gradient, and none of the patches."""
    before, among = gradient[:, : given.layout.prefix], gradient[:, given.layout.prefix :]
    unread = before.flatten(1).any(1) & ~among.flatten(1).any(1)
    if bool(unread.any()):
        raise UnsupportedModelError(
            f"the score does not depend on the patches at {name}: the gradient there is 0 at all of them, and not at "
            f"the {given.layout.prefix} before them, as behind the last attention where a class token is read. Choose "
            f"an attention layer, which stands for what its attention is given, or a module before the last of them"
        )
