"""Models by timm's names, with timm's preprocessing."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_transform, resolve_data_config
from timm.models import get_pretrained_cfg, is_model
from torch import Tensor, nn

from captum_vit.adapters import hub
from captum_vit.adapters.timm_common import class_names
from captum_vit.checkpoints import Checkpoint, load_weights, read_checkpoint
from captum_vit.errors import ModelLoadError, nearest
from captum_vit.models import LoadedModel
from captum_vit.preprocessing import Preprocessing, read_preprocessing

_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def load(
    name: str,
    *,
    checkpoint: str | Path | None = None,
    checkpoint_key: str | None = None,
    pretrained: bool = True,
    img_size: int | None = None,
) -> LoadedModel:
    """A model of `timm.list_models()`, with its pretrained weights, those of a checkpoint, or random ones.

    Args:
        name: as for timm.create_model; a tag after a dot chooses among its weights.
        checkpoint: weights under timm's names, also with a prefix before them. The number of classes is read from it,
            and nothing is downloaded.
        checkpoint_key: which of several sets of weights in it.
        pretrained: without a checkpoint, download the weights (timm keeps them); else they are random.
        img_size: side of the images that the model is built for; position embeddings of another size are interpolated.
    Raises:
        ModelLoadError: no such model or weights, no network, or a checkpoint that does not fit.
    """
    base = name.split(".")[0]
    if not base:
        raise ModelLoadError("a model is timm/NAME, got 'timm' alone")
    if not is_model(base):
        raise ModelLoadError(f"timm has no model {name!r}{nearest(base, timm.list_models())}")
    size: dict[str, Any] = {} if img_size is None else {"img_size": img_size}
    notes: tuple[str, ...] = ()
    if checkpoint is not None:
        model, notes = _of_checkpoint(name, read_checkpoint(checkpoint, checkpoint_key), size)
    elif pretrained:
        model = _download(name, size)
    else:
        model = _create(name, **size)
    model.eval()
    random = checkpoint is None and not pretrained
    preprocess = _preprocessing(model, _fixed_size(model) if img_size is None else (img_size, img_size))
    return LoadedModel(model, preprocess, class_names(model), notes=notes, random=random)


def knows(name: str) -> bool:
    """Whether timm has a model of this name."""
    return is_model(name.split(".")[0])


def preprocessing_of(model: Any) -> Preprocessing | None:
    """What a timm model carries, its evaluation transform, to the size that it was built for; None of anything else."""
    if not isinstance(model, nn.Module) or not hasattr(model, "pretrained_cfg"):
        return None
    return _preprocessing(model, _fixed_size(model))  # img_size=... leaves the configuration as it was


def _preprocessing(model: Any, side: tuple[int, int] | None) -> Preprocessing:
    args = {} if side is None else {"input_size": (3, *side)}
    found = read_preprocessing(create_transform(**resolve_data_config(args, model=model)))
    name = (model.pretrained_cfg or {}).get("architecture") or type(model).__name__
    return replace(found, origin=f"timm's for {name}")


def _fixed_size(model: Any) -> tuple[int, int] | None:
    """(height, width) of the images that the model takes; None if it takes others too, or does not say."""
    embed = getattr(model, "patch_embed", None) or getattr(model, "pixel_embed", None)  # the latter is TNT's
    if getattr(model, "dynamic_img_size", False) or not getattr(embed, "strict_img_size", True):
        return None
    size = getattr(embed, "img_size", None)
    return None if size is None else (int(size[0]), int(size[1]))


def _create(name: str, **options: Any) -> nn.Module:
    if options.get("img_size", 1) < 1:
        raise ModelLoadError(f"img_size is the side of the images in pixels, got {options['img_size']}")
    try:
        model = timm.create_model(name, **options)
        if getattr(getattr(model, "patch_embed", None), "num_patches", 1) == 0:
            raise ValueError("they are smaller than a patch")
        return model
    except RuntimeError as error:  # an unknown tag
        raise ModelLoadError(f"timm cannot build {name!r}: {hub.reason(error)}{_tags(name)}") from error
    except (TypeError, AssertionError, ValueError) as error:
        if "img_size" not in options:
            raise
        raise ModelLoadError(
            f"timm cannot build {name!r} for images of {options['img_size']} pixels: {hub.reason(error)}"
        ) from error


def _of_checkpoint(name: str, found: Checkpoint, size: dict[str, Any]) -> tuple[nn.Module, tuple[str, ...]]:
    """The model with the weights of a checkpoint, and what a user should know of these."""
    with torch.device("meta"):
        names = _create(name).state_dict().keys()
    found = found.fitted(names)
    model = _create(name, num_classes=_classes(found.weights, name), **size)
    found = _interpolated(model, name, found, asked=bool(size))
    load_weights(model, found)
    return model, found.notes


def _interpolated(model: Any, name: str, found: Checkpoint, *, asked: bool) -> Checkpoint:
    """The checkpoint with position embeddings of the model's own size, where a size was asked for."""
    own, given = model.state_dict().get("pos_embed"), found.weights.get("pos_embed")
    if own is None or given is None or own.shape == given.shape or own.shape[-1] != given.shape[-1]:
        return found
    if not asked:
        sides = " or ".join(f"img_size={side} (--img-size {side})" for side in _sides(model, given))
        raise ModelLoadError(
            f"the position embeddings of the checkpoint {found.path!r} are of another image size: "
            f"{_patches(given)} and {name} has {_patches(own)}: pass {sides or 'img_size=... (--img-size)'}, as it was "
            f"trained, or the size that they shall be interpolated to"
        )
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    weights = dict(found.weights) if convert is None else convert(dict(found.weights), model)
    if weights["pos_embed"].shape != own.shape:
        raise ModelLoadError(
            f"timm does not interpolate the position embeddings of {name}, {_patches(given)} of the checkpoint to "
            f"{_patches(own)}: build it for the size that it was trained for, by img_size=... (--img-size)"
        )
    note = f"checkpoint: position embeddings are interpolated by timm from {_patches(given)} to {_patches(own)}"
    return replace(found, weights=weights, notes=(*found.notes, note))


