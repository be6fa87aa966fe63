"""A reader of every kind, on a tiny data set."""

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from tests.data import made


def huggingface(root: Path) -> Path:
    rows = []
    for number in range(2):
        file = made.photo(root / "source" / f"{number}.png")
        objects = {"bbox": [[2.0, 3.0, 5.0, 6.0], [10.0, 4.0, 4.0, 4.0]], "category": [1, 0]}
        rows.append({"image": {"bytes": file.read_bytes(), "path": file.name}, "objects": objects})
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
                "category": datasets.List(datasets.ClassLabel(names=["cat", "dog"])),
            },
        }
    )
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(root / "saved"))
    return root / "saved"


def folder(root: Path) -> Path:
    for name in ("cat/ä 1", "dog/b.c", "dog/日本"):
        made.photo(root / "images" / f"{name}.png")
        made.save(root / "masks" / f"{name}.png", made.block((2, 3, 8, 9)).astype("uint8") * 255)
    return root


def imagenet_s(root: Path) -> str:
    (made.imagenet_s(root, 2) / "names.txt").write_text(f"{made.TENCH}\n{made.DOG}\n")
    return f"{root}?categories=names.txt"


KINDS: dict[str, Callable[[Path], object]] = {
    "coco": made.coco,
    "cub": made.cub,
    "folder": folder,
    "hf": huggingface,
    "imagenet": made.imagenet,
    "imagenet-s": imagenet_s,
    "imagenet-segmentation": lambda root: made.segmentation_mat(root / "gtsegs_ijcv.mat"),
    "pets": made.pets,
    "planted": lambda root: "4?size=48",
    "sample": lambda root: "3?size=48",
    "voc": made.voc,
}


@pytest.fixture(params=sorted(KINDS))
def spec(request, tmp_path) -> str:
    return f"{request.param}:{KINDS[request.param](tmp_path)}"
