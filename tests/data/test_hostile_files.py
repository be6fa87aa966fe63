"""Annotations and masks that nobody has checked: an error in words, and neither a dead process nor gigabytes."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import datasets
import h5py
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from captum_vit.data import annotations, open_data, open_photo
from captum_vit.data.annotations import read_annotation
from captum_vit.errors import DataError
from tests.data import made

BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
LAUGHS = (
    '<!DOCTYPE a [<!ENTITY l0 "ha">'
    + "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    + "]><annotation><object><name>&l9;</name></object></annotation>"
)

XML = {
    "entities": (LAUGHS, "it defines a document type"),
    "an outside entity": (
        '<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]><annotation><folder>&f;</folder></annotation>',
        "it defines a document type",
    ),
    "depth": ("<annotation>" + "<part>" * 100_000, "nested deeper than 20 levels"),
    "depth that ends": ("<annotation>" + "<p>" * 5000 + "</p>" * 5000 + "</annotation>", "nested deeper than 20"),
    "size": (f"<annotation>{'<object></object>' * 400_000}</annotation>", "it has 7 MB, and an annotation at most 5"),
    "another root": (f"<object><name>cat</name>{BOX}</object>", "lacks 'annotation'"),
    "no name": (f"<annotation><object>{BOX}</object></annotation>", "lacks 'name'"),
    "an empty name": (f"<annotation><object><name> </name>{BOX}</object></annotation>", "lacks 'name'"),
    "no corner": (
        f"<annotation><object><name>a</name>{BOX.replace('xmin', 'x')}</object></annotation>",
        "lacks 'xmin'",
    ),
    "words": (f"<annotation><object><name>a</name>{BOX.replace('9', 'x')}</object></annotation>", "is damaged: could"),
    "nothing": ("", "is damaged"),
    "no XML": ("\0\1\2", "is damaged"),
    "no such letters": ('<?xml version="1.0" encoding="no-such"?><annotation/>', "is damaged"),
}


@pytest.mark.parametrize("kind", XML)
def test_an_annotation_that_does_not_hold_says_why(tmp_path: Path, kind: str):
    text, message = XML[kind]
    (tmp_path / "a.xml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_annotation(tmp_path / "a.xml")


def test_a_pipe_in_the_place_of_an_annotation_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "a.xml")
    with pytest.raises(DataError, match="no annotation"):
        read_annotation(tmp_path / "a.xml")


def test_one_hostile_annotation_costs_one_item(tmp_path: Path):
    base = made.voc(tmp_path) / "VOCdevkit/VOC2012/Annotations"
    (base / "2007_000003.xml").write_text(LAUGHS)
    reader = open_data(f"voc:{tmp_path}")
    assert reader[0].target == "dog"
    with pytest.raises(DataError, match="defines a document type"):
        reader[2]


def test_parts_and_unknown_entries_are_passed_over(tmp_path: Path):
    part = f"<part><name>head</name>{BOX}</part>"
    text = f"<annotation><x/><object><name>cat</name>{part}{BOX}<difficult> 1 </difficult></object></annotation>"
    (tmp_path / "a.xml").write_text(text)
    found = read_annotation(tmp_path / "a.xml")
    assert found == annotations.Annotation(None, (annotations.Thing("cat", (1, 1, 9, 9), True),))


def png(path: Path, width: int, height: int) -> Path:
    """A PNG whose header promises so many pixels, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


