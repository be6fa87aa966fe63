"""What methods have in common on models that no adapter knows: a map lies at the cells of one module."""

from collections.abc import Mapping, Sequence

from torch import nn

from ..access import Layer, Readout, TokenLayout
from ..access.any_model import AnyModel
from ..capture import CellRun, Run
from .base import ViTAttribution


class OnAnyModel(ViTAttribution):
    """A method that also has maps at the cells of a module.

    On a model that no adapter knows `layer` names that module.
    """

    any_model = True

    def modules_of(self, run: CellRun) -> Mapping[str, nn.Module]:
        """The modules of which the first that runs gives the cells: the one that was chosen, or those of the stem."""
        return self._asked or run.cell_adapter.stems()

    def place_of(self, run: Run) -> tuple[TokenLayout, tuple[str, ...]]:
        if not isinstance(run, CellRun):
            return super().place_of(run)
        layout, name = run.place(self.modules_of(run))
        return layout, (name,)

    @property
    def _asked(self) -> dict[str, nn.Module]:
        """The module that was chosen, by name."""
        modules = dict(self.adapter.model.named_modules())
        return {name: modules[name] for name in self.layer_names}

    def layers_read(self, readout: Readout) -> list[str]:
        return self.layer_names if isinstance(self.adapter, AnyModel) else super().layers_read(readout)

    def _chosen(self, layer: Layer | Sequence[Layer] | None) -> dict[str, nn.Module]:
        if isinstance(self.adapter, AnyModel):
            return {} if layer is None else dict([self.adapter.module_at(layer)])
        return super()._chosen(layer)
