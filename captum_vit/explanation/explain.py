"""Explain images in one call."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import torch
from torch import nn

from ..calling import program
from ..clips import Clip
from ..errors import InputError, brief
from ..images import Picture
from ..models import LoadedModel
from .arguments import of_each
from .explaining import BATCH, Explainer
from .explanation import Explanation
from .filming import check_several


@overload
def explain(
    images: Picture | Clip,
    model: str | nn.Module | LoadedModel = ...,
    method: Any = ...,
    target: Any = ...,
    **options: Any,
) -> Explanation: ...
@overload
def explain(
    images: Sequence[Picture | Clip],
    model: str | nn.Module | LoadedModel = ...,
    method: Any = ...,
    target: Any = ...,
    **options: Any,
) -> list[Explanation]: ...
def explain(
    images: Picture | Clip | Sequence[Picture | Clip],
    model: str | nn.Module | LoadedModel = "sample",
    method: Any = None,
    target: Any = None,
    *,
    preprocess: Any = None,
    checkpoint: str | Path | None = None,
    tokenizer: Any = None,
    class_names: Sequence[str] | Mapping[int, str] | str | Path | None = None,
    multi_label: bool | None = None,
    layer: Any = None,
    output: Any = None,
    device: str | torch.device | None = None,
    top_k: int = 5,
    attention: bool = False,
    verdict: bool = False,
    removals: bool = False,
    words: bool = False,
    batch_size: int = BATCH,
    forward_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Explanation | list[Explanation]:
    """Explain images: what the model looked at for each class, laid back on the original.

    >>> explain("photo.jpg", "timm/vit_base_patch16_224", method=["agcam", "daam"], target="tabby").plot()

    Args:
        images: a path, a PIL image, an array (H, W), (H, W, 3) of uint8, a tensor, or a list of these. A uint8 tensor
            (3, H, W) is an image; one of floats, (C, H, W) or (1, C, H, W), is taken as preprocessed already.
            For a model of videos: a video file, an animation, a folder of frames, an array (T, H, W, 3), or a `Clip` of
            frames that are a list; for one of volumes: NIfTI, a stack of TIFF, an array of floats (slices, rows,
            columns).
        model: `timm/NAME`, `hf/ID`, `hf/FOLDER`, `sample`, what `load_model` gave, or the model itself.
        method: agcam, daam, rollout, gradient_rollout, raw_attention or another name of `captum_vit.attr.METHODS`,
            `module:Class`, a class of ours or Captum's, several of them, or all. By default agcam, daam
            for a model without classes, and grad_eclip for one of images and texts.
        target: class by number or name, "tabby/Egyptian cat" for why the one rather than the other, "query:17/car" or
            "mask:person" of dense models, one of `captum_vit.targets`, a function of the model's output, or several of
            these. By default the predicted class; of a multi-label model all of the `top_k` with a score above one
            half; of a dense model the `top_k` detections, regions or peaks; of a model of features a FeatureImportance.
            Of a model of images and texts one or several `Text("a cat on a sofa")`.
        preprocess: for a model itself: torchvision transforms, an image processor of Hugging Face, a function image ->
            (C, H, W), or a Preprocessing. Models of timm carry their own, also inside another module. "squash" takes
            the whole image, whatever its proportions, at the size and with the normalisation of the model's own, as
            the published evaluations do.
        checkpoint: for a model by name, weights to load into it.
        tokenizer: for a model of images and texts itself, that of its texts, of transformers or open_clip; those by
            name carry their own.
        class_names: for a model that carries none, or others than its own: a list, a dictionary by number, or a file
            with one on each line.
        multi_label: whether each class is scored by itself (sigmoid), not against the others; by default as the model's
            configuration says.
        layer: attention layers or blocks to read, as for the methods; all by default.
        output: which of the model's outputs are its scores, where it gives several tensors: a name as "logits", a place
            as 1, or a function of all that it gives, also as "module:function".
        device: for a model by name, where to compute; by default cuda if there is one.
        top_k: how many predicted classes to name.
        attention: keep the attention itself, of heads and between patches, for the figures and the report.
        verdict: say of each map whether it may be trusted, by 8 forwards without some patches and a second class's map.
        removals: measure the scores without parts of the image, and estimate from them those without any others, by at
            most 193 forwards an image on some of its patches, for all its targets together.
        words: of a text, tell what its cosine and the map are without each of its words: for each of them one forward
            of the text tower and one more map, for all images of a batch together.
        batch_size: images of a list that are explained at once.
        forward_kwargs: keyword arguments of the model's forward beside the images. A tensor has a first dimension of 1,
            for all images, or of as many rows as there are images.
        options: of the methods, each of which is given those that it accepts: discard_ratio=0.9.
    Returns:
        An Explanation, or for a list of images or videos a list of them.
    Raises:
        CaptumViTError: what was passed does not hold; the message says which and what to do.
    """
    if isinstance(images, nn.Module):
        raise InputError(f"the image comes first, then the model, as explain(image, model): got {brief(images)}")
    kept = {"attention": attention, "verdict": verdict, "removals": removals, "words": words}
    question = {"method": method, "target": target, "top_k": top_k, **kept}
    named = {"preprocess": preprocess, "checkpoint": checkpoint, "tokenizer": tokenizer, "class_names": class_names}
    of_model: dict[str, Any] = {**named, "multi_label": multi_label, "layer": layer, "output": output, "device": device}
    explainer = Explainer(model, **of_model)
    asked = explainer.ask(**question, **options)
    each: Any = images if isinstance(images, (list, tuple)) else [images]
    if isinstance(images, (list, tuple)) and explainer.adapter.batch_dims != 4:
        check_several(images, explainer.adapter)
    seen = map(explainer.see, each, of_each(forward_kwargs, len(each)))
    given = {"model": model, **question, **options, **of_model, "forward_kwargs": forward_kwargs}
    answers = zip(each, explainer.several(seen, asked, batch_size), strict=True)
    found = [replace(answer, call=program(explain, image, given)) for image, answer in answers]
    return found if each is images else found[0]
