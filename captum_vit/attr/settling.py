"""Targets that take something from the images as they are given: a region that the model finds, a query's class."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..access import Adapter
from ..access.any_model import AnyModel
from ..capture import Inputs, Plain, Run, placed_layout
from ..geometry import View, covered
from ..targets import Sight, Target
from .calls import check_text_given
from .naming import named_target
from .starting import start


def settled(targets: Sequence[Target], plain: Plain, view: View | None = None) -> list[Target]:
    """The targets with all that they take from the images of a call; others as they are.

    Args:
        targets: what is explained.
        plain: the model, what it is called with, and what it gives, where a target asks for that.
        view: how its inputs look at the image that somebody asks about; by default that image is the input.
    Raises:
        TargetError: the images do not have what is asked about.
        InputError: it is of texts, and none was given beside the images.
    """
    adapter, call = plain.adapter, plain.inputs
    for target in targets if call.textless else ():
        check_text_given(adapter, call, target)
    if not any(target.settles for target in targets):
        return list(targets)
    output, sight = plain.output, sight_of(adapter, call, view)
    return [target.settled(output, sight) if target.settles else target for target in targets]


def wanted_by(method: Any, target: Any, plain: Plain) -> Target | None:
    """The target of a method, settled; None where it is not looked at.

    A method that gives one map for all classes has one of its own for what is read from other tokens than other scores
    are, as a detector's query is.
    """
    adapter, looked_at = plain.adapter, method.class_specific
    if not looked_at and target is not None:
        own = isinstance(target, Target) and target.own_tokens
        looked_at = own or Run(adapter, plain.inputs).readout.by_class
    return settled([named_target(target, adapter)], plain)[0] if looked_at else None


def asked_once(
    reader: Any, options: Mapping[str, Any], call: Inputs, target: Any, *, flow: bool, graph: bool
) -> tuple[Run, Target | None]:
    """The run of one method for one target, and that target; one plain call serves both, and is gone with this."""
    plain = Plain(reader.adapter, call)
    wanted = wanted_by(reader, target, plain)
    run = start([(reader, options)], call, wanted, flow=flow, once=True, create_graph=graph, plain=plain)
    return run, wanted


def sight_of(adapter: Adapter, call: Inputs, view: View | None = None) -> Sight | None:
    """How what the model gives lies on the image; None of videos and volumes."""
    size = adapter.size_of(call.images)
    if len(size) != 2:
        return None
    view = view or View.of((size[1], size[0]))
    if isinstance(adapter, AnyModel):  # there are no patches
        return Sight(view, view)
    return Sight(view, covered(view, placed_layout(adapter, call), (size[0], size[1])))
