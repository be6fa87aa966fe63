"""COCO and data sets in its format, in all places where copies have their images, and with outlines of every kind."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as pycoco

from captum_vit.data import open_data
from captum_vit.data.outlines import mask_of, unpacked
from captum_vit.errors import DataError
from tests.data import made
from tests.data.made import block

SIZE = (made.WIDTH, made.HEIGHT)
SQUARE = [[2, 3, 8, 3, 8, 7, 2, 7]]


def content(names: list[str], outline: Any = SQUARE, **thing: Any) -> dict[str, Any]:
    """A file of instances: a dog in every image."""
    return {
        "images": [{"id": i, "file_name": name, "width": SIZE[0], "height": SIZE[1]} for i, name in enumerate(names)],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [2, 3, 6, 4], "segmentation": outline, **thing}
            for i in range(len(names))
        ],
    }


def written(root: Path, file: str, names: list[str], below: str, told: dict[str, Any] | None = None) -> Path:
    """A data set: its JSON at `file`, its images in the folder `below`."""
    for name in names:
        made.photo(root / below / name.replace("\\", "/"))
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(told or content(names)))
    return root


LAYOUTS = {  # JSON file, names of images in it, where they lie, and what stands behind the path
    "the published one": ("annotations/instances_val2017.json", ["1.jpg"], "val2017", ""),
    "another split": ("annotations/instances_train2017.json", ["1.jpg"], "train2017", ""),
    "another split by name": ("annotations/instances_train2017.json", ["1.jpg"], "train2017", ":train2017"),
    "in images": ("annotations/instances_val2017.json", ["1.jpg"], "images/val2017", ""),
    "flat in images": ("annotations/instances_train2017.json", ["1.jpg"], "images", ""),
    "flat": ("annotations/instances_val2017.json", ["1.jpg"], "", ""),
    "folders in names": ("annotations/instances_val2017.json", ["val2017/a/1.jpg", "val2017/b/1.jpg"], "", ""),
    "folders in names, in images": ("annotations/instances_val.json", ["val/1.jpg"], "images", ""),
    "of Windows": ("annotations/instances_val.json", ["val\\1.jpg"], "images", ""),
    "Roboflow": ("valid/_annotations.coco.json", ["1.jpg"], "valid", ""),
    "Roboflow by name": ("train/_annotations.coco.json", ["1.jpg"], "train", ":train"),
    "one split of Roboflow": ("_annotations.coco.json", ["1.jpg"], "", ""),
    "CVAT": ("annotations/instances_default.json", ["1.jpg"], "images", ""),
    "FiftyOne": ("labels.json", ["1.jpg"], "data", ""),
    "Label Studio": ("result.json", ["images/1.jpg"], "", ""),
    "of its own name": ("annotations/dogs.json", ["1.jpg"], "images", ""),
    "by options": ("meta/all.json", ["1.jpg"], "pictures/all", "?annotations=meta/all.json&images=pictures/all"),
    "the file itself": ("meta/all.json", ["1.jpg"], "meta", "/meta/all.json"),
    "the published file itself": ("annotations/instances_val2017.json", ["1.jpg"], "images", None),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_copies_are_read_where_their_images_lie(tmp_path: Path, layout: str):
    file, names, below, behind = LAYOUTS[layout]
    written(tmp_path, file, names, below)
    reader = open_data(f"coco:{tmp_path}{f'/{file}' if behind is None else behind}")
    assert reader.ids == tuple(f"{name.removesuffix('.jpg')}/dog".replace("\\", "/") for name in names)
    for item in reader:
        assert np.array_equal(item.mask, block((2, 3, 8, 7)))
        assert item.boxes.tolist() == [[2, 3, 8, 7]]


def both(root: Path) -> None:
    made.photo(root / "val2017/1.jpg")


def two_splits(root: Path) -> None:
    for split in ("train", "test"):
        written(root, f"{split}/_annotations.coco.json", ["1.jpg"], split)


def two_files(root: Path) -> None:
    for name in ("labels.json", "result.json"):
        written(root, name, ["1.jpg"], "images")


REFUSED: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "images in two places": (
        lambda root: (written(root, "annotations/instances_val2017.json", ["1.jpg"], "images/val2017"), both(root)),
        "",
        r"both '.*/val2017' and '.*/images/val2017' hold images of 'instances_val2017.json': choose one by \?images=",
    ),
    "two splits": (two_splits, "", r"has the splits test, train: choose one, as coco:.*:train"),
    "no such split": (two_splits, ":val", r"no split 'val': there are test, train"),
    "two files": (two_files, "", r"labels\.json' and '.*result\.json' are there: choose one by \?annotations=FILE"),
    "no images": (
        lambda root: written(root, "annotations/instances_val2017.json", ["1.jpg"], "pictures"),
        "",
        r"no folder with 1\.jpg \(val2017, images/val2017, images, annotations, data, or .*coco: takes a folder with",
    ),
    "no file": (
        lambda root: made.photo(root / "val2017/1.jpg"),
        "",
        r"no annotations/instances_\*\.json, _annotations",
    ),
    "no folder of that name": (two_files, "?annotations=labels.json&images=none", r"no folder of images '.*none'"),
    "no file of that name": (two_files, "?annotations=none.json", r"no file of annotations '.*none\.json'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_ambiguous_or_missing_is_refused(tmp_path: Path, kind: str):
    make, behind, message = REFUSED[kind]
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        open_data(f"coco:{tmp_path}{behind}")


@pytest.mark.parametrize("name", ["../2.jpg", "/etc/passwd", "a/../../2.jpg", "a\0.jpg", "."])
def test_names_that_lead_out_of_the_folder_are_not_opened(tmp_path: Path, name: str):
    written(tmp_path, "annotations/instances_val2017.json", ["1.jpg"], "val2017", content(["1.jpg", name]))
    made.photo(tmp_path / "2.jpg")
    reader = open_data(f"coco:{tmp_path}")
    assert reader[0].target == "dog"
    with pytest.raises(DataError, match="leads out of the folder of images"):
        reader[1]


def test_an_export_for_detection_has_boxes_alone(tmp_path: Path):
    told = content(["1.jpg", "2.jpg"], [])
    told["annotations"][1]["segmentation"] = SQUARE
    told["annotations"][0]["id"] = 7
    told["annotations"].append({**told["annotations"][0], "id": 9, "iscrowd": 1, "bbox": [0, 0, 1, 1]})
    written(tmp_path, "annotations/instances_val2017.json", ["1.jpg", "2.jpg"], "val2017", told)
    first, second = open_data(f"coco:{tmp_path}")
    assert first.masks is None
    assert np.array_equal(first.mask, block((2, 3, 8, 7)))
    assert second.masks is not None


N = SIZE[0] * SIZE[1]
OUTLINES: dict[str, tuple[Any, str]] = {
    "NaN": ([[float("nan"), 1, 9, 1, 9, 9]], "coordinates that are no finite numbers"),
    "infinite": ([[1, 1, float("inf"), 1, 9, 9]], "coordinates that are no finite numbers"),
    "enormous": ([[1, 1, 1e9, 1, 1e9, 1e9]], r"point \(1e\+09, 1e\+09\) lies far outside of the image of 24x16 pixels"),
    "beyond floats": ([[1, 1, 10**400, 1, 9, 9]], "coordinates that are no finite numbers"),
    "beyond integers": ([[1, 1, 2**31, 1, 9, 9]], "lies far outside"),
    "negative": ([[1, 1, -(2**31), 1, 9, 9]], "lies far outside"),
    "odd": ([[1, 1, 5, 1, 5]], "at least three points, x and y of each, got 5 numbers"),
    "two points": ([[1, 1, 5, 5]], "got 4 numbers"),
    "no points": ([[]], "got 0 numbers"),
    "words": ([["1", "1", "5", "1", "5", "5"]], "no finite numbers"),
    "truths": ([[True, 1, 5, 1, 5, 5]], "no finite numbers"),
    "flat": ([1, 1, 5, 1, 5, 5], "a polygon is a list of coordinates x1, y1, x2, y2, ..., got int"),
    "nested": ([[[1, 1], [5, 1], [5, 5]]], "no finite numbers"),
    "a mapping in it": ([{"x": 1}], "a polygon is a list of coordinates .* got dict"),
    "endless": ([[0, 0, 24, 16] * 60_000 + [0, 0]], r"the outline is .* pixels long: at most 2000000 are drawn"),
    "a number": (5, "a segmentation is a list of polygons, or runs with size and counts, got int"),
    "a text": ("abc", "got str"),
    "runs of 2^31": ({"size": [2**31 - 1] * 2, "counts": [5, 7]}, "of another size than 24x16"),
    "runs of a negative size": ({"size": [-16, -24], "counts": [0]}, "of another size"),
    "runs of no size": ({"counts": [N]}, "of another size"),
    "runs without counts": ({"size": [16, 24]}, "counts of runs are whole numbers"),
    "too few": ({"size": [16, 24], "counts": [5, 7]}, "the runs have 12 pixels in all, and the image 384"),
    "too many": ({"size": [16, 24], "counts": [N, 1]}, "the runs have 385 pixels"),
    "of 2^40": ({"size": [16, 24], "counts": [2**40, 1]}, "the runs have 1099511627777 pixels"),
    "negative counts": ({"size": [16, 24], "counts": [N + 5, -5]}, "whole numbers of at least 0"),
    "counts of fractions": ({"size": [16, 24], "counts": [N / 2, N / 2]}, "whole numbers of at least 0"),
    "counts of words": ({"size": [16, 24], "counts": ["5"]}, "whole numbers of at least 0"),
    "packed, cut off": ({"size": [16, 24], "counts": "d:P"}, "cut off"),
    "packed, of other letters": ({"size": [16, 24], "counts": "!!"}, "a letter or a number that is none of COCO's"),
    "packed, endless": ({"size": [16, 24], "counts": "P" * 50}, "a letter or a number that is none of COCO's"),
    "packed, too short": ({"size": [16, 24], "counts": "52"}, "the runs have 7 pixels"),
    "packed, empty": ({"size": [16, 24], "counts": ""}, "the runs have 0 pixels"),
    "packed, beyond ascii": ({"size": [16, 24], "counts": "5é"}, "the runs have|none of COCO's"),
}


@pytest.mark.parametrize("kind", OUTLINES)
def test_an_outline_that_does_not_hold_is_an_error_of_its_item(tmp_path: Path, kind: str):
    outline, message = OUTLINES[kind]
    told = content(["1.jpg", "2.jpg"])
    told["annotations"][1]["segmentation"] = outline
    written(tmp_path, "annotations/instances_val2017.json", ["1.jpg", "2.jpg"], "val2017", told)
    reader = open_data(f"coco:{tmp_path}")
    assert reader[0].mask.any()
    with pytest.raises(DataError, match=message):
        reader[1]


THINGS: dict[str, tuple[dict[str, Any], str]] = {
    "a box with NaN": ({"bbox": [float("nan"), 1, 2, 2]}, "finite and of no negative size"),
    "a box of negative size": ({"bbox": [5, 5, -2, 2]}, "finite and of no negative size"),
    "a box of three": ({"bbox": [1, 2, 3]}, "a bbox is four numbers"),
    "a box of words": ({"bbox": ["1", "2", "3", "4"]}, "a bbox is four numbers"),
    "a box beyond floats": ({"bbox": [1, 2, 3, 10**400]}, "too large"),
    "nothing": ({"bbox": None, "segmentation": None}, "neither a segmentation nor a bbox"),
}


@pytest.mark.parametrize("kind", THINGS)
def test_an_object_that_does_not_hold_is_an_error_of_its_item(tmp_path: Path, kind: str):
    thing, message = THINGS[kind]
    written(tmp_path, "annotations/instances_val2017.json", ["1.jpg"], "val2017", content(["1.jpg"], **thing))
    with pytest.raises(DataError, match=message):
        open_data(f"coco:{tmp_path}")[0]


@pytest.mark.parametrize("size", [(2**31, 2**31), (16, 24), (-24, 16), (25, 16)])
def test_an_image_of_another_size_than_the_file_says(tmp_path: Path, size: tuple[int, int]):
    """Nothing as large as the file says is made."""
    told = content(["1.jpg"])
    told["images"][0] |= {"width": size[0], "height": size[1]}
    written(tmp_path, "annotations/instances_val2017.json", ["1.jpg"], "val2017", told)
    with pytest.raises(DataError, match=rf"says that the image is {size[0]}x{size[1]} pixels, and it is 24x16"):
        open_data(f"coco:{tmp_path}")[0]


def test_a_file_that_does_not_say_sizes(tmp_path: Path):
    told = content(["1.jpg"])
    del told["images"][0]["width"]
    written(tmp_path, "annotations/instances_val2017.json", ["1.jpg"], "val2017", told)
    assert np.array_equal(open_data(f"coco:{tmp_path}")[0].mask, block((2, 3, 8, 7)))


def without(what: str, **changes: Any) -> dict[str, Any]:
    told = copy.deepcopy(content(["1.jpg"]))
    told[what][0] = {**told[what][0], **changes}
    return told


FILES: dict[str, tuple[Any, str]] = {
    "a list": ([], "it holds no mapping but list"),
    "no annotations": ({"images": [], "categories": []}, "'annotations' is no list of entries"),
    "images of words": ({**content(["1.jpg"]), "images": ["1.jpg"]}, "'images' is no list of entries"),
    "no file name": (without("images", file_name=None), "an image has no file_name"),
    "a list for an id": (without("images", id=[1]), "an image has no id that is a number or a text"),
    "one id twice": (
        {**content(["1.jpg"]), "images": content(["1.jpg"])["images"] * 2},
        "two images have the id 0",
    ),
    "a category of words": (without("categories", id="dog"), "a category has no id that is a whole number"),
    "a category without a name": (without("categories", name=""), "a category has no name"),
    "an object of no image": (without("annotations", image_id=None), "an annotation has no image_id"),
    "an object of no category": (without("annotations", category_id=None), "an annotation has no category_id"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_file_of_instances_says_why(tmp_path: Path, kind: str):
    told, message = FILES[kind]
    written(tmp_path, "annotations/instances_val2017.json", ["1.jpg"], "val2017", {"a": 1})
    (tmp_path / "annotations/instances_val2017.json").write_text(json.dumps(told))
    with pytest.raises(DataError, match=f"is not COCO's JSON of instances, or damaged: {message}"):
        open_data(f"coco:{tmp_path}")


def test_a_file_nested_without_end(tmp_path: Path):
    written(tmp_path, "annotations/instances_val2017.json", ["1.jpg"], "val2017")
    (tmp_path / "annotations/instances_val2017.json").write_text('{"images": ' + "[" * 200_000)
    with pytest.raises(DataError, match="is not COCO's JSON of instances, or damaged"):
        open_data(f"coco:{tmp_path}")


@pytest.mark.parametrize("seed", range(8))
def test_runs_are_read_as_pycocotools_reads_them(seed: int):
    rng = np.random.default_rng(seed)
    width, height = (int(n) for n in rng.integers(1, 300, 2))
    mask = rng.random((height, width)) < rng.choice([0.0, 0.02, 0.5, 1.0])
    mask = np.kron(mask, np.ones((3, 3), bool))[:height, :width]
    packed = pycoco.encode(np.asfortranarray(mask.astype(np.uint8)))
    for text in (packed["counts"], packed["counts"].decode()):
        assert np.array_equal(mask_of({"size": packed["size"], "counts": text}, (width, height)), mask)
    plain = {"size": [height, width], "counts": unpacked(packed["counts"])}
    assert np.array_equal(mask_of(plain, (width, height)), mask)


def test_rows_for_columns_would_be_seen():
    """A wrong twin of the check above."""
    packed = pycoco.encode(np.asfortranarray(block((2, 3, 8, 7)).astype(np.uint8)))
    counts = unpacked(packed["counts"])
    by_rows = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(made.HEIGHT, made.WIDTH)
    assert not np.array_equal(by_rows, block((2, 3, 8, 7)))


def test_what_pycocotools_does_with_an_enormous_polygon_is_not_met(tmp_path: Path):
    """The danger is real: drawn without the check, the process ends or is stopped by its limit of memory."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "from pycocotools import mask\n"
        "mask.frPyObjects([[1, 1, 1e9, 1, 1e9, 1e9]], 40, 40)"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, check=False).returncode
