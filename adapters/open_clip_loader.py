"""Models of images and texts by open_clip's names, with its preprocessing and tokenizer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
from torch import nn

from captum_vit.adapters import hub
from captum_vit.checkpoints import load_weights, read_checkpoint
from captum_vit.errors import ModelLoadError, nearest
from captum_vit.models import LoadedModel
from captum_vit.preprocessing import read_preprocessing


def load(
    name: str,
    *,
    checkpoint: str | Path | None = None,
    checkpoint_key: str | None = None,
    pretrained: bool = True,
    img_size: int | None = None,
) -> LoadedModel:
    """A model of `open_clip.list_models()`, with pretrained weights, those of a checkpoint, or random ones.

    Args:
        name: as ViT-B-32, and behind a slash the tag of its weights, as ViT-B-32/laion2b_s34b_b79k.
        checkpoint: weights under open_clip's names, loaded instead of those; nothing is downloaded.
        checkpoint_key: which of several sets of weights in it.
        pretrained: without a checkpoint, download the weights of the tag; else they are random.
        img_size: side of the images that the model is built for.
    Raises:
        ModelLoadError: no such model or tag, no network, or a checkpoint that does not fit.
    """
    base, _, tag = name.partition("/")
    if base not in open_clip.list_models():
        raise ModelLoadError(f"open_clip has no model {base!r}{nearest(base, open_clip.list_models())}")
    tags = open_clip.list_pretrained_tags_by_model(base)
    own = checkpoint is None and pretrained
    if (own or tag) and tag not in tags:
        known = ", ".join(tags) or "none"
        raise ModelLoadError(
            f"which weights of open_clip/{base} is said by a tag, as open_clip/{base}/{tags[0] if tags else 'TAG'}, "
            f"got {tag!r}: there are {known}; {hub.OTHER_WEIGHTS}"
        )
    size: dict[str, Any] = {} if img_size is None else {"force_image_size": img_size}
    model, preprocess = _created(base, tag if own else None, size)
    notes: tuple[str, ...] = ()
    if checkpoint is not None:
        found = read_checkpoint(checkpoint, checkpoint_key).fitted(model.state_dict().keys())
        load_weights(model, found)
        notes = found.notes
    shown = replace(read_preprocessing(preprocess), origin=f"open_clip's for {name}")
    random = checkpoint is None and not pretrained
    return LoadedModel(model.eval(), shown, notes=notes, random=random, tokenizer=_tokenizer(base))


def knows(name: str) -> bool:
    """Whether open_clip has a model of this name."""
    return name.split("/")[0] in open_clip.list_models()


def _created(base: str, tag: str | None, size: dict[str, Any]) -> tuple[nn.Module, Any]:
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            base, pretrained=tag, load_weights=tag is not None, pretrained_text=tag is not None, **size
        )
    except Exception as error:  # of open_clip, the hub, safetensors and pickle
        raise ModelLoadError(f"open_clip cannot load {base!r}: {hub.reason(error)}") from error
    return model, preprocess


def _tokenizer(base: str) -> Any:
    """The model's tokenizer; None where it is not here and cannot be downloaded: it is asked for with the text."""
    try:
        return open_clip.get_tokenizer(base)
    except Exception:  # of transformers and the hub
        return None