def _patches(embedding: Tensor) -> str:
    return f"{embedding.shape[1]} tokens" if embedding.dim() == 3 else " x ".join(map(str, embedding.shape[1:3]))


def _sides(model: Any, embedding: Tensor) -> list[int]:
    """The side of the square images that as many position embeddings are for."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    prefix = 0 if getattr(model, "no_embed_class", False) else getattr(model, "num_prefix_tokens", 1)
    cells = embedding.shape[1] - prefix
    side = round(max(cells, 0) ** 0.5)
    return [side * patch[0]] if patch and embedding.dim() == 3 and side > 0 and side * side == cells else []


def _download(name: str, size: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        _create(name, **size)  # an unknown tag is cheaper to find out without the network
    config = get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise ModelLoadError(f"timm has no weights for {name!r}: give some by checkpoint=FILE (--checkpoint)")
    if config.hf_hub_id:
        files = [*_FILES, config.hf_hub_filename or _FILES[0]]
        hub.require(config.hf_hub_id, files, f"timm/{name}", hub.OTHER_WEIGHTS)
    try:
        return timm.create_model(name, pretrained=True, **size)
    except (OSError, RuntimeError) as error:
        raise ModelLoadError(f"the download of 'timm/{name}' failed: {hub.reason(error)}") from error


def _tags(name: str) -> str:
    known = timm.list_pretrained(f"{name.split('.')[0]}.*")
    return f"; it has {', '.join(known)}" if known else ""


def _classes(weights: Mapping[str, Tensor], name: str) -> int:
    """Rows of the classifier in a checkpoint; 0 if there is none."""
    config = get_pretrained_cfg(name)
    classifier = (config.classifier if config else None) or "head"
    head = weights.get(f"{classifier if isinstance(classifier, str) else classifier[0]}.weight")
    return 0 if head is None else len(head)
