"""What stands on a leaderboard: methods of ours, of Captum, or anybody's functions, all asked in one way."""

import inspect
import zlib
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn

from ..access import Adapter
from ..access.any_model import AnyModel
from ..attr import METHODS, ViTAttribution, find_method
from ..attr.captum_methods import Scored
from ..attr.completeness import Completeness
from ..attr.conserving import ConservingGradients
from ..attr.finding import called, of_captum, unknown_method
from ..capture import Inputs, Run
from ..describing import described
from ..errors import OptionError, brief, nearest
from ..explanation.explaining import Explainer
from ..explanation.grids import finest
from ..plugins import named_object
from ..targets import Target

ASKED = {"self", "inputs", "model", "images", "target", "targets"}  # what a method is given anyway
Method = str | type | Callable[..., Any]
MapFunction = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (model, images, targets) -> maps (N, rows, cols)


class Entry:
    """A method on the leaderboard: `attribute(images, target=...)` gives maps (N, 1, rows, cols).

    Args:
        method: an attribution of ours, any other of Captum (whose channels are summed), or a function
            `(model, images, targets) -> maps`, (N, rows, cols) or (N, channels, rows, cols).
        model: what is explained.
        options: what the method's own call is given besides. An attribution of Captum that works in parts
            (`internal_batch_size`) does so in parts of the batch's own size, unless they say otherwise.
    Attributes:
        forward_func: the model, as Captum names it.
    """

    def __init__(self, method: Any, model: nn.Module, options: Mapping[str, Any] | None = None) -> None:
        if not hasattr(method, "attribute") and not callable(method):
            raise OptionError(
                f"a method is an attribution or a function (model, images, targets) -> maps, got {brief(method)}"
            )
        self.method, self.forward_func, self.options = method, model, dict(options or {})
        self._in_parts = "internal_batch_size" in _parameters(getattr(method, "attribute", method))

    def attribute(self, images: Tensor, target: Tensor) -> Tensor:
        """The maps.

        Raises:
            OptionError: the method gave something else.
        """
        parts = {"internal_batch_size": len(images)} if self._in_parts else {}
        if not isinstance(self.method, ViTAttribution):
            images = images.clone()  # the next method is given the same, whatever this one does to them
        if hasattr(self.method, "attribute"):
            found = self.method.attribute(images, target=target, **{**parts, **self.options})
        else:
            found = self.method(self.forward_func, images, target, **self.options)
        if not isinstance(found, Tensor) or found.dim() not in (3, 4) or len(found) != len(images):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise OptionError(f"a method gives maps (N, rows, cols) for {len(images)} images, got {got}")
        found = found.detach()
        found = found.float() if found.dtype in (torch.float16, torch.bfloat16) else found
        return found.sum(1, keepdim=True) if found.dim() == 4 else found[:, None]

    @property
    def baseline(self) -> bool:
        """Whether it knows nothing of the model."""
        return self.method in BASELINES.values()

    def completeness(self, images: Tensor, target: Tensor, *, output: Any = None) -> tuple[Completeness, ...] | None:
        """Where the score of each image lies, of a method that knows."""
        if not isinstance(self.method, ConservingGradients):
            return None
        return self.method.completeness(images, target, output=output, **self.options)

    def reads(self, adapter: Adapter) -> bool:
        """Whether it is a reader of runs of this model; all others run the model by themselves."""
        if not isinstance(self.method, ViTAttribution) or self.method.adapter.model is not adapter.model:
            return False
        return isinstance(self.method.adapter, AnyModel) == isinstance(adapter, AnyModel)

    def maps(self, run: Run, target: Target) -> Tensor:
        """The maps (N, 1, rows, cols) of a method that reads runs.

        Raises:
            OptionError: they lie on another part of the images than those of the stem, of a model without an adapter.
        """
        assert isinstance(self.method, ViTAttribution)
        maps = self.method._maps(run, target, flow=False, **self.options).detach()
        layout, _ = self.method.place_of(run)
        finest([layout, run.layout], run.adapter.size_of(run.inputs.images))
        return layout.to_grid(maps)

    def describe(self) -> dict[str, Any]:
        """What a manifest says of the method: what it is, its layers, and its options."""
        known = {id(module): f"model.{name}" for name, module in self.forward_func.named_modules()}
        if isinstance(scores := getattr(self.method, "forward_func", None), Scored):
            known[id(scores)] = "model"
        if isinstance(self.method, ViTAttribution):
            told = {**described(type(self.method)), "layers": list(self.method.layer_names)}
        else:
            told = described(self.method, known)
        return {"method": told, "options": described(self.options, known)}


