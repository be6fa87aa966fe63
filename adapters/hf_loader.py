"""Models of Hugging Face transformers, by folder or by id on the hub, with their image processors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
    AutoTokenizer,
    AutoVideoProcessor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING as OF_VIDEOS
from transformers.utils import logging

from captum_vit.adapters import hf_dense, hub
from captum_vit.adapters.hf_processors import CONFIGURATIONS
from captum_vit.checkpoints import Checkpoint, first, read_checkpoint
from captum_vit.errors import ModelLoadError
from captum_vit.models import LoadedModel
from captum_vit.preprocessing import read_preprocessing

OF_IMAGES = AutoModelForImageClassification


def load(
    name: str,
    *,
    checkpoint: str | Path | None = None,
    checkpoint_key: str | None = None,
    pretrained: bool = True,
    img_size: int | None = None,
) -> LoadedModel:
    """A classifier of images or of videos, a backbone without a head where the checkpoint is one (as DINO's), or a
    model of images and texts, as CLIP, with its tokenizer.

    Args:
        name: a folder that `save_pretrained` wrote (model and image processor), or an id on the hub.
        checkpoint: weights under transformers' names, also those of its earlier versions, loaded instead of those in
            the folder or on the hub; the configuration is still read from there, but for the number of classes.
        checkpoint_key: which of several sets of weights in it.
        pretrained: without a checkpoint, load the weights; else they are random.
        img_size: side of the images that a checkpoint was trained for, where it is not that of the configuration; what
            the image processor gives follows.
    Raises:
        ModelLoadError: no such folder or id, no network, a file missing, weights that do not fit.
    """
    source = _source(name)
    notes: tuple[str, ...] = ()
    with _quiet():
        config = _from_source(AutoConfig, source, name, trust_remote_code=False)
        reader = AutoVideoProcessor if type(config) in OF_VIDEOS else AutoImageProcessor
        processor = _from_source(reader, source, name, trust_remote_code=False)
        if img_size is not None:
            _resize(config, processor, img_size, name, own_weights=checkpoint is None and pretrained)
        pieces = hf_dense.in_one_piece(processor)
        preprocess = read_preprocessing(processor)
        kind = _kind(config)
        named = kind is not AutoModel and not str((config.architectures or [""])[0]).endswith(hf_dense.NAMELESS)
        if checkpoint is not None:
            own = kind.from_config(config, trust_remote_code=False)
            found = read_checkpoint(checkpoint, checkpoint_key).fitted(own.state_dict().keys())
            found, named = _head_sized(config, found, named)
            model, notes = _with_weights(type(own), config, found), found.notes
        elif pretrained:
            model, info = _from_source(kind, source, name, output_loading_info=True, trust_remote_code=False)
            _check_complete(info, name)
        else:
            model = kind.from_config(config, trust_remote_code=False)
    return LoadedModel(
        model.eval(),
        replace(preprocess, origin=f"{type(processor).__name__} of hf/{name}"),
        {int(index): str(label) for index, label in config.id2label.items()} if named else {},
        multi_label=getattr(config, "problem_type", None) == "multi_label_classification",
        regression=getattr(config, "problem_type", None) == "regression",
        notes=(*notes, *([hf_dense.WHOLE] * hf_dense.of_pose(processor)), *([hf_dense.PIECES] * pieces)),
        random=checkpoint is None and not pretrained,
        tokenizer=_tokenizer(config, source),
    )


def knows(name: str) -> bool:
    """Whether a name is a folder of `save_pretrained`, or has the form of an id on the hub."""
    return (Path(name).expanduser() / "config.json").is_file() or re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def _head_sized(config: Any, found: Checkpoint, named: bool) -> tuple[Checkpoint, bool]:
    """With as many classes in the configuration as the checkpoint's classifier has; whether their names are known."""
    head = found.weights.get("classifier.weight")
    if head is None or head.dim() != 2 or len(head) == config.num_labels:
        return found, named
    note = (
        f"checkpoint: its classifier has {len(head)} classes, the configuration {config.num_labels}: they have no names"
    )
    config.num_labels = len(head)
    return replace(found, notes=(*found.notes, note)), False


def _with_weights(kind: Any, config: Any, found: Checkpoint) -> Any:
    """The model with these weights, all of them; names of earlier versions are translated by transformers."""
    try:
        model, info = kind.from_pretrained(
            None, config=config, state_dict=found.weights, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:  # whatever transformers stumbles over
        raise ModelLoadError(f"the checkpoint {found.path!r} cannot be loaded: {hub.reason(error)}") from error
    _check_positions(model, config, found)
    missing, unknown = ([str(key) for key in sorted(info[f"{what}_keys"])] for what in ("missing", "unexpected"))
    reshaped = [
        f"{key[0]} is {tuple(key[1])} and should be {tuple(key[2])}" if isinstance(key, tuple) else str(key)
        for key in sorted(info["mismatched_keys"])
    ]
    parts = {"missing": missing, "not in the model": unknown, "of another shape": reshaped}
    if any(parts.values()):
        differing = sum(map(len, parts.values()))
        details = "; ".join(f"{len(keys)} {what} ({first(keys)})" for what, keys in parts.items() if keys)
        raise ModelLoadError(
            f"the checkpoint does not fit {kind.__name__}: {differing} keys differ, of {len(model.state_dict())} in "
            f"the model: {details}"
        )
    return model


def _resize(config: Any, processor: Any, side: int, name: str, *, own_weights: bool) -> None:
    """Set the configuration and the image processor to square images of this side, in the same proportions."""
    if own_weights:
        known = getattr(config, "image_size", "one size")
        raise ModelLoadError(
            f"img_size={side}: the weights of 'hf/{name}' are for images of {known}, and "
            f"transformers gives them no other size where it loads them: leave img_size out (--img-size)"
        )
    if side < 1:
        raise ModelLoadError(f"img_size is the side of the images in pixels, got {side}")
    before = getattr(config, "image_size", None)
    if not isinstance(before, int):
        raise ModelLoadError(f"img_size={side}: the configuration of 'hf/{name}' has image_size={before!r}: change it")
    config.image_size = side
    if dict(getattr(processor, "crop_size", None) or {}) and getattr(processor, "do_center_crop", False):
        cropped = dict(processor.crop_size)["height"]
        processor.crop_size = {"height": side, "width": side}
        processor.size = {key: round(value * side / cropped) for key, value in dict(processor.size).items() if value}
    else:
        given = [key for key, value in dict(processor.size).items() if value]
        processor.size = dict.fromkeys(given, side)


def _check_positions(model: Any, config: Any, found: Checkpoint) -> None:
    """That the position embeddings are for as many patches as the model has; else name the size of image that they fit.

    Raises:
        ModelLoadError: they are for another size of image.
    """
    patch, side = getattr(config, "patch_size", None), getattr(config, "image_size", None)
    for name, own in model.state_dict().items():
        given = found.weights.get(name)
        if not name.endswith(("position_embeddings", "position_embedding.weight")) or given is None:
            continue
        if given.shape == own.shape or given.shape[-1] != own.shape[-1] or not (patch and isinstance(side, int)):
            continue
        prefix = own.shape[-2] - (side // patch) ** 2
        across = round(max(given.shape[-2] - prefix, 0) ** 0.5)
        fits = across > 0 and across * across == given.shape[-2] - prefix
        size = f"img_size={across * patch} (--img-size {across * patch})" if fits else "img_size=... (--img-size)"
        raise ModelLoadError(
            f"the position embeddings of the checkpoint {found.path!r} are of another image size: {given.shape[-2]} "
            f"tokens, and the configuration, for images of {side}, has {own.shape[-2]}: pass {size}, as it was trained"
        )


def _source(name: str) -> str:
    """The folder, or the id after a look at the hub."""
    if not name:
        raise ModelLoadError("a model is hf/FOLDER or hf/OWNER/NAME, got 'hf' alone")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelLoadError(f"the folder {name!r} holds no config.json: it was not written by save_pretrained")
        if not any((folder / file).is_file() for file in CONFIGURATIONS):
            raise ModelLoadError(
                f"the folder {name!r} holds no preprocessor_config.json: save the image processor there too, "
                f"by processor.save_pretrained({name!r})"
            )
        return str(folder)
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise ModelLoadError(f"'hf/{name}': there is no folder {name!r}; a model is hf/FOLDER or hf/OWNER/NAME")
    hub.require(name, ["config.json"], f"hf/{name}", "name a folder with a copy of the model, as hf/FOLDER")
    return name


def _tokenizer(config: Any, source: str) -> Any:
    """Of a model of images and texts its tokenizer; None where it is not there: it is asked for with the text."""
    if not hasattr(config, "text_config"):
        return None
    try:
        with _quiet():
            found = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception:  # of transformers, the hub, JSON and tokenizers
        return None
    return found if len(found) > len(found.all_special_tokens) else None  # without files it is made empty


def _kind(config: Any) -> Any:
    """AutoModel for the checkpoint of a bare backbone, as `architectures` says."""
    architectures = config.architectures or []
    dense = hf_dense.loaded_by(architectures)
    if dense is not None:
        return dense
    bare = architectures and all(a.endswith("Model") for a in architectures)
    return AutoModel if bare else AutoModelForVideoClassification if type(config) in OF_VIDEOS else OF_IMAGES


def _check_complete(info: dict[str, Any], name: str) -> None:
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))  # DINO's are not there
    if missing:
        raise ModelLoadError(
            f"'hf/{name}' is no trained classifier: {len(missing)} of its weights are missing and would be random "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''})"
        )


def _from_source(factory: Any, source: str, name: str, **options: Any) -> Any:
    """`from_pretrained`, whose errors fill a screen, with one line instead."""
    try:
        return factory.from_pretrained(source, **options)
    except Exception as error:  # of transformers, the hub, JSON, safetensors and pickle
        what = {
            AutoConfig: "configuration",
            AutoImageProcessor: "image processor",
            AutoVideoProcessor: "video processor",
        }.get(factory, "model")
        raise ModelLoadError(f"cannot load the {what} of 'hf/{name}': {hub.reason(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' reports, whose contents become errors here; the bars of a download stay."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    no_downloads = are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # turns off those of the hub too
    (disable_progress_bars if no_downloads else enable_progress_bars)()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        (disable_progress_bars if no_downloads else enable_progress_bars)()
