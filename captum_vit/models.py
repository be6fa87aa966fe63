"""Models by name: `timm/vit_base_patch16_224`, `hf/<id or folder>`, `sample`.

What stands before the first slash chooses a loader from the entry-point group `captum_vit.loaders`; the rest is for
the loader. So the core knows no framework, and a package can bring loaders of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from .access import adapt, unwrap
from .errors import ModelLoadError, OptionError, nearest
from .preprocessing import Preprocessing
from .quiet import quiet

LOADERS = "captum_vit.loaders"


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode with what belongs to it.

    preprocess: RGB image -> model input (C, H, W), normalised; and the way back. None if nobody knows.
    class_names: index -> name; empty if nobody knows.
    multi_label: whether every class is scored by itself (sigmoid), instead of against the others (softmax); a single
        class always is.
    regression: whether the outputs are values, without a meaning as classes.
    """

    model: nn.Module
    preprocess: Preprocessing | None = None
    class_names: Mapping[int, str] = field(default_factory=dict)
    multi_label: bool = False
    regression: bool = False

    def probabilities(self, logits: Tensor) -> Tensor:
        """(..., classes) -> (..., classes), each in 0..1."""
        return logits.sigmoid() if self.multi_label or logits.shape[-1] == 1 else logits.softmax(-1)


def load_model(spec: str, *, checkpoint: str | Path | None = None, **options: Any) -> LoadedModel:
    """The model that `spec` names.

    >>> loaded = load_model("sample")  # or "timm/vit_base_patch16_224", "hf/FOLDER"
    >>> type(loaded.model).__name__, loaded.class_names[0]
    ('VisionTransformer', 'disc')

    Args:
        spec: `loader/name`, or `loader` alone where it has a default.
        checkpoint: file with weights to load into it, .safetensors or a state dict for torch.load(weights_only=True).
        options: for the loader, as `pretrained=False`.
    Raises:
        ModelLoadError: no such loader or model, a missing package, or weights that do not fit.
    """
    loader, _, name = spec.partition("/")
    points = {point.name: point for point in entry_points(group=LOADERS)}
    if loader not in points:
        raise ModelLoadError(
            f"unknown model {spec!r}: a name begins with {', '.join(sorted(points))}, as timm/vit_base_patch16_224 or "
            f"hf/FOLDER{nearest(loader, list(points))}"
        )
    try:
        return points[loader].load()(name, checkpoint=checkpoint, **options)
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"{spec!r} needs the package {error.name!r}, which is not installed: pip install 'captum-vit[all]'"
        ) from error


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The weights in a safetensors file, or in a file of torch.save that holds nothing but tensors; on the CPU.

    A state dict inside another under `state_dict` or `model` is taken out, and a `module.` that stands before all
    names, left by DataParallel, is taken off.

    Raises:
        ModelLoadError: no such file, neither of the two formats, damaged, or Python code in it, which is never run.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise ModelLoadError(f"cannot read the checkpoint {str(path)!r}: {error.strerror}") from error
    if not start:
        raise ModelLoadError(f"the checkpoint {str(path)!r} is empty (0 bytes)")
    content = _read_safetensors(path) if start[8:] == b"{" else _read_torch(path, start)
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelLoadError(
            f"the checkpoint {str(path)!r} holds {type(content).__name__}, not weights by name: save model.state_dict()"
        )
    if all(str(name).startswith("module.") for name in content):
        return {str(name).removeprefix("module."): value for name, value in content.items()}
    return {str(name): value for name, value in content.items()}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a model, all of them or none.

    Raises:
        ModelLoadError: names or shapes differ; the message has the first of them and how many there are.
    """
    own = model.state_dict()
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
        details = "; ".join(f"{len(names)} {what} ({_first(names)})" for what, names in parts.items() if names)
        raise ModelLoadError(
            f"the checkpoint does not fit {type(model).__name__}: {differing} keys differ, of {len(own)} in the model: "
            f"{details}{_prefix_hint(own, unknown)}"
        )
    model.load_state_dict(dict(weights))


def _prefix_hint(own: Mapping[str, Tensor], unknown: list[str]) -> str:
    """Whether the names would fit but for what stands before them, as in a LightningModule's checkpoint."""
    prefix = unknown[0].partition(".")[0] + "." if unknown else ""
    if unknown and any(name.startswith(prefix) and name.removeprefix(prefix) in own for name in unknown):
        return f". Names in it begin with {prefix!r}: save the weights of that module alone"
    return ""


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelLoadError(f"the checkpoint {str(path)!r} is damaged or cut off: {error}") from error


def _read_torch(path: Path, start: bytes) -> Any:
    try:
        with quiet("torch"):  # it remarks on the pickle's protocol: what that means for us is in the error
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        is_pickle = start.startswith((b"\x80", b"PK"))
        if is_pickle and any(sign in str(error) for sign in ("GLOBAL", "Unsupported")):
            raise ModelLoadError(
                f"the checkpoint {str(path)!r} holds Python objects beside tensors, and unpickling those could run any "
                f"code: refused. Save the weights alone, as safetensors or by torch.save(model.state_dict(), ...)"
            ) from error
        raise ModelLoadError(_unreadable(path)) from error
    except Exception as error:  # a damaged archive raises whatever its reader stumbles over
        raise ModelLoadError(_unreadable(path)) from error


def _unreadable(path: Path) -> str:
    return (
        f"the checkpoint {str(path)!r} is neither safetensors nor written by torch.save, or it is damaged: "
        f"get or save it again"
    )


def with_names(model: str | nn.Module, class_names: Any, checkpoint: str | Path | None) -> LoadedModel:
    """A model by name or the module itself, with the names of its classes, or with others."""
    if isinstance(model, str):
        found = load_model(model, checkpoint=checkpoint)
    else:
        config = getattr(unwrap(model), "config", None)
        problem = getattr(config, "problem_type", None)
        found = LoadedModel(
            model,
            class_names=adapt(model).class_names,
            multi_label=problem == "multi_label_classification",
            regression=problem == "regression",
        )
    if class_names is None:
        return found
    return replace(found, class_names=dict(class_names if isinstance(class_names, Mapping) else enumerate(class_names)))


def chosen_device(name: str | torch.device | None) -> torch.device:
    """The device of this name, or by default cuda if there is one.

    Raises:
        OptionError: it is not there.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # a device may have a name and not be there
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(f"no device {str(name)!r} here: {str(error).splitlines()[0]}") from error
    return device
