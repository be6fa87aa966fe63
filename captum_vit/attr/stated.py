"""What a method says of itself: facts, options, and where it does not apply."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from ..access import Adapter, Readout, TokenLayout
from ..access.any_model import AnyModel, adapt_any, adapt_or_tell
from ..capture import CellRun, Need, Run
from ..facts import Facts
from .calls import shape_maps
from .options import parameters_of


class Stated:
    """The facts of a method, as class attributes.

    Attributes:
        name: what the method is called where one is chosen by name; none of a base class.
        title: the method's name as papers write it.
        class_specific: whether the map depends on the target.
        signed: whether a map holds evidence against the target too, below 0.
        unit: what the numbers of a map count, per patch: "evidence" or "attention".
        accumulates: whether the slices of a flow build up to the map; otherwise each shows its layer alone.
        needs: what of a run the method reads, of `captum_vit.capture`.
        multiplies_layers: whether it needs all attention between the image and the score.
        weighs: whether it begins with what each token gives to the score itself, as rollouts do. Those that go back by
            gradients only have to know which tokens are read: then less is measured, where a target has its own.
        paper: where it was published.
        no_graph: why its maps cannot be differentiated by the model's parameters; empty where they can.
        any_model: whether it also applies to models of any architecture, which no adapter knows.
        of_words: whether it also says, of a model of images and texts, which words its score comes from.
        costly: what a map costs, where that is so much that the method is asked for by its name, and is none of "all".
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    class_specific: ClassVar[bool] = True
    signed: ClassVar[bool] = False
    unit: ClassVar[str] = "evidence"
    accumulates: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset()
    multiplies_layers: ClassVar[bool] = False
    weighs: ClassVar[bool] = True
    paper: ClassVar[str] = ""
    no_graph: ClassVar[str] = ""
    any_model: ClassVar[bool] = False
    costly: ClassVar[str] = ""
    of_words: ClassVar[bool] = False

    _maps: Callable[..., Tensor]
    flow_layers: Callable[[Readout], list[str]]

    @classmethod
    def _adapted(cls, model: nn.Module) -> Adapter:
        """The way from a model to its adapter."""
        return adapt_any(model) if cls.any_model else adapt_or_tell(model)

    def reader(self, output_shape: str) -> Any:
        """Who reads a run for maps of this shape: the method itself, unless it has other maps at the pixels."""
        return self

    def shaped(self, maps: Tensor, run: Run, output_shape: str) -> Tensor:
        """Maps over the patches, (N, layers or 1, patches), in one of the output shapes."""
        layout, _ = self.place_of(run)
        return shape_maps(layout.to_grid(maps), layout, run.adapter, run.inputs.images, output_shape)

    def ahead(self, run: CellRun, **options: Any) -> None:
        """Ask a run of a model that no adapter knows for what its maps are made of, so that one forward does."""

    def place_of(self, run: Run) -> tuple[TokenLayout, tuple[str, ...]]:
        """Where its maps of this run lie, and the names of the layers that the slices of a flow belong to."""
        return run.layout, tuple(self.flow_layers(run.readout))

    @property
    def multiplies_by_inputs(self) -> bool:
        return False

    def has_convergence_delta(self) -> bool:
        return False

    def needed(self, **options: Any) -> frozenset[Need]:
        """What of a run the method reads with these options."""
        return self.needs

    def layers_given(self, readout: Readout, flow: bool) -> list[str]:
        """The places whose tokens it reads: what attention layers are given, and what other modules give."""
        return []

    @classmethod
    def get_name(cls) -> str:
        return cls.__name__

    @classmethod
    def facts(cls, **options: Any) -> Facts:
        """What a reader of the maps has to know; with some options a map may have two signs, or another unit."""
        return Facts(cls.title or cls.__name__, cls.unit, cls.class_specific, cls.signed, cls.accumulates)

    @classmethod
    def options(cls) -> dict[str, Any]:
        """The options of `attribute` with their defaults."""
        return {parameter.name: parameter.default for parameter in parameters_of(cls._maps)}

    def sums_to_score(self, **options: Any) -> bool:
        """Whether with these options the map shares out the score, so that its sum is a part of that."""
        return False

    @classmethod
    def unsuited(cls, adapter: Adapter) -> str | None:
        """Why the method does not apply to a model; None if it does."""
        return adapter.gap if cls.multiplies_layers else None


def why_not(method: type[Stated], adapter: Adapter) -> str | None:
    """Why a method does not apply to a model; None if it does."""
    if isinstance(adapter, AnyModel) and not method.any_model:
        return f"it reads attention or tokens: {adapter.reason}"
    return method.unsuited(adapter)
