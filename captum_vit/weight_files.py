"""What a file of weights holds, without running anything that is in it; and what it is instead, where it holds none."""

import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .errors import ModelLoadError
from .quiet import quiet

_TENSORS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch.nn.parameter", "Parameter"): torch.nn.Parameter,
    **{("torch._utils", name): getattr(torch._utils, name) for name in ("_rebuild_tensor", "_rebuild_tensor_v2")},
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}
_HOSTILE = {"_posixsubprocess", "ctypes", "importlib", "nt", "os", "posix", "pty", "runpy", "shutil", "socket"}
_HOSTILE |= {"subprocess", "sys", "webbrowser"}
_HOSTILE_BUILTINS = {"__import__", "compile", "eval", "exec", "open"}


class Unopened:
    """Stands for an object of a checkpoint that is no tensor: whatever it was told is dropped, and nothing is run."""

    dump_patches = False  # torch asks it of a module

    def __new__(cls, *_: Any, **__: Any) -> "Unopened":
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __call__(self, *_: Any, **__: Any) -> "Unopened":
        return self

    def __setstate__(self, _: Any) -> None: ...
    def __setitem__(self, _: Any, __: Any) -> None: ...
    def append(self, _: Any) -> None:
        """As of a list."""

    def extend(self, _: Any) -> None:
        """As of a list."""

    def add(self, _: Any) -> None:
        """As of a set."""


class _CodeError(Exception):
    """A checkpoint names a function that no training leaves in it."""


class _TensorsAlone(pickle.Unpickler):
    """An unpickler that knows how to rebuild tensors; any other class or function of a file is an `Unopened`."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] in _HOSTILE or (module == "builtins" and name in _HOSTILE_BUILTINS):
            raise _CodeError(f"{module}.{name}")
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return _TENSORS.get((module, name), Unopened)


def _load(file: Any, **options: Any) -> Any:
    return _TensorsAlone(file, **options).load()


_RESTRICTED = SimpleNamespace(Unpickler=_TensorsAlone, load=_load, __name__="captum_vit.weight_files")


def content_of(path: Path) -> Any:
    """What a safetensors file or one of torch.save holds, on the CPU; objects that are no tensors as `Unopened`.

    Raises:
        ModelLoadError: no such file, another kind of file, damaged, or one that would run code.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise ModelLoadError(f"cannot read the checkpoint {str(path)!r}: {error.strerror}") from error
    if not start:
        raise ModelLoadError(f"the checkpoint {str(path)!r} is empty (0 bytes)")
    if start[8:9] == b"{":
        return _read_safetensors(path)
    what = _other_kind(path, start)
    if what is not None:
        raise ModelLoadError(f"the checkpoint {str(path)!r} {what}")
    return _read_torch(path)


def refused(path: Path, function: str = "") -> ModelLoadError:
    """The error of a file whose objects would have to be unpickled."""
    what = f"names {function}, a function," if function else "holds Python objects, no weights by name,"
    return ModelLoadError(
        f"the checkpoint {str(path)!r} {what} and unpickling those could run any code: refused. Save the weights "
        f"alone, as safetensors or by torch.save(model.state_dict(), ...)"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelLoadError(f"the checkpoint {str(path)!r} is damaged or cut off: {error}") from error


def _read_torch(path: Path) -> Any:
    """By torch's own reader of weights; where it meets other objects, again by one that leaves those out."""
    try:
        with quiet("torch"):  # it remarks on the pickle's protocol: what that means for us is in the error
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                if not any(sign in str(error) for sign in ("GLOBAL", "Unsupported", "Can only")):
                    raise
            # torch's reader of weights would import what its user allows, for all threads; this one imports nothing
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_RESTRICTED)
    except _CodeError as error:
        raise refused(path, str(error)) from error
    except Exception as error:  # a damaged archive raises whatever its reader stumbles over
        raise ModelLoadError(
            f"the checkpoint {str(path)!r} is damaged or cut off, or no file of torch.save: get or save it again"
        ) from error


def _other_kind(path: Path, start: bytes) -> str | None:
    """What a file is that holds no weights for us, and what to do; None if it may hold some."""
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file that it points to: fetch that by git lfs pull"
    if re.match(rb"\s*(<!doctype html|<html|<\?xml)", start, re.IGNORECASE):
        return "is a web page, as of a login or an error, saved under this name: download the file itself"
    if start.startswith(b"\x89HDF"):
        return "is an HDF5 file, as Keras writes them: weights of PyTorch are needed"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")) or start[257:262] == b"ustar":
        return "is a packed archive: unpack it, and name the file in it"
    if start.startswith(b"PK"):
        return _other_zip(path)
    text = start.decode("utf-8", "ignore")
    if len(text) > len(start) / 2 and all(c.isprintable() or c.isspace() for c in text):
        index = "weight_map" in text or text.lstrip().startswith("{")
        hint = ": name the file of weights itself, that a JSON file beside it lists" if index else ""
        return f"is text, neither safetensors nor written by torch.save{hint}"
    return None


def _other_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return "is damaged or cut off, as by a download that broke off: get or save it again"
    if any(name.endswith("/constants.pkl") for name in names):
        return "is a traced model (TorchScript), whose weights stand beside code: save model.state_dict()"
    if any(name.endswith("data.pkl") for name in names):
        return None
    if any(name.endswith(".npy") for name in names):
        return "holds arrays of NumPy (.npz), as JAX's models come: weights of PyTorch are needed"
    first = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"is a zip archive of other files ({first or 'none'}), not written by torch.save: unpack it"
