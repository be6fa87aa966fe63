"""What holds of every reader: order, ids, laziness, pickles, and what a manifest says of it."""

import builtins
import io
import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from captum_vit.data import KINDS, Item, open_data
from captum_vit.errors import DataError, ImageLoadError
from tests.data.conftest import KINDS as MADE

COUNTS = {
    "coco": 3,
    "cub": 2,
    "folder": 3,
    "hf": 4,
    "imagenet": 3,
    "imagenet-s": 2,
    "imagenet-segmentation": 3,
    "pets": 2,
    "planted": 4,
    "sample": 6,
    "voc": 3,
}
FOLDERS = {
    "coco": "val2017",
    "cub": "CUB_200_2011/images",
    "folder": "images",
    "imagenet": "ILSVRC/Data/CLS-LOC/val",
    "imagenet-s": "validation",
    "pets": "oxford-iiit-pet/images",
    "voc": "VOCdevkit/VOC2012/JPEGImages",
}
NO_MASK = {"hf", "imagenet", "voc"}


def good(reader) -> list[Item]:
    items = []
    for number in range(len(reader)):
        try:
            items.append(reader[number])
        except DataError:
            assert reader.name == "imagenet-segmentation"  # the one with a bad item in it
    return items


def test_every_kind_is_tried():
    assert set(MADE) == set(KINDS) == set(COUNTS)


def test_items(spec):
    reader = open_data(spec)
    assert len(reader) == len(reader.ids) == COUNTS[reader.name]
    assert len(set(reader.ids)) == len(reader)
    items = good(reader)
    for item in items:
        assert item.id in reader.ids
        assert item.image.mode == "RGB"
        assert item.mask.shape == item.image.size[::-1]
        assert item.mask.dtype == bool
        assert item.mask.any()
        assert (item.masks is None) == (reader.name in NO_MASK)
        assert item.valid is None or not (item.mask & ~item.valid).any()
        assert item.target is None or item.target in reader.names or item.target in reader.names.values()
        assert item.boxes is None or (item.boxes.dtype == np.float64 and item.boxes.shape[1] == 4)


def test_order_and_content_are_the_same_again(spec):
    first, again = open_data(spec), open_data(spec)
    assert first.ids == again.ids
    assert first.describe() == again.describe()
    for left, right in zip(good(first), good(again), strict=True):
        assert (left.id, left.target) == (right.id, right.target)
        assert np.array_equal(left.image, right.image)
        assert np.array_equal(left.mask, right.mask)


def test_no_image_is_opened_before_an_item_is_asked_for(spec, monkeypatch):
    opened = []
    decode = Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **options: opened.append(args) or decode(*args, **options))
    files = []
    plain = builtins.open

    def watched(file, *args, **options):
        files.append(str(file))
        return plain(file, *args, **options)

    monkeypatch.setattr(builtins, "open", watched)
    monkeypatch.setattr(io, "open", watched)
    reader = open_data(spec)
    len(reader), reader.ids, reader.describe()
    assert not opened
    assert not [file for file in files if file.lower().endswith((".jpg", ".jpeg", ".png"))]
    reader[0]
    assert opened or reader.name in ("imagenet-segmentation", "planted", "sample")


def test_pickled(spec):
    reader = open_data(spec)
    reader[0]
    packed = pickle.dumps(reader)
    assert len(packed) < 1000
    copy = pickle.loads(packed)
    assert len(copy) == len(reader)
    assert copy.ids == reader.ids
    assert np.array_equal(copy[1].image, reader[1].image)
    assert copy.describe() == reader.describe()
    assert repr(copy) == repr(reader)


def test_description_is_json_and_does_not_know_the_place(spec, tmp_path, tmp_path_factory):
    reader = open_data(spec)
    described = reader.describe()
    assert json.loads(json.dumps(described)) == described
    assert set(described) == {"kind", "root", "options", "number", "fingerprint"}
    assert (described["kind"], described["number"]) == (reader.name, len(reader))
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(tmp_path, elsewhere)
    assert open_data(spec.replace(str(tmp_path), str(elsewhere))).describe()["fingerprint"] == described["fingerprint"]


def test_a_slice_is_a_list_of_items(spec):
    reader = open_data(spec)
    assert [item.id for item in reader[:2]] == list(reader.ids[:2])


@pytest.mark.parametrize("number", [99, -99])
def test_out_of_range(spec, number):
    reader = open_data(spec)
    with pytest.raises(IndexError, match=f"has {len(reader)} items, got {number}"):
        reader[number]


@pytest.mark.parametrize("damage", ["truncated", "missing", "text"])
def test_a_bad_image_costs_its_items_alone(spec, tmp_path, damage):
    if spec.startswith(("planted", "sample", "hf", "imagenet-segmentation")):
        pytest.skip("its images are in no files")
    folder = FOLDERS[spec.partition(":")[0]]
    before = open_data(spec)
    name = before.ids[-1].rpartition("/")[0]
    [file] = [f for f in (tmp_path / folder).rglob("*.*") if f.with_suffix("").as_posix().endswith(name)]
    if damage == "text":
        file.write_text("not an image")
    elif damage == "missing" and before.name in ("coco", "voc", "cub", "pets"):  # the others list what is there
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:60])
    after = open_data(spec)
    assert after.ids == before.ids
    with pytest.raises(ImageLoadError, match=r"damaged|no such file|text"):
        after[-1]
    assert after[0].id == before.ids[0]


def test_a_copy_sees_that_the_data_changed(tmp_path):
    reader = open_data(f"folder:{MADE['folder'](tmp_path)}")
    packed = pickle.dumps(reader)
    (tmp_path / "images/cat/ä 1.png").unlink()
    copy = pickle.loads(packed)
    with pytest.raises(DataError, match=r"changed: it had 3 rows when it was opened and now has 2"):
        copy[0]
