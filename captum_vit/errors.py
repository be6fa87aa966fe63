"""Everything that captum-vit raises on purpose; each also is the built-in error that callers would expect."""

from difflib import get_close_matches


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


def nearest(name: str, known: list[str]) -> str:
    """A hint with the known names most like `name`, or nothing."""
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; nearest: {', '.join(close)}" if close else ""
