"""Tiny data sets, laid out as the published ones are."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 24, 16
ORIENTATION = 0x0112


def photo(path: Path, size=(WIDTH, HEIGHT), orientation: int | None = None) -> Path:
    """An image whose red grows to the right and whose green grows downwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width)[None] * 10
    pixels[..., 1] = np.arange(height)[:, None] * 10
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    options = {"quality": 95, "subsampling": 0} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    Image.fromarray(pixels).save(path, exif=exif, **options)
    return path


def truncated(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def block(*spans: tuple[int, int, int, int], size=(WIDTH, HEIGHT)) -> np.ndarray:
    """A mask with filled rectangles x1, y1, x2, y2, the ends not included."""
    mask = np.zeros(size[::-1], bool)
    for x1, y1, x2, y2 in spans:
        mask[y1:y2, x1:x2] = True
    return mask


def save(path: Path, pixels: np.ndarray, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image = image.convert("P") if image.mode != "L" else image
        indexed = Image.frombytes("P", image.size, image.tobytes())
        indexed.putpalette([(37 * i) % 256 for i in range(768)])  # colours that have nothing to do with the numbers
        image = indexed
    image.save(path)
    return path


def xml(path: Path, objects, size=(WIDTH, HEIGHT)) -> Path:
    """An annotation; objects as (name, xmin, ymin, xmax, ymax, difficult)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "".join(
        f"<object><name>{name}</name><pose>Left</pose><truncated>0</truncated><difficult>{difficult}</difficult>"
        f"<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2, difficult in objects
    )
    path.write_text(
        f"<annotation><folder>x</folder><filename>{path.stem}</filename><source><database>d</database></source>"
        f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
        f"<segmented>0</segmented>{body}</annotation>"
    )
    return path


def voc(root: Path, year: str = "2012") -> Path:
    """Three images: a dog and two persons (one difficult); a difficult cat alone; a cat at the edge."""
    base = root / "VOCdevkit" / f"VOC{year}"
    objects = {
        "2007_000001": [("person", 2, 3, 6, 9, 0), ("person", 20, 1, 24, 4, 1), ("dog", 11, 5, 15, 16, 0)],
        "2007_000002": [("cat", 1, 1, 24, 16, 1)],
        "2007_000003": [("cat", 20, 10, 30, 40, 0)],
    }
    for name, things in objects.items():
        photo(base / "JPEGImages" / f"{name}.jpg")
        xml(base / "Annotations" / f"{name}.xml", things)
    for task in ("Main", "Segmentation"):
        lists = base / "ImageSets" / task
        lists.mkdir(parents=True)
        (lists / "val.txt").write_text("\n".join(objects) + "\n")
        (lists / "train.txt").write_text("2007_000002\n")
    (base / "ImageSets/Main/cat_val.txt").write_text("2007_000003 1\n")
    for name in objects:
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[2:9, 1:6] = 15  # person
        labels[4:16, 10:15] = 12  # dog
        labels[0:2] = 255
        save(base / "SegmentationClass" / f"{name}.png", labels, palette=True)
    return root


DOG, TENCH = "n02085620", "n01440764"  # 151 and 0
VAL = {"ILSVRC2012_val_00000001": DOG, "ILSVRC2012_val_00000002": TENCH, "ILSVRC2012_val_00000003": DOG}


def imagenet(root: Path, folders: bool = False, annotations: bool = True) -> Path:
    base = root / "ILSVRC"
    for name, synset in VAL.items():
        photo(base / "Data/CLS-LOC/val" / (synset if folders else "") / f"{name}.JPEG")
        if annotations:
            things = [(synset, 0, 2, 9, 5, 0), (synset, 12, 8, 23, 15, 0)]
            xml(base / "Annotations/CLS-LOC/val" / f"{name}.xml", things)
    return root


def solution(root: Path) -> None:
    with (root / "LOC_val_solution.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["ImageId", "PredictionString"])
        for name, synset in VAL.items():
            table.writerow([name, f"{synset} 0 2 9 5 {synset} 12 8 23 15 "])


BIRDS = ("001.Black_footed_Albatross", "002.Laysan_Albatross")


def cub(root: Path, masks: bool = True) -> Path:
    base = root / "CUB_200_2011"
    names = [f"{BIRDS[0]}/Albatross_0001_7.jpg", f"{BIRDS[0]}/Albatross_0002_8.jpg", f"{BIRDS[1]}/Laysan_0001_5.jpg"]
    for name in names:
        photo(base / "images" / name)
        if masks:
            labels = np.zeros((HEIGHT, WIDTH), np.uint8)
            labels[3:8, 2:10] = 102  # two of five annotators
            labels[4:7, 3:9] = 153  # three
            save((base / "segmentations" / name).with_suffix(".png"), labels)
    texts = {
        "images": [f"{i} {name}" for i, name in enumerate(names, 1)],
        "image_class_labels": ["1 1", "2 1", "3 2"],
        "train_test_split": ["1 0", "2 1", "3 0"],
        "bounding_boxes": ["1 2.0 3.0 8.0 5.0", "2 1.0 1.0 2.0 2.0", "3 20.0 10.0 50.0 4.0"],
        "classes": [f"{i} {bird}" for i, bird in enumerate(BIRDS, 1)],
    }
    for name, lines in texts.items():
        (base / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def coco(root: Path) -> Path:
    """Image 7 has two dogs and a crowd of persons with one person; image 3 a crowd alone; image 9 a cat."""
    for name in ("000000000007", "000000000003", "000000000009"):
        photo(root / "val2017" / f"{name}.jpg")
    crowd = {"counts": [0, HEIGHT * 4, HEIGHT * (WIDTH - 4)], "size": [HEIGHT, WIDTH]}  # the four columns on the left

    def polygon(x1, y1, x2, y2):
        return [[x1, y1, x2, y1, x2, y2, x1, y2]]

    things = [
        (7, 18, [10.0, 2.0, 5.0, 6.0], polygon(10, 2, 15, 8), 0),
        (7, 18, [16.0, 9.0, 4.0, 4.0], polygon(16, 9, 20, 13), 0),
        (7, 1, [0.0, 0.0, 4.0, 16.0], crowd, 1),
        (7, 1, [2.0, 2.0, 6.0, 5.0], polygon(2, 2, 8, 7), 0),
        (3, 1, [0.0, 0.0, 4.0, 16.0], crowd, 1),
        (9, 17, [20.5, 10.5, 9.0, 2.0], polygon(20, 10, 24, 12), 0),
    ]
    content = {
        "info": {},
        "licenses": [],
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "width": WIDTH, "height": HEIGHT} for i in (7, 3, 9)],
        "categories": [{"id": 1, "name": "person"}, {"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
        "annotations": [
            {
                "id": n,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "segmentation": segmentation,
                "iscrowd": crowd,
                "area": box[2] * box[3],
            }
            for n, (image, category, box, segmentation, crowd) in enumerate(things, 1)
        ],
    }
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations/instances_val2017.json").write_text(json.dumps(content))
    return root


def pets(root: Path) -> Path:
    base = root / "oxford-iiit-pet"
    trimap = np.full((HEIGHT, WIDTH), 2, np.uint8)
    trimap[3:10, 4:15] = 3
    trimap[4:9, 5:14] = 1
    for name in ("Abyssinian_201", "Bengal_7", "Abyssinian_3"):
        photo(base / "images" / f"{name}.jpg")
        save(base / "annotations/trimaps" / f"{name}.png", trimap)
    (base / "annotations/test.txt").write_text("Abyssinian_201 1 1 1\nBengal_7 2 1 2\n")
    (base / "annotations/trainval.txt").write_text("Abyssinian_3 1 1 1\n")
    return root


def imagenet_s(root: Path, number: int = 300) -> Path:
    """Two classes; in the subset they are 1 and `number`."""
    for name, synset, value in (("ILSVRC2012_val_00000005", DOG, number), ("ILSVRC2012_val_00000004", TENCH, 1)):
        photo(root / "validation" / synset / f"{name}.JPEG")
        values = np.zeros((HEIGHT, WIDTH), int)
        values[2:6, 3:20] = value
        values[10:12] = 1000
        values[14:] = 7
        colours = np.stack([values % 256, values // 256, 0 * values], axis=2).astype(np.uint8)
        save(root / "validation-segmentation" / synset / f"{name}.png", colours)
    return root


def segmentation_mat(path: Path) -> Path:
    """As MATLAB 7.3 writes a structure of cells: references, and arrays with their axes reversed."""
    import h5py

    with h5py.File(path, "w") as file:
        references = file.create_group("#refs#")
        images = file.create_dataset("value/img", (3, 1), h5py.ref_dtype)
        masks = file.create_dataset("value/gt", (3, 1), h5py.ref_dtype)
        for number in range(2):
            pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            pixels[..., 0] = np.arange(WIDTH) * 10
            pixels[..., 1] = np.arange(HEIGHT)[:, None] * 10
            image = references.create_dataset(f"image{number}", data=pixels.transpose(2, 1, 0))
            mask = references.create_dataset(f"mask{number}", data=block((3, 2, 9, 7)).astype(np.uint8).T)
            cell = references.create_dataset(f"cell{number}", (1, 1), h5py.ref_dtype)
            cell[0, 0] = mask.ref
            images[number, 0], masks[number, 0] = image.ref, cell.ref
    return path  # the third references lead nowhere


def scan(image: Image.Image) -> np.ndarray:
    """(H, W, 2): which column and row of the stored photograph each pixel comes from."""
    return np.rint(np.asarray(image)[..., :2] / 10).astype(int)
