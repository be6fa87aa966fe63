"""Rules in place of derivatives: how a model's functions are computed so that their way back is the rule's.

A `TorchFunctionMode` sees every function that a running model calls. One that meets an activation is looked up by its
name in the table of the rules: what stands there gives the same values, with another way back. What does not stand
there is refused by its name, so that no function is ever passed over; and so is what a mode cannot see, as an autograd
function of somebody's own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import UnsupportedModelError
from .ruled import Call, State, made_like, name_of, out_of_place, tensors_in, with_tensors

T = TypeVar("T")
Rule = Callable[[Call], Any]
PASSING = {"BackwardHookFunctionBackward"}  # an identity, which torch itself puts in
OURS = f"{__name__.partition('.')[0]}."


@dataclass(frozen=True)
class Rules:
    """What stands in place of derivatives on the way back.

    >>> Rules("linear layers alone", {"linear": lambda call: call.run()})
    Rules(title='linear layers alone')

    title: what they are called in messages.
    table: the name of a torch function -> its rule, which takes a `Call` of it and gives what the function gives.
        Functions of one name in torch, `Tensor` and `torch.nn.functional` are one, those in place too.
    as_they_are: of these names, those whose own way back is the rule's, so that they may write in place.
    double: whether all is computed in double precision, weights too, where the device has it.
    """

    title: str
    table: Mapping[str, Rule] = field(hash=False, repr=False)
    as_they_are: frozenset[str] = field(default=frozenset(), hash=False, repr=False)
    double: bool = field(default=False, repr=False)


class Ruling:
    """Rules at work in one forward.

    Args:
        rules: by which functions are computed.
        images, tokens_first: how many images there are, and whether streams are (N, B, D), as `State` has them.
        accounting: whether constants that are added to activations become leaves of the graph, which tell what they
            hold.
    """

    def __init__(
        self, rules: Rules, *, images: int | None = None, tokens_first: bool = False, accounting: bool = False
    ) -> None:
        self.rules = rules
        self.state = State(rules.title, images=images, tokens_first=tokens_first, accounting=accounting)
        self._seen = WeakIdKeyDictionary()  # the activations whose making was seen

    def __call__(self, func: Callable, /, *args: Any, **kwargs: Any) -> Any:
        """What a function gives."""
        if any(x.requires_grad for x in tensors_in((args, kwargs))):
            return self._ruled(func, args, kwargs)
        out = func(*args, **kwargs)
        self.state.follow(name_of(func)[0], args, kwargs, out)
        return out

    def _ruled(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        name, in_place = name_of(func)
        if name == "iter":  # as q, k, v = qkv
            return iter(self.see(list(func(*args, **kwargs))))
        rule = self.rules.table.get(name)
        if rule is None:
            out = func(*args, **kwargs)
            if any(x.requires_grad for x in tensors_in(out)):
                raise self._refused(name, func)
            if not made_like(name):  # as detach
                self.state.hold_all(out, name)
            return out
        call = Call(func, name, args, kwargs, in_place, self.state)
        if name in self.rules.as_they_are:
            return rule(call)
        alone = out_of_place(call)
        return rule(call) if alone is None else self.state.overwrite(args[0], rule(alone), name)

    def check_scores(self, scores: Tensor) -> None:
        """Raise UnsupportedModelError where the scores are a constant of these rules, or their making is not seen."""
        self.checked((scores,), {})
        made_by = self.state.held_by(scores)
        if made_by is not None:
            raise UnsupportedModelError(
                f"the model's scores come out of {made_by}, which is a constant under the rules of "
                f"{self.rules.title}: explain the numbers before it, by output= where the model gives them too"
            )

    def see(self, made: T) -> T:
        """Note that the making of these tensors was seen."""
        for x in tensors_in(made):
            if x.requires_grad:
                self._seen[x] = True
        return made

    def seen(self, out: T, args: tuple) -> T:
        """What a function of the model gave, from these arguments, of which it may have written to the first."""
        self.see((out, args[:1]))
        return out

    def checked(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The arguments that the model gives to a function, with weights as constants, of whatever kind they are.

        Raises:
            UnsupportedModelError: one was computed by what cannot be seen.
        """
        weights = []
        for x in tensors_in((args, kwargs)):
            if not x.requires_grad or isinstance(x, nn.Parameter):
                continue
            if x not in self._seen and x.grad_fn is None:
                weights.append(x)
            elif x not in self._seen or _is_foreign(x):  # what runs inside of it is seen, and its own way back is not
                self._check_seen(x)
        if not weights:
            return args, kwargs
        return with_tensors((args, kwargs), lambda x: x.detach() if any(x is weight for weight in weights) else x)

    def _check_seen(self, x: Tensor) -> None:
        if type(x.grad_fn).__name__ not in PASSING:
            raise UnsupportedModelError(
                f"an operation that cannot be seen ({type(x.grad_fn).__name__}), as an autograd function or a script "
                f"of somebody's own, computes activations: the rules of {self.rules.title} do not apply to it"
            )

    def _refused(self, name: str, func: Callable) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"the rules of {self.rules.title} have none for the function {name} of "
            f"{getattr(func, '__module__', None) or 'torch.Tensor'}, which activations go through on their way to the "
            f"score: no map of these rules is possible, those of gradients are"
        )


def _is_foreign(x: Tensor) -> bool:
    """Whether an autograd function of somebody's own computed it."""
    made_by = x.grad_fn
    return isinstance(made_by, BackwardCFunction) and not made_by._forward_cls.__module__.startswith(OURS)
