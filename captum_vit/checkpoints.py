"""Weights out of whatever training leaves behind, and into a model: all of them or none."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ModelLoadError, nearest
from .weight_files import Unopened, content_of, refused

PREFERRED = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params")
LAST = ("teacher",)  # by DINO's own evaluation, before its student
DEPTH = 6  # dictionaries in dictionaries
_NO_WEIGHTS = re.compile("optim|sched|scaler|loops", re.IGNORECASE)


@dataclass(frozen=True)
class Checkpoint:
    """Weights by name, and what a user should know of how they were found.

    path: the file, for messages.  key: what was asked for of several; empty if nothing was.
    """

    weights: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    path: str = ""
    key: str = ""

    def fitted(self, own: Collection[str]) -> "Checkpoint":
        """The same under a model's own names: without the prefix that stands before them, as `model.` of Lightning.

        Weights beside those, as of a loss, are left out, and told.

        Raises:
            ModelLoadError: the model stands in it under several prefixes, and none was chosen; or weights are NaN,
                quantised, sparse or without values.
        """
        prefix = self._prefix(own)
        found = self._without(prefix) if prefix else self
        found._check_values()
        return found

    def _without(self, prefix: str) -> "Checkpoint":
        inside = {name.removeprefix(prefix): w for name, w in self.weights.items() if name.startswith(prefix)}
        outside = [name for name in self.weights if not name.startswith(prefix)]
        note = f"checkpoint: {prefix!r} is taken off {len(inside)} names"
        note += f"; left out, without it: {len(outside)} ({first(outside)})" if outside else ""
        return replace(self, weights=inside, notes=(*self.notes, note))

    def _check_values(self) -> None:
        """That the weights are numbers that a model can be given, whatever it is."""
        if any(name.endswith((".zero_point", "._packed_params")) for name in self.weights):
            raise ModelLoadError(
                f"the checkpoint {self.path!r} is of a quantised model: give the weights before they were quantised"
            )
        kinds = {name: kind for name, weight in self.weights.items() if (kind := _unusable(weight))}
        if kinds:
            name, kind = next(iter(kinds.items()))
            raise ModelLoadError(
                f"the checkpoint {self.path!r} holds {len(kinds)} of {len(self.weights)} weights that are {kind} "
                f"({first(kinds)}): save {name} as an ordinary tensor of numbers"
            )
        lost = [name for name, weight in self.weights.items() if _has_nan(weight)]
        if lost:
            raise ModelLoadError(
                f"the checkpoint {self.path!r} holds NaN in {len(lost)} of {len(self.weights)} weights "
                f"({first(lost)}): its training has failed; take an earlier one"
            )

    def _prefix(self, own: Collection[str]) -> str:
        counts = Counter(prefix for name in self.weights for prefix in _prefixes(name, own))
        most = max(counts.values(), default=0)
        if counts[""] == most > 0:
            return ""
        if most <= len(own) / 2:  # names of another model, or of an earlier version: what is before all of them may go
            common = _common(self.weights)
            return common if not most or common in counts else ""
        found = [prefix for prefix, count in counts.items() if count == most]
        if len(found) > 1:
            raise ModelLoadError(
                f"the checkpoint {self.path!r} holds the model several times, under {first(found, 6)}: choose one by "
                f"checkpoint_key={found[0].rstrip('.')!r} (--checkpoint-key)"
            )
        return found[0]


def read_checkpoint(path: str | Path, key: str | None = None) -> Checkpoint:
    """The weights in a safetensors file, or in one of torch.save, whatever stands around them; on the CPU.

    >>> from captum_vit import sample
    >>> from captum_vit.checkpoints import read_checkpoint
    >>> sorted(read_checkpoint(sample.WEIGHTS).weights)[:2]
    ['blocks.0.attn.proj.bias', 'blocks.0.attn.proj.weight']

    Dictionaries are searched for the one with weights. Nothing in the file is run: objects beside the weights, as
    Lightning's hyper-parameters, are left out.

    Args:
        path: the file.
        key: which of several to take, as "state_dict_ema" or "teacher"; also what stands before their names. By default
            the first of `PREFERRED`.
    Raises:
        ModelLoadError: no such file or key, damaged, no weights, or several without a preferred one.
    """
    path = Path(path)
    content = content_of(path)
    found = dict(_state_dicts(content))
    if not found:
        if isinstance(content, Unopened) or any(isinstance(v, Unopened) for v in _inside(content)):
            raise refused(path)
        kind = type(content).__name__
        raise ModelLoadError(f"the checkpoint {str(path)!r} holds {kind}, not weights by name: save model.state_dict()")
    name, notes = _chosen(found, key, path)
    weights = found[name]
    if key is not None and not _names(name, key):  # then it stands before the names
        weights = {each: weight for each, weight in weights.items() if each.startswith(f"{key}.")}
    dropped = [] if not isinstance(content, Mapping) else [k for k, v in content.items() if isinstance(v, Unopened)]
    if dropped:
        notes = (*notes, f"checkpoint: objects that are no tensors are left unopened ({first(dropped)})")
    return Checkpoint(weights, notes, str(path), key or "")


def load_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy weights into a model, all of them or none.

    Raises:
        ModelLoadError: names or shapes differ; the message has the first of them and how many there are.
    """
    own, weights = model.state_dict(), checkpoint.weights
    missing = [name for name in own if name not in weights]
    unknown = [name for name in weights if name not in own]
    reshaped = [
        f"{name} is {tuple(weights[name].shape)} and should be {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    parts = {"missing": missing, "not in the model": unknown, "of another shape": reshaped}
    if any(parts.values()):
        differing = sum(map(len, parts.values()))
        details = "; ".join(f"{len(names)} {what} ({first(names)})" for what, names in parts.items() if names)
        raise ModelLoadError(
            f"the checkpoint does not fit {type(model).__name__}: {differing} keys differ, of {len(own)} in the model: "
            f"{details}"
        )
    model.load_state_dict(dict(weights))


def first(names: Collection[str], count: int = 3) -> str:
    """The first few of many, in words."""
    return ", ".join(list(map(str, names))[:count]) + (", ..." if len(names) > count else "")


def _state_dicts(content: Any, path: str = "", depth: int = DEPTH) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(where it stands, weights) of each dictionary with weights in it, however deep."""
    if not isinstance(content, Mapping) or not depth:
        return
    weights = {str(name): value.data for name, value in content.items() if isinstance(value, Tensor)}
    if any("." in name for name in weights) or (weights and not path and len(weights) == len(content)):
        yield path, weights
    for name, value in content.items():
        if isinstance(value, Mapping) and not _NO_WEIGHTS.search(str(name)):
            yield from _state_dicts(value, f"{path}.{name}" if path else str(name), depth - 1)


def _inside(content: Any, depth: int = DEPTH) -> Iterator[Any]:
    """All that stands in a dictionary, however deep."""
    for value in content.values() if isinstance(content, Mapping) and depth else ():
        yield value
        yield from _inside(value, depth - 1)


def _chosen(found: Mapping[str, Any], key: str | None, path: Path) -> tuple[str, tuple[str, ...]]:
    """Where the weights stand that are taken, and a note if there are others."""
    names = list(found)
    if key is not None:
        named = [name for name in names if _names(name, key)]
        before = [name for name in names if any(each.startswith(f"{key}.") for each in found[name])]
        if not named and not before:
            raise ModelLoadError(
                f"the checkpoint {str(path)!r} has no weights under {key!r}; it has {_listed(names)}"
                f"{nearest(key, names)}"
            )
        return _best(named or before)[0], ()
    best = _best(names)
    if len(best) > 1:
        raise ModelLoadError(
            f"the checkpoint {str(path)!r} holds several sets of weights: {_listed(names)}: choose one by "
            f"checkpoint_key={best[0]!r} (--checkpoint-key)"
        )
    others = [name for name in names if name != best[0]]
    if not others:
        return best[0], ()
    return best[0], (
        f"checkpoint: {best[0] or 'the outermost'!r} of several sets of weights is taken; it also has "
        f"{_listed(others)}: checkpoint_key={others[0]!r} (--checkpoint-key) would take that",
    )


def _best(names: list[str]) -> list[str]:
    """The preferred ones of several places; more than one where none is preferred."""

    def rank(name: str) -> tuple[int, int]:
        order = [*PREFERRED, *LAST]
        parts = name.split(".")
        known = [order.index(part) if part in order else len(order) for part in parts]
        worst = max(known)  # callbacks.ema.state_dict is no better than callbacks
        return (-1 if not name else worst, len(parts))

    ranks = {name: rank(name) for name in names}
    least = min(ranks.values())
    return [name for name in names if ranks[name] == least]


def _names(place: str, key: str) -> bool:
    """Whether a key names the place of a dictionary: as a whole, by its end, or by what it stands in."""
    return f".{key}." in f".{place}."


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names[:8]) + (", ..." if len(names) > 8 else "")


def _prefixes(name: str, own: Collection[str]) -> Iterator[str]:
    """What stands before a model's own name in `name`, for every way to read it."""
    place = 0
    while True:
        if name[place:] in own:
            yield name[:place]
        place = name.find(".", place) + 1
        if not place:
            return


def _has_nan(weight: Tensor) -> bool:
    if not weight.is_floating_point():
        return False
    return bool((weight.float() if weight.element_size() == 1 else weight).isnan().any())  # 8 bits know no isnan


def _unusable(weight: Tensor) -> str:
    """What a weight is that is no ordinary tensor; empty of one that is."""
    if weight.is_quantized:
        return "quantised"
    if weight.is_meta:
        return "without values (on the meta device)"
    return "" if weight.layout is torch.strided else "sparse"


def _common(names: Collection[str]) -> str:
    """What stands before all names, up to a dot."""
    parts = [name.split(".")[:-1] for name in names]
    shared = 0
    while all(len(each) > shared and each[shared] == parts[0][shared] for each in parts):
        shared += 1
    return "".join(f"{part}." for part in parts[0][:shared])
