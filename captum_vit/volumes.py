"""Reading volumes, as of computed tomography: NIfTI, stacks of TIFF, arrays; and writing maps back as NIfTI."""

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .decoding import check_file
from .errors import ImageLoadError, InputError, OptionError, brief
from .files import write_atomically

NIFTI = (".nii", ".nii.gz")
TIFF = (".tif", ".tiff")
MOST_VOXELS = 2**28  # a gigabyte of floats
BLACK, WHITE = 0.5, 99.5  # percentiles of the values, where slices are shown
MISSING = "NIfTI needs nibabel, which is not installed: pip install 'captum-vit[volumes]', or pass an array"

Affine = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels with what is known of where they lie.

    values: float32, (C, slices, rows, columns), in the order of the file's axes.
    affine: from voxels to the world, 4 x 4 as of NIfTI; None of an array.
    source: the name of the file.
    """

    values: np.ndarray
    affine: Affine | None = None
    source: str = ""

    def slices(self) -> list[Image.Image]:
        """The first channel, slice by slice, from black to white as the middle 99 % of all its values go."""
        first = self.values[0]
        low, high = np.percentile(first[:: max(1, len(first) // 64)], [BLACK, WHITE])
        greys = 255 * ((first - low) / ((high - low) or 1)).clip(0, 1)
        return [Image.fromarray(grey).convert("RGB") for grey in greys.round().astype(np.uint8)]

    def prepared(self, size: tuple[int, ...] | None) -> tuple[Tensor, str]:
        """Voxels as a model that says nothing else takes them, (C, *size), and what was done, in words.

        They are resampled to this size linearly, and each channel to a mean of 0 and a deviation of 1.
        """
        values, own = torch.from_numpy(self.values), self.values.shape[1:]
        told = "each channel with mean 0 and deviation 1"
        if size is not None and tuple(size) != own:
            values = F.interpolate(values[None], size, mode="trilinear", align_corners=False)[0]
            told = f"resampled from {'x'.join(map(str, own))} to {'x'.join(map(str, size))}, {told}"
        mean, spread = (getattr(values, part)((1, 2, 3), keepdim=True) for part in ("mean", "std"))
        note = f"preprocessing: {told}; yours differs? Pass the tensor that the model takes"
        return (values - mean) / spread.clamp_min(1e-12), note


def is_nifti(path: Any) -> bool:
    """Whether this is the name of a NIfTI file."""
    return isinstance(path, (str, Path)) and str(path).lower().endswith(NIFTI)


def is_volume(source: Any, channels: int | None) -> bool:
    """Whether this is a volume, for a model of so many channels: a NIfTI file, an array of floats, or greys in a stack.

    channels: of the model; those of videos are 3, or not known.
    """
    if is_nifti(source):
        return True
    if isinstance(source, np.ndarray):
        floats = source.dtype.kind == "f" and channels is not None
        return source.ndim in (3, 4) and (floats or channels == 1)
    return isinstance(source, (str, Path)) and channels == 1 and Path(source).suffix.lower() in (*TIFF, ".npy")


def read_volume(source: Any) -> Volume:
    """A volume in any form.

    Args:
        source: a path of NIfTI (.nii, .nii.gz), of a TIFF with several pages or of an .npy array; or an array, (slices,
            rows, columns) or (C, slices, rows, columns).
    Raises:
        ImageLoadError: a file that cannot be read, or a package that reads it is missing.
        InputError: an array of other dimensions, NaN in it, or more voxels than are read.
    """
    if isinstance(source, np.ndarray):
        return Volume(_checked(source))
    path = Path(source)
    check_file(path)
    if is_nifti(path):
        values, affine = _of_nifti(path)
        return Volume(_checked(values), affine, path.name)
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False) if path.suffix.lower() == ".npy" else _pages(path)
    except InputError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise ImageLoadError(f"{str(path)!r} holds no volume, or is damaged: {error}") from error
    return Volume(_checked(values), None, path.name)


def _checked(values: np.ndarray) -> np.ndarray:
    """As float32 with a channel before the slices."""
    if values.ndim not in (3, 4) or not values.size:
        raise InputError(f"a volume is (slices, rows, columns), or has channels before these, got shape {values.shape}")
    if values.size > MOST_VOXELS:
        raise InputError(f"a volume of {values.size} voxels is enormous, at most {MOST_VOXELS} are read: resample it")
    found = np.require(values, np.float32, ["C", "W"])
    if not np.isfinite(found).all():
        raise InputError("the volume holds NaN or infinite values: fill them first")
    return found if found.ndim == 4 else found[None]


def _pages(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        pages = []
        for number in range(getattr(opened, "n_frames", 1)):
            opened.seek(number)
            pages.append(np.array(opened))
    if any(page.ndim != 2 or page.shape != pages[0].shape for page in pages):
        raise InputError(f"{str(path)!r} holds colours, or pages of several sizes: a volume is a stack of greys")
    return np.stack(pages)


def _of_nifti(path: Path) -> tuple[np.ndarray, Affine]:
    nibabel = _nibabel()
    try:
        loaded = nibabel.load(str(path))
        if np.prod(loaded.shape, dtype=float) > MOST_VOXELS:
            raise InputError(f"a volume of {'x'.join(map(str, loaded.shape))} voxels is enormous: resample it")
        values = np.asarray(loaded.dataobj, np.float32)
        affine = tuple(tuple(map(float, row)) for row in loaded.affine)
    except InputError:
        raise
    except Exception as error:  # whatever the damage leads to
        raise ImageLoadError(f"{str(path)!r} is no NIfTI, or damaged ({' '.join(str(error).split())[:200]})") from error
    return np.moveaxis(values, -1, 0) if values.ndim == 4 else values, affine  # channels stand last there


def write_nifti(path: str | Path, values: np.ndarray, affine: Affine | None) -> None:
    """Write numbers on voxels, (slices, rows, columns), as NIfTI.

    Args:
        path: ending in .nii or .nii.gz.
        values: float32.
        affine: of the volume that they lie on; None puts a voxel at each whole number.
    Raises:
        OptionError: another ending.
        ImageLoadError: nibabel is not installed.
        OutputError: the file cannot be written.
    """
    if not is_nifti(path):
        raise OptionError(f"NIfTI ends in {' or '.join(NIFTI)}, got {brief(str(path))}")
    image = _nibabel().Nifti1Image(values.astype(np.float32), np.eye(4) if affine is None else np.array(affine))
    data = image.to_bytes()
    write_atomically(Path(path), gzip.compress(data, mtime=0) if str(path).lower().endswith(".gz") else data)


def _nibabel() -> Any:
    try:
        import nibabel
    except ModuleNotFoundError as error:
        raise ImageLoadError(MISSING) from error
    return nibabel
