"""What models of Hugging Face for detection, segmentation, depth and pose are loaded by, and how their images become
inputs: sides that fit the patches, and for pose the whole image in the place of a person's box."""

import math
from typing import Any

import transformers

from captum_vit.geometry import Size, View

AUTOMATIC = {  # how the class of a checkpoint's model ends -> what loads it
    "ForObjectDetection": "AutoModelForObjectDetection",
    "ForSemanticSegmentation": "AutoModelForSemanticSegmentation",
    "ForUniversalSegmentation": "AutoModelForUniversalSegmentation",
    "ForDepthEstimation": "AutoModelForDepthEstimation",
    "ForPoseEstimation": "AutoModelForPoseEstimation",
}
NAMELESS = ("ForDepthEstimation",)  # whose configuration names classes that it does not have
PADDING = 1.25  # that the processor of VitPose leaves around a person's box
WHOLE = "pose: the whole image is taken for the person's box; crop the image to a person to explain that one"
PIECES = "segmentation: the image, padded to a square, is taken for the pieces that the processor cuts it into"


def loaded_by(architectures: list[str]) -> Any:
    """The class that loads a checkpoint of these architectures; None for one that is not dense."""
    for ending, name in AUTOMATIC.items():
        if architectures and all(each.endswith(ending) for each in architectures):
            return getattr(transformers, name)
    return None


def of_pose(processor: Any) -> bool:
    """Whether an image processor cuts out persons, by boxes that it is given."""
    return type(processor).__name__.startswith("VitPose")


def in_one_piece(processor: Any) -> bool:
    """Have a processor that cuts images into pieces, as EoMT's for semantic checkpoints, pad them instead.

    Returns whether it did cut them.
    """
    if not getattr(processor, "do_split_image", False):
        return False
    side = dict(processor.size)["shortest_edge"]
    processor.do_split_image, processor.do_pad = False, True
    processor.size = {"shortest_edge": side, "longest_edge": side}
    return True


def padded(processor: Any) -> dict[str, int]:
    """The sides that EoMT's processor pads images to; empty of any other."""
    if not (type(processor).__name__.startswith("EomtImageProcessor") and processor.do_pad):
        return {}
    size: dict[str, Any] = dict(processor.size)
    short = size["shortest_edge"]
    return {"height": short, "width": size.get("longest_edge") or short}


def boxes(size: Size) -> list[list[list[float]]]:
    """The whole image in the place of a person's box, as (left, top, width, height)."""
    return [[[0.0, 0.0, float(size[0]), float(size[1])]]]


def view_of_pose(image: Size, size: Size) -> View:
    """How an input of `size` looks at the whole of an image, with the padding around it."""
    ratio = size[0] / size[1]
    width, height = max(image[0], image[1] * ratio), max(image[1], image[0] / ratio)
    scale = ((size[0] - 1) / (PADDING * width), (size[1] - 1) / (PADDING * height))
    # corner pixels of the input lie on corners of the padded box: x_in = (x - centre) * scale + (side - 1) / 2
    offset = tuple(0.5 * s - 0.5 + 0.5 * side * s - (n - 1) / 2 for s, side, n in zip(scale, image, size, strict=True))
    whole = (0.0, 0.0, float(image[0]), float(image[1]))
    return View(image, size, scale, (offset[0], offset[1]), whole)


def fitted(image: Size, size: dict[str, int], processor: Any) -> Size | None:
    """(width, height) that an image is resized to where the sides have to fit patches; None where they need not."""
    if type(processor).__name__.startswith("YolosImageProcessor") and "shortest_edge" in size:
        return _of_yolos(image, size["shortest_edge"], size.get("longest_edge"))
    multiple, keeps = getattr(processor, "ensure_multiple_of", None), getattr(processor, "keep_aspect_ratio", False)
    if "height" not in size or multiple is None or not (keeps or multiple > 1):
        return None
    across, down = size["width"] / image[0], size["height"] / image[1]
    if keeps:  # as little as possible
        across = down = across if abs(1 - across) < abs(1 - down) else down
    return _multiple(across * image[0], multiple), _multiple(down * image[1], multiple)


def _of_yolos(image: Size, shortest: int, longest: int | None) -> Size:
    """The shorter side as given, unless the longer one would get too long; both down to a multiple of 16."""
    width, height = image
    limit = None
    if longest is not None and max(image) / min(image) * shortest > longest:
        limit = longest * float(min(image)) / max(image)
        shortest = round(limit)
    short = shortest if limit is None else limit
    if width < height:
        width, height = shortest, int(short * height / width)
    elif height != shortest:
        width, height = int(short * width / height), shortest
    return width - width % 16, height - height % 16


def _multiple(side: float, multiple: int) -> int:
    found = round(side / multiple) * multiple
    return found if found else math.ceil(side / multiple) * multiple
