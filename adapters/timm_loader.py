"""Models by timm's names, with timm's preprocessing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.data import create_transform, resolve_data_config
from timm.models import get_pretrained_cfg, is_model
from torch import Tensor, nn

from captum_vit.adapters import hub
from captum_vit.adapters.timm_common import class_names
from captum_vit.errors import ModelLoadError, nearest
from captum_vit.models import LoadedModel, load_weights, read_checkpoint
from captum_vit.preprocessing import Preprocessing, read_preprocessing

_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def load(name: str, *, checkpoint: str | Path | None = None, pretrained: bool = True) -> LoadedModel:
    """A model of `timm.list_models()`, with its pretrained weights, those of a checkpoint, or random ones.

    Args:
        name: as for timm.create_model; a tag after a dot chooses among its weights.
        checkpoint: weights under timm's names. The number of classes is read from it, and nothing is downloaded.
        pretrained: without a checkpoint, download the weights (timm keeps them); else they are random.
    Raises:
        ModelLoadError: no such model or weights, no network, or a checkpoint that does not fit.
    """
    base = name.split(".")[0]
    if not base:
        raise ModelLoadError("a model is timm/NAME, got 'timm' alone")
    if not is_model(base):
        raise ModelLoadError(f"timm has no model {name!r}{nearest(base, timm.list_models())}")
    if checkpoint is not None:
        weights = read_checkpoint(checkpoint)
        model = _create(name, num_classes=_classes(weights, name))
        load_weights(model, weights)
    elif pretrained:
        model = _download(name)
    else:
        model = _create(name)
    model.eval()
    return LoadedModel(model, read_preprocessing(model), class_names(model))


def preprocessing_of(model: Any) -> Preprocessing | None:
    """What a timm model carries, its evaluation transform, to the size that it was built for; None of anything else."""
    if not isinstance(model, nn.Module) or not hasattr(model, "pretrained_cfg"):
        return None
    side = _fixed_size(model)  # img_size=... leaves the configuration as it was
    args = {} if side is None else {"input_size": (3, *side)}
    return read_preprocessing(create_transform(**resolve_data_config(args, model=model)))


def _fixed_size(model: Any) -> tuple[int, int] | None:
    """(height, width) of the images that the model takes; None if it takes others too, or does not say."""
    embed = getattr(model, "patch_embed", None) or getattr(model, "pixel_embed", None)  # the latter is TNT's
    if getattr(model, "dynamic_img_size", False) or not getattr(embed, "strict_img_size", True):
        return None
    size = getattr(embed, "img_size", None)
    return None if size is None else (int(size[0]), int(size[1]))


def _create(name: str, **options: Any) -> nn.Module:
    try:
        return timm.create_model(name, **options)
    except RuntimeError as error:  # an unknown tag
        raise ModelLoadError(f"timm cannot build {name!r}: {hub.reason(error)}{_tags(name)}") from error


def _download(name: str) -> nn.Module:
    _create(name)  # an unknown tag is cheaper to find out without the network
    config = get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise ModelLoadError(f"timm has no weights for {name!r}: give some by --checkpoint FILE")
    if config.hf_hub_id:
        files = [*_FILES, config.hf_hub_filename or _FILES[0]]
        hub.require(config.hf_hub_id, files, f"timm/{name}", "give weights that are here already by --checkpoint FILE")
    try:
        return timm.create_model(name, pretrained=True)
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
