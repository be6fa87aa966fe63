"""Whether a model computes what its adapter and the capture take it to compute, examined before the first map.

Of every model once, as it stands: its scores while somebody listens are those of a plain call. Of one that others have
had a hand in, as an owner around it, a hook or a patched class: whether its images arrive whole, where its tokens lie,
and whether they stay there and meet in attention alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..access import Adapter, Readout, TokenLayout, adapt
from ..access.any_model import AnyModel
from ..errors import TokenLayoutError, UnsupportedModelError
from .basis import Basis, plain_call, same_scores
from .inputs import Inputs
from .listeners import foreign_hooks, without_hooks
from .others import NOBODY, Hands, hands_in, innermost, model_state
from .place import WHOLE, Place
from .plain import Plain
from .ramps import seen_place
from .repeated import each_computed, raised_by_others
from .stem import check_places
from .trunk import tokens_stay
from .unnamed import check_named
from .untouched import untouched

NAMED = 3  # of those who had a hand in a model, in a refusal
PLAIN = (bool, int, float, str, type(None))
_examined: "WeakKeyDictionary[nn.Module, dict[Any, Examined]]" = WeakKeyDictionary()


@dataclass
class Examined:
    """What was found of a model as it stands, for inputs of one shape.

    place: where the tokens lie on the images.
    hands: who else had a hand in it.
    intact: whether tokens meet in attention alone, so that what the adapter declares of the readout holds.
    edited: whether hooks of others change what passes.
    compared: how many images at most were in a batch whose scores were compared with those of a plain call.
    replays: whether its blocks may run on the prefix tokens alone, where a measured readout has no others: until it is
        seen that they do not, or that its head uses others too.
    """

    place: Place = WHOLE
    hands: Hands = NOBODY
    intact: bool = True
    edited: bool = False
    compared: int = 0
    replays: bool = True
    readouts: dict[Any, Readout] = field(default_factory=dict)
    left_out: dict[Any, str] = field(default_factory=dict)  # how tokens can be left out, or why not
    written: set[tuple[int, str]] = field(default_factory=set)  # attributes that the model's own forward puts there

    @property
    def declared(self) -> bool:
        """Whether what the adapter declares of the readout holds."""
        return self.intact and not self.hands.unseen


def examine(adapter: Adapter, inputs: Inputs, *, edited: bool = False) -> Examined:
    """What is known of the model for inputs like these.

    Args:
        adapter, inputs: the model and what it is called with.
        edited: whether somebody's hooks are known to change what passes. Hooks that only listen hear nothing of this.
    Raises:
        TokenLayoutError: tokens lie elsewhere than the adapter says, or do not stay where they are.
        UnsupportedModelError: the model makes several views of an image.
    """
    adapter.prepare(inputs.images, inputs.kwargs)
    key = state_key(adapter, inputs)
    if key is None:
        return _found(adapter, inputs, edited)
    known, state = _examined.setdefault(adapter.model, {}), (edited, inputs.chosen_by, key)
    found = known.get(state)
    if found is None:
        found = _found(adapter, inputs, edited)
        if len(known) > 8:  # of a model that is changed again and again
            known.clear()
        known[state] = found
    return found


def _found(adapter: Adapter, inputs: Inputs, edited: bool) -> Examined:
    hands = hands_in(adapter, edited=edited)
    if not hands.words or not adapter.on_images:
        if adapter.vit is adapter.model and not inputs.args:  # before the model itself fails at a size it does not take
            adapter.token_layout(adapter.size_of(inputs.images), inputs.kwargs)
        return Examined(edited=edited)
    try:
        return _looked(adapter, inputs, edited, hands)
    except Exception as error:
        if raised_by_others(error):
            raise
        with each_computed():  # a refusal rests on torch's own tensors, and not on what becomes of others
            return _looked(adapter, inputs, edited, hands)


def _looked(adapter: Adapter, inputs: Inputs, edited: bool, hands: Hands) -> Examined:
    subject = _subject(adapter, edited)
    subject.prepare(inputs.images, inputs.kwargs)
    with _named(hands):
        place = WHOLE if adapter.measured else seen_place(subject, inputs)
        if hands.own and not adapter.measured and adapter.gap is None:
            check_named(subject, innermost(subject).model, inputs, place)
        if adapter.gap is None and not adapter.mixes_before:
            check_places(subject, inputs, place)
        intact = adapter.gap is not None or tokens_stay(subject, inputs, place)
    if adapter.measured and not intact:
        raise UnsupportedModelError(
            f"the tokens of {type(adapter.model).__name__} also meet outside the attention that was found in it, as in "
            f"convolutions or attention of another kind: a map would leave that out. An adapter can say what it does "
            f"(CONTRIBUTING.md)"
        )
    if hands.own and not intact:
        raise UnsupportedModelError(
            f"between the attention layers that the adapter of {type(adapter.model).__name__} names, its tokens "
            f"also meet: a layer is missing in its `attention_layers`, or tokens meet in another way, which its `gap` "
            f"has to say, so that no rollout is carried through it"
        )
    return Examined(place, hands, intact, edited)


@contextmanager
def _named(hands: Hands) -> Iterator[None]:
    """A refusal within names those who may be its cause."""
    try:
        yield
    except (TokenLayoutError, UnsupportedModelError) as error:
        more = f", and {len(hands.words) - NAMED} more" if len(hands.words) > NAMED else ""
        raise type(error)(f"{error}. What was found: {'; '.join(hands.words[:NAMED])}{more}") from error


def placed_layout(adapter: Adapter, inputs: Inputs) -> TokenLayout:
    """Where the tokens lie on images like these, as far as that can be said before the model runs on them.

    Raises:
        TokenLayoutError, UnsupportedModelError: as `examine`.
    """
    if isinstance(adapter, AnyModel):
        raise UnsupportedModelError(
            f"where patches lie on the images of {type(adapter.model).__name__} is not known before a method is asked, "
            f"since no adapter knows it ({adapter.reason}): its maps tell where they lie"
        )
    with untouched(adapter):
        place = examine(adapter, inputs).place
    size = place.size or adapter.size_of(inputs.images)
    layout = adapter.token_layout(size, inputs.kwargs)
    order = layout.order if place.order is None else place.order
    return replace(layout, image_size=size, view=place.view or layout.view, order=order)


def _subject(adapter: Adapter, edited: bool) -> Adapter:
    """The model without the hooks of others that only listen: they hear what the model is asked, and no more."""
    return adapter if edited or not foreign_hooks(adapter.model) else adapt(without_hooks(adapter.model))


def state_key(adapter: Adapter, inputs: Inputs) -> tuple | None:
    """What tells one state of a model, and one shape of inputs, from another; None where that cannot be told."""
    given = [*inputs.args, *(part for item in sorted(inputs.kwargs.items()) for part in item)]
    if not all(isinstance(value, (*PLAIN, Tensor)) for value in given):
        return None
    told = tuple(value if isinstance(value, PLAIN) else _told(value) for value in given)
    images = inputs.images
    return model_state(adapter.model), adapter.settings, images.shape[1:], images.dtype, images.device, told


def _told(x: Tensor) -> tuple:
    """What tells one tensor beside the images from another: boxes and masks say what of an image counts."""
    return x.shape, x.dtype, hash(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())


def plain_of(adapter: Adapter, inputs: Inputs, known: Examined) -> Plain:
    """A plain call of the first image, which hooks of others do not hear if they only listen."""
    return Plain(_subject(adapter, known.edited), inputs.first())


def _stands_alone(adapter: Adapter, inputs: Inputs, scores: Tensor, number: int) -> bool:
    """Whether an image of a batch has the scores that it has by itself."""
    return plain_call(adapter, inputs.image(number)).gives(scores[number : number + 1])


def compare(adapter: Adapter, inputs: Inputs, scores: Tensor, known: Examined, plain: Basis | None = None) -> None:
    """The scores that were listened to must be those of plain calls, made once: of the first image and the last, each
    by itself, since an image may depend on those before it or behind.

    plain: such a call, if there was one for this run; one of a batch does not show that each image stands for itself.

    Raises:
        UnsupportedModelError: they are not.
    """
    count = min(len(inputs.images), 2)  # one image, or several, of which one may depend on others
    if known.compared >= count or adapter.training:
        return
    listened, adapter = adapter, _subject(adapter, known.edited)
    first = plain if plain is not None and len(plain.scores) == 1 else plain_call(adapter, inputs.first())
    if first.gives(scores) and (count == 1 or _stands_alone(adapter, inputs, scores, len(inputs.images) - 1)):
        known.compared = count
        return
    expected = plain_call(adapter, inputs).scores
    if count > 1 and expected.shape == scores.shape and same_scores(scores, expected):
        raise UnsupportedModelError(
            f"the scores of {type(adapter.model).__name__} for an image depend on the others in its batch, or stand in "
            f"another order than the images: which image a map belongs to is not known. Explain one image at a time"
        )
    if not same_scores(plain_call(adapter, inputs).scores, expected):
        raise UnsupportedModelError(
            f"{type(adapter.model).__name__} gives other scores each time it is called with the same images, in eval "
            f"mode: it draws random numbers, or counts its calls. A map of one call says nothing of another"
        )
    hooks = foreign_hooks(listened.model)
    if hooks and not known.edited:
        names = ", ".join(sorted({type(module).__name__ for module in hooks}))
        raise UnsupportedModelError(
            f"{type(adapter.model).__name__} gives other scores with the hooks on {names} than without them, and they "
            f"were not seen to change anything, as a hook that writes to `output.data`. Take it off while the model is "
            f"explained, or let the hook return what it changes"
        )
    others = f": {'; '.join(known.hands.words)}" if known.hands.words else ""
    raise UnsupportedModelError(
        f"{type(adapter.model).__name__} gives other scores while its attention is listened to than in a plain call"
        f"{others}. A map would be of another computation than the model's own"
    )
