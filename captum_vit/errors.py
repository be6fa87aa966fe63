"""Everything that captum-vit raises on purpose; each also is the built-in error that callers would expect."""

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import Any


class CaptumViTError(Exception):
    """Root of the library's errors: it catches all that is raised on purpose.

    >>> try:
    ...     AGCAM(model).attribute(images, target=1000)
    ... except CaptumViTError as error:
    ...     print(error)
    target out of range: the model gives 1000 scores, 0 to 999, got 1000
    """


class UnsupportedModelError(CaptumViTError, TypeError):
    """No adapter knows the model, or the model computes attention in a way that its adapter refuses."""


class TokenLayoutError(CaptumViTError, ValueError):
    """The tokens of the model do not fit the patch grid that the image size implies."""


class LayerNotFoundError(CaptumViTError, ValueError):
    """A layer was asked for that the model does not have."""


class LayerNotRecordedError(CaptumViTError, RuntimeError):
    """An attention layer ran, but its attention could not be seen (or was seen more than once)."""


class TargetError(CaptumViTError, ValueError, AssertionError):
    """A target that the model's output cannot be indexed with (AssertionError is what captum raises here)."""


class InputError(CaptumViTError, ValueError):
    """An input that no attribution can be computed for."""


class OptionError(CaptumViTError, ValueError):
    """An option outside its range, or a name that does not exist."""


class PreprocessingError(CaptumViTError, TypeError):
    """A preprocessing that a map cannot be led back through."""


class ModelLoadError(CaptumViTError, ValueError):
    """A model or checkpoint that could not be loaded."""


class ImageLoadError(CaptumViTError, OSError):
    """A file that is not a readable image."""


class DataError(CaptumViTError, ValueError):
    """A data set that is not there or not laid out as published, or an item of it that cannot be read."""


class ExplanationLoadError(CaptumViTError, ValueError):
    """A folder that does not hold a whole explanation."""


class RunError(CaptumViTError, ValueError):
    """A folder that does not hold the run that was asked for."""


class OutputError(CaptumViTError, OSError):
    """A folder or file that cannot be written."""


def nearest(name: str, known: Collection[str]) -> str:
    """A hint with the known names most like `name`, each once, or nothing."""
    close = get_close_matches(name[:100], list(dict.fromkeys(known)), n=3, cutoff=0.5)
    return f"; nearest: {', '.join(close)}" if close else ""


def reason(error: BaseException) -> str:
    """An exception of somebody's code in one line."""
    said = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def brief(value: Any, most: int = 80) -> str:
    """A value as it stands in a message: what a tensor or a module is, never what it holds, and no more than its start.

    >>> from captum_vit.errors import brief
    >>> print(brief(torch.zeros(2, 3)), brief(model), brief(["cat"] * 1000), sep="; ")
    float32 tensor (2, 3), 0 to 0; the module VisionTransformer; ['cat', 'cat', 'cat', ...] of 1000

    Args:
        value: anything.
        most: letters of a text, or of whatever has no words of its own.
    """
    kind = type(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return _array(value)
    if hasattr(value, "named_parameters") and hasattr(value, "forward"):
        return f"the module {kind.__name__}"
    if isinstance(value, (list, tuple, set, frozenset, Mapping)) and not hasattr(value, "_fields"):
        return _several(value, most)
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    if isinstance(value, str):
        return repr(value) if len(value) <= most else f"{value[:most]!r}... of {len(value)} letters"
    try:
        text = " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value)).split())
    except Exception:  # whatever somebody's __repr__ does
        text = kind.__name__
    whole = len(text) <= most and "tensor(" not in text and "array(" not in text
    return text if whole else f"an object {kind.__name__}"


def _array(value: Any) -> str:
    """Of an array or a tensor what it is, and between which values it lies."""
    dtype, shape = str(value.dtype).removeprefix("torch."), tuple(value.shape)
    kind = {"ndarray": "array"}.get(type(value).__name__, type(value).__name__.lower())
    within = ""
    with suppress(Exception):  # without values, as on the meta device, or of no order
        if not shape:
            return f"{dtype} {value.item()}"
        low, high = value.min().item(), value.max().item()
        within = f", {low:.3g} to {high:.3g}"
    return f"{dtype} {kind} {shape}{within}"


def _several(value: Collection[Any], most: int) -> str:
    """The first of several, those within them shorter still."""
    entries = list(value)
    if most < 20:
        return f"{type(value).__name__} of {len(entries)}"
    if all(entry is None or isinstance(entry, (bool, int, float, str)) for entry in entries[: most // 2]):
        text = repr(value) if len(entries) <= most // 2 and not isinstance(value, Mapping) else ""
        if 0 < len(text) <= most:
            return text
    told = [brief(entry, most // 4) for entry in entries[: 3 if len(entries) > 3 else None]]
    if isinstance(value, Mapping):
        told = [f"{name}: {brief(value[entry], most // 4)}" for name, entry in zip(told, entries, strict=False)]
    opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")") if isinstance(value, tuple) else ("{", "}")
    while len(told) > 1 and sum(map(len, told)) > 1.5 * most:
        told = [*told[:-2], "..."] if told[-1] == "..." else [*told[:-1], "..."]
    more = ", ..." if len(entries) > 3 and told[-1] != "..." else "," if len(entries) == 1 and opening == "(" else ""
    return f"{opening}{', '.join(told)}{more}{closing}" + (f" of {len(entries)}" if len(entries) > 3 else "")