def entries(
    methods: Sequence[Method] | Mapping[str, Any], explainer: Explainer, options: Mapping[str, Any] | None = None
) -> dict[str, Entry]:
    """The entries of methods in any form, by the name that they have on the leaderboard.

    Args:
        methods: as for `Evaluator`.
        explainer: the model.
        options: each method is given those that it knows.
    Raises:
        OptionError: an unknown name, two methods of one name, or an option that no method knows.
    """
    model, call = explainer.loaded.model, Inputs(torch.empty(0), output=explainer.output)
    found: dict[str, Entry] = {}
    used: set[str] = set()
    for name, method in _named(methods, explainer):
        if name in found:
            raise OptionError(f"two methods are called {name!r}: give them as a mapping, each with a name of its own")
        made = explainer.method(find_method(method)[1]) if isinstance(method, str) else method
        if isinstance(made, type):
            if not hasattr(made, "attribute"):
                raise OptionError(f"a class that is a method is an attribution, of ours or Captum's, got {brief(made)}")
            made = made(model if issubclass(made, ViTAttribution) else Scored(explainer.adapter, call))
        own = {option: value for option, value in (options or {}).items() if option in _known_options(made)}
        used |= own.keys()
        own = explainer.options(type(made), own) if isinstance(made, ViTAttribution) else own
        found[name] = Entry(made, model, own)
    if not found:
        raise OptionError("no methods to evaluate")
    unknown = [option for option in options or {} if option not in used]
    if unknown:
        known = sorted({option for entry in found.values() for option in _known_options(entry.method)})
        raise OptionError(
            f"{' and '.join(found)} have no option {unknown[0]!r}; there is: {', '.join(known) or 'none'}"
            f"{nearest(unknown[0], known)}"
        )
    return found


def check_methods(methods: Sequence[Method]) -> None:
    """Raise OptionError for a name that nobody knows, before anything is loaded."""
    for method in _listed(methods):
        if not isinstance(method, str):
            continue
        if ":" in method:
            named_object(method)
        elif method != "all" and called(method, BASELINES) is None and of_captum(method) is None:
            raise OptionError(unknown_method(method, ["all", *METHODS, *BASELINES], "module:object"))


def _listed(methods: Any) -> list[Any]:
    """Methods one by one, a single one among them."""
    if isinstance(methods, str) or callable(methods) or hasattr(methods, "attribute"):
        return [methods]
    if isinstance(methods, (list, tuple, Set)):
        return list(methods)
    raise OptionError(
        f"methods are names, classes or functions in a list, or by name in a mapping, got {brief(methods)}"
    )


def _named(methods: Sequence[Method] | Mapping[str, Any], explainer: Explainer) -> list[tuple[str, Any]]:
    """(name, method) of each, a method of ours by its name still; one that is named twice stands once."""
    found: list[tuple[str, Any]] = []
    given = methods.items() if isinstance(methods, Mapping) else [("", method) for method in _listed(methods)]
    for name, method in given:
        every = [*explainer.choose("all"), *BASELINES] if isinstance(method, str) and method == "all" else [method]
        for each in every:
            own, form = _named_alone(each)
            pair = (name if name and len(every) == 1 else own, form)
            if pair not in found:
                found.append(pair)
    return found


def _named_alone(method: Any) -> tuple[str, Any]:
    if not isinstance(method, str):
        return getattr(method, "__name__", type(method).__name__), method
    check_methods([method])
    if ":" in method:
        return method.rpartition(":")[2], named_object(method)
    name = called(method, BASELINES)
    if name is None:
        own = of_captum(method)
        assert own is not None
        return own.__name__, own
    return name, BASELINES.get(name, name)


def _known_options(method: Any) -> set[str]:
    if isinstance(method, ViTAttribution):
        return set(method.options())
    return _parameters(getattr(method, "attribute", method)) - ASKED


def _parameters(function: Any) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a builtin says nothing
        return set()


def random_maps(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Uniform noise on a grid of 14 by 14, the same for the same image and class."""
    maps = []
    for image, target in zip(images, targets.tolist(), strict=True):
        seed = zlib.crc32(image.detach().float().cpu().numpy().tobytes()) + target
        maps.append(torch.rand(14, 14, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(maps).to(images.device)


def centred_gaussian(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """A bump in the middle, its standard deviation a quarter of the side."""
    line = torch.linspace(-2, 2, 14, device=images.device)
    return torch.exp(-(line[:, None] ** 2 + line**2) / 2).expand(len(images), -1, -1)


BASELINES: dict[str, MapFunction] = {"random": random_maps, "gaussian": centred_gaussian}