SIZES = [(12_000, 12_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (25, 16)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["voc", "cub", "pets", "folder", "imagenet-s"])
def test_a_mask_of_another_size_is_not_decoded(tmp_path: Path, kind: str, size: tuple[int, int], monkeypatch):
    spec, mask = {
        "voc": lambda: (f"{made.voc(tmp_path)}?masks=1", "VOCdevkit/VOC2012/SegmentationClass/2007_000001.png"),
        "cub": lambda: (
            f"{made.cub(tmp_path)}",
            f"CUB_200_2011/segmentations/{made.BIRDS[0]}/Albatross_0001_7.png",
        ),
        "pets": lambda: (f"{made.pets(tmp_path)}", "oxford-iiit-pet/annotations/trimaps/Abyssinian_201.png"),
        "folder": lambda: (f"{_folder(tmp_path)}", "masks/a.png"),
        "imagenet-s": lambda: (
            f"{_subset(tmp_path)}?categories=names.txt",
            f"validation-segmentation/{made.TENCH}/ILSVRC2012_val_00000004.png",
        ),
    }[kind]()
    png(tmp_path / mask, *size)
    reader = open_data(f"{kind}:{spec}")
    decoded: list[object] = []
    load = PngImageFile.load
    monkeypatch.setattr(PngImageFile, "load", lambda image: decoded.append(image.size) or load(image))
    with pytest.raises(DataError, match=r"of the same size|is enormous"):
        reader[0]
    assert size not in decoded


def _folder(root: Path) -> Path:
    made.photo(root / "images/a.png")
    return root


def _subset(root: Path) -> Path:
    (made.imagenet_s(root, 2) / "names.txt").write_text(f"{made.TENCH}\n{made.DOG}\n")
    return root


def test_a_mask_of_144_megapixels_takes_no_memory(tmp_path: Path):
    """In a process of its own that may have little more than it begins with."""
    _folder(tmp_path)
    png(tmp_path / "masks/a.png", 12_000, 12_000)
    code = (
        "import resource, sys\n"
        "from captum_vit.data import open_data\n"
        "from captum_vit.errors import DataError\n"
        f"reader = open_data('folder:{tmp_path}')\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000, resource.RLIM_INFINITY))\n"
        "try:\n    reader[0]\nexcept DataError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "the mask is 12000x12000 and its image 24x16" in done.stdout


def test_of_the_right_size_a_mask_is_read(tmp_path: Path):
    """The checks above would pass if no mask were read at all."""
    photo = open_photo(made.photo(tmp_path / "a.png"))
    Image.fromarray(np.full((made.HEIGHT, made.WIDTH), 7, np.uint8)).save(tmp_path / "m.png")
    assert (photo.labels(tmp_path / "m.png") == 7).all()


CUB = {
    "bounding_boxes": ("1 2.0 3.0 8.0\n2 1 1 1 1\n3 1 1 1 1", "has no x, y, width, height for"),
    "words": ("1 a b c d\n2 1 1 1 1\n3 1 1 1 1", "has no x, y, width, height for"),
    "NaN": ("1 nan 3 8 8\n2 1 1 1 1\n3 1 1 1 1", "a box is x1 <= x2"),
}


@pytest.mark.parametrize("kind", CUB)
def test_a_bad_line_of_boxes_costs_one_item(tmp_path: Path, kind: str):
    text, message = CUB[kind]
    (made.cub(tmp_path) / "CUB_200_2011/bounding_boxes.txt").write_text(text)
    reader = open_data(f"cub:{tmp_path}")
    assert reader[1].target == 1
    with pytest.raises(DataError, match=message):
        reader[0]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("images", b"1 ../../secret.jpg\n", "is no path below images/"),
        ("images", b"1 /etc/passwd\n", "is no path below images/"),
        ("images", b"\xff\xfe\n", "cannot read"),
        ("classes", b"one 001.Albatross\n", "has lines of a number and what it stands for, got 'one'"),
        ("image_class_labels", b"1 one\n2 1\n3 2\n", "has no class in image_class_labels.txt"),
    ],
)
def test_lists_of_birds_that_do_not_hold(tmp_path: Path, name: str, data: bytes, message: str):
    (made.cub(tmp_path) / f"CUB_200_2011/{name}.txt").write_bytes(data)
    with pytest.raises(DataError, match=message):
        open_data(f"cub:{tmp_path}")


@pytest.mark.parametrize(
    "line", ["a,n01440764 1 2 3", "a,n01440764 x 2 3 4", "a", 'a,"' + "9" * 200_000, "a,\xff", "a,"], ids=str.__len__
)
def test_a_table_of_boxes_that_does_not_hold(tmp_path: Path, line: str):
    made.imagenet(tmp_path, annotations=False)
    (tmp_path / "LOC_val_solution.csv").write_bytes(f"ImageId,PredictionString\n{line}\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"LOC_val_solution\.csv', line [12]: expected ImageId"):
        open_data(f"imagenet:{tmp_path}")


@pytest.mark.parametrize("shape", [(3, 40_000, 40_000), (3,), (1, 2, 3, 4)])
def test_an_array_that_is_no_image(tmp_path: Path, shape: tuple[int, ...]):
    file = made.segmentation_mat(tmp_path / "gtsegs_ijcv.mat")
    with h5py.File(file, "a") as content:
        stored = content.create_dataset("#refs#/other", shape, np.uint8, chunks=True, compression="gzip")
        content["value/img"][0, 0] = stored.ref
    with pytest.raises(DataError, match="is no image or mask"):
        open_data(f"imagenet-segmentation:{file}")[0]
    assert open_data(f"imagenet-segmentation:{file}")[1].mask.any()


def test_rows_of_several_lengths_are_no_mask(tmp_path: Path):
    file = made.photo(tmp_path / "a.png")
    row = {"image": {"bytes": file.read_bytes(), "path": None}, "label": 0, "mask": [[1, 0], [1]]}
    data = datasets.Dataset.from_list([row]).cast_column("image", datasets.Image())
    data.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match="is an image, or rows of numbers of one length"):
        open_data(f"hf:{tmp_path / 'saved'}")[0]
