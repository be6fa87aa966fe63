"""One run for several methods."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ..access import Adapter, Readout
from ..access.any_model import AnyModel
from ..capture import OUTPUTS, CellRun, Inputs, Need, Plain, Run, readout_of, untouched
from ..errors import OptionError
from ..targets import Target


class Reader(Protocol):
    """A method, as far as a run has to know it."""

    adapter: Adapter
    class_specific: bool
    weighs: bool

    def needed(self, **options: Any) -> frozenset[Need]:
        """What it reads with these options."""

    def layers_kept(self, readout: Readout, flow: bool, **options: Any) -> list[str]:
        """The layers that it reads with these options."""

    def layers_given(self, readout: Readout, flow: bool) -> list[str]:
        """The places whose tokens it reads."""

    def ahead(self, run: CellRun, **options: Any) -> None:
        """Ask a run of a model that no adapter knows for what its maps are made of."""


def start(
    readers: Sequence[tuple[Reader, Mapping[str, Any]]],
    call: Inputs,
    target: Target | None = None,
    *,
    flow: bool = True,
    once: bool = False,
    needs: Collection[Need] = (),
    create_graph: bool = False,
    plain: Plain | None = None,
) -> Run:
    """One run for several methods of one model, each with its options.

    Args:
        readers: methods that were made of the same model.
        call: what it is called with.
        target: the only one that is asked about, if it is. One that is made of more than the scores has a readout of
            its own, and so a run; so has each where single scores are read from tokens of their own.
        flow: whether the maps after each layer are wanted too.
        once: whether each method is asked for one target only.
        needs: what is asked of the run besides.
        create_graph: whether the maps are to be differentiated by the model's parameters.
        plain: a plain call of the same images, if one is made or was.
    """
    adapter = readers[0][0].adapter
    if isinstance(adapter, AnyModel):
        if create_graph:
            raise OptionError("create_graph is for models that have an adapter, and none knows this one's tokens")
        return CellRun(adapter, call, once=once, first=partial(readers[0][0].ahead, **readers[0][1]))
    needs = frozenset(needs).union(*(method.needed(**options) for method, options in readers))

    def layers(readout: Readout) -> set[str]:
        return {name for method, options in readers for name in method.layers_kept(readout, flow, **options)}

    def given(readout: Readout) -> set[str]:
        return {name for method, _ in readers for name in method.layers_given(readout, flow)}

    readout = None
    if target is not None and (target.own_tokens or not target.reads_scores):
        needs |= set() if target.reads_scores else {OUTPUTS}
        with untouched(adapter):
            plain, weights = plain or Plain(adapter, call), any(method.weighs for method, _ in readers)
            readout = readout_of(adapter, call, target, plain=plain, weights=weights)
    return Run(
        adapter,
        call,
        needs,
        layers=layers,
        readout=readout,
        target=target,
        given=given,
        once=once,
        create_graph=create_graph,
        plain=plain,
    )


def shared(run: Run, target: Target) -> bool:
    """Whether a target is read from the tokens that a run for all of them was made for; others have their own."""
    return target.reads_scores and not target.own_tokens and run.readout.holds_for(target)


def maps_of_targets(
    method: Any, options: Mapping[str, Any], run: Run, targets: Sequence[Target], *, flow: bool
) -> list[Tensor]:
    """The maps of one method for several targets, (N, layers or 1, patches) each.

    Targets that are read from the same tokens are asked together, every other has a run of its own.
    """
    together = [target for target in targets if shared(run, target)]
    found: dict[int, Tensor] = {}
    if together:
        parts = list(method._class_maps(run, together, flow=flow, **options))
        found = dict(zip(map(id, together), torch.cat(parts), strict=True))
    for target in targets:
        if id(target) not in found:
            graph = run.kept.create_graph
            with start([(method, options)], run.inputs, target, flow=flow, create_graph=graph) as own:
                found[id(target)] = method._maps(own, target, flow=flow, **options)
    return [found[id(target)] for target in targets]
