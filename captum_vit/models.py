"""Models by name: `timm/vit_base_patch16_224`, `hf/<id or folder>`, `sample`, and `module:object` of one's own.

What stands before the first slash chooses a loader from the entry-point group `captum_vit.loaders`; the rest is for
the loader. So the core knows no framework, and a package can bring loaders of its own.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

from .checking import check_path, check_text
from .checkpoints import load_weights, read_checkpoint
from .errors import ModelLoadError, OptionError, brief, nearest, reason
from .images import SUFFIXES
from .plugins import is_path, named_object
from .preprocessing import Preprocessing

LOADERS = "captum_vit.loaders"
WEIGHTS = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")  # how files of weights end


@dataclass(frozen=True, repr=False)
class LoadedModel:
    """A model in eval mode with what belongs to it.

    preprocess: RGB image -> model input (C, H, W), normalised; and the way back. None if nobody knows.
    class_names: index -> name; empty if nobody knows.
    multi_label: whether every class is scored by itself (sigmoid), instead of against the others (softmax); a single
        class always is.
    regression: whether the outputs are values, without a meaning as classes.
    shares: whether the outputs are probabilities already, as after a softmax.
    name: as it was asked for.  notes: what a user should know of how it was loaded.
    random: whether its weights are, so that its maps show nothing but its architecture.
    tokenizer: of a model of images and texts, that of its texts; None if nobody knows.
    """

    model: nn.Module
    preprocess: Preprocessing | None = None
    class_names: Mapping[int, str] = field(default_factory=dict)
    multi_label: bool = False
    regression: bool = False
    shares: bool = False
    name: str = ""
    notes: tuple[str, ...] = ()
    random: bool = False
    tokenizer: Any = None

    def probabilities(self, logits: Tensor) -> Tensor:
        """(..., classes) -> (..., classes), each in 0..1."""
        if self.shares:
            return logits
        return logits.sigmoid() if self.multi_label or logits.shape[-1] == 1 else logits.softmax(-1)

    def __repr__(self) -> str:
        count = sum(parameter.numel() for parameter in self.model.parameters())
        size = f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count / 1e3:.1f} k"
        parts = [f"{type(self.model).__name__} of {size} parameters{', random ones' if self.random else ''}"]
        parts.append(f"{len(self.class_names)} named classes" if self.class_names else "no class names")
        parts.append("no preprocessing" if self.preprocess is None else f"preprocessing {self.preprocess}")
        return f"{type(self).__name__}({self.name or 'a model'}: {'; '.join([*parts, *self.notes])})"


def load_model(spec: str, *, checkpoint: str | Path | None = None, **options: Any) -> LoadedModel:
    """The model that `spec` names.

    >>> loaded = load_model("sample")  # or "timm/vit_base_patch16_224", "hf/FOLDER", "my_module:make_model"
    >>> type(loaded.model).__name__, loaded.class_names[0]
    ('VisionTransformer', 'disc')

    Args:
        spec: `loader/name`, or `loader` alone where it has a default; or `module:object`, a model of your own, or a
            class or function without arguments that makes one.
        checkpoint: file with weights to load into it, .safetensors or one of torch.save, as Lightning's .ckpt; nothing
            in it is run.
        options: for the loader: `pretrained=False` for random weights, `checkpoint_key="teacher"` for one of several
            sets of weights in a checkpoint, and `img_size=384` for a model that is built for another size.
    Raises:
        ModelLoadError: no such loader or model, a missing package, an option that the loader does not have, or weights
            that do not fit.
    """
    check_text("a model by name", spec, "timm/vit_base_patch16_224")
    if checkpoint is not None:
        check_path("checkpoint", checkpoint)
    loader, _, name = spec.partition("/")
    points = {point.name: point for point in entry_points(group=LOADERS)}
    if is_path(spec) and spec.partition(":")[0] not in points:
        _check_options(_of_object, "module:object", options)
        return replace(_of_object(spec, checkpoint=checkpoint, **options), name=spec)
    if loader not in points:
        raise ModelLoadError(_unknown(spec, points))
    try:
        load = points[loader].load()
        _check_options(load, loader, options)
        return replace(load(name, checkpoint=checkpoint, **options), name=spec)
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"{spec!r} needs the package {error.name!r}, which is not installed: pip install 'captum-vit[all]'"
        ) from error


def _of_object(path: str, *, checkpoint: str | Path | None = None, checkpoint_key: str | None = None) -> LoadedModel:
    """The model that `module:object` names: a module, a `LoadedModel`, or a class or function that makes one."""
    found = named_object(path)
    if not isinstance(found, (nn.Module, LoadedModel)) and callable(found):
        try:
            found = found()
        except Exception as error:  # of somebody's code
            raise ModelLoadError(
                f"{path!r} fails where it is called without arguments ({reason(error)}): name a function that takes "
                f"none and returns the model"
            ) from error
    if isinstance(found, nn.Module):
        found = LoadedModel(found)
    if not isinstance(found, LoadedModel):
        raise ModelLoadError(
            f"{path!r} must be a torch.nn.Module, a LoadedModel, or a class or function that makes one without "
            f"arguments, got {brief(found)}"
        )
    found.model.eval()
    if checkpoint is None:
        return found
    weights = read_checkpoint(checkpoint, checkpoint_key).fitted(found.model.state_dict().keys())
    load_weights(found.model, weights)
    return replace(found, notes=(*found.notes, *weights.notes))


def _check_options(load: Callable[..., LoadedModel], loader: str, options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(load).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "checkpoint"]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name in () if open_ended else options:
        if name not in known:
            raise ModelLoadError(
                f"models of {loader} have no option {name!r}; they have {', '.join(known)}{nearest(name, known)}"
            )


def _unknown(spec: str, points: Mapping[str, EntryPoint]) -> str:
    """Why a name is none, and which model was meant."""
    if Path(spec).suffix.lower() in SUFFIXES:
        return f"unknown model {spec!r}: that is an image, and the image comes first, as explain(image, model)"
    if Path(spec).suffix.lower() in WEIGHTS:
        return (
            f"unknown model {spec!r}: that is a file of weights, for a model that has a name too, as "
            f"timm/vit_base_patch16_224 with checkpoint={spec!r} (--checkpoint {spec})"
        )
    head, _, rest = spec.partition("/")
    begins = f"unknown model {spec!r}: a name begins with {', '.join(sorted(points))}, or is module:object"
    close = [points[loader] for loader in get_close_matches(head, list(points), cutoff=0.6)]
    meant = [f"{point.name}/{rest}" for point in close if _knows(point, rest)]
    meant = meant or [f"{loader}/{spec}" for loader, point in sorted(points.items()) if _knows(point, spec)]
    if meant:
        return f"{begins}; did you mean {' or '.join(map(repr, meant))}?"
    return f"{begins}, as timm/vit_base_patch16_224 or hf/FOLDER{nearest(head, list(points))}"


def _knows(point: EntryPoint, name: str) -> bool:
    """Whether a loader would take a name; its module may have a function `knows` that says so."""
    try:
        knows = getattr(import_module(point.module), "knows", None)
    except ImportError:  # of the framework, or of somebody's package
        return False
    return bool(name) and knows is not None and bool(knows(name))


def chosen_device(name: str | torch.device | None) -> torch.device:
    """The device of this name, or by default cuda if there is one.

    Raises:
        OptionError: it is not there.
    """
    if not isinstance(name, (str, torch.device, NoneType)):
        raise OptionError(f"device must be a name, as 'cuda:0', got {brief(name)}")
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # a device may have a name and not be there
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(f"no device {brief(str(name))} here: {str(error).splitlines()[0][:200]}") from error
    return device
