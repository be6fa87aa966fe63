"""Folders of one's own and data sets of Hugging Face."""

import datasets
import numpy as np
import pytest
from PIL import Image

from captum_vit.data import open_data
from captum_vit.errors import DataError
from tests.data import made
from tests.data.conftest import folder, huggingface
from tests.data.made import block

MASK = block((2, 3, 8, 9))
KINDS = {
    "one bit": Image.fromarray(MASK),
    "grey": Image.fromarray(MASK.astype(np.uint8)),
    "16 bits": Image.fromarray(MASK.astype(np.uint16) * 256),
    "colour": Image.fromarray(np.stack([0 * MASK, 0 * MASK, MASK * 200], axis=2).astype(np.uint8)),
    "transparent": Image.fromarray(np.stack([*[np.full_like(MASK, 255, np.uint8)] * 3, MASK * np.uint8(9)], axis=2)),
    "grey and transparent": Image.merge("LA", [Image.fromarray(MASK.astype(np.uint8))] * 2),
}


class TestFolder:
    def test_names_of_any_kind_and_links(self, tmp_path):
        folder(tmp_path / "there")
        (tmp_path / "here").symlink_to(tmp_path / "there")
        (tmp_path / "there/images/cat/again.png").symlink_to(tmp_path / "there/images/dog/b.c.png")
        (tmp_path / "there/images/cat/round").symlink_to(tmp_path / "there/images")
        (tmp_path / "there/masks/cat/again.png").symlink_to(tmp_path / "there/masks/dog/b.c.png")
        (tmp_path / "there/images/cat/.hidden.png").write_bytes(b"")
        (tmp_path / "there/images/cat/notes.txt").write_text("no image")
        reader = open_data(f"folder:{tmp_path}/here")
        assert reader.ids == ("cat/again/cat", "cat/ä 1/cat", "dog/b.c/dog", "dog/日本/dog")
        assert [item.target for item in reader] == ["cat", "cat", "dog", "dog"]
        assert dict(reader.names) == {0: "cat", 1: "dog"}
        assert all(np.array_equal(item.mask, block((2, 3, 8, 9))) for item in reader)

    def test_classes_of_the_masks_alone(self, tmp_path):
        made.photo(tmp_path / "images/a.jpg")
        for name, spans in (("dog", (1, 2, 5, 7)), ("cat", (8, 8, 12, 12))):
            made.save(tmp_path / "masks" / name / "a.png", block(spans))
        cat, dog = reader = open_data(f"folder:{tmp_path}")
        assert reader.ids == ("a/cat", "a/dog")
        assert np.array_equal(cat.mask, block((8, 8, 12, 12)))
        assert np.array_equal(dog.mask, block((1, 2, 5, 7)))

    def test_without_masks_or_classes(self, tmp_path):
        made.photo(tmp_path / "images/a.jpg")
        reader = open_data(f"folder:{tmp_path}")
        assert reader.ids == ("a",)
        item = reader[0]
        assert (item.target, item.masks, item.boxes, item.mask) == (None, None, None, None)

    def test_folders_of_classes_alone(self, tmp_path):
        made.photo(tmp_path / "dog/a.jpg")
        made.photo(tmp_path / "cat/b.jpg")
        (tmp_path / "notes.txt").write_text("no image")
        reader = open_data(f"folder:{tmp_path}")
        assert [(item.id, item.target, item.mask) for item in reader] == [
            ("cat/b/cat", "cat", None),
            ("dog/a/dog", "dog", None),
        ]
        (tmp_path / "masks").mkdir()  # then images have to be told from them
        with pytest.raises(DataError, match="no folder images in"):
            len(open_data(f"folder:{tmp_path}"))

    @pytest.mark.parametrize("kind", KINDS)
    def test_kinds_of_masks(self, tmp_path, kind):
        made.photo(tmp_path / "images/a.jpg")
        (tmp_path / "masks").mkdir()
        KINDS[kind].save(tmp_path / "masks/a.png")
        assert np.array_equal(open_data(f"folder:{tmp_path}")[0].mask, MASK)

    def test_a_palette_counts_by_its_numbers(self, tmp_path):
        made.photo(tmp_path / "images/a.jpg")
        file = made.save(tmp_path / "masks/a.png", MASK.astype(np.uint8), palette=True)
        with Image.open(file) as image:
            assert image.mode == "P"
            image.putpalette([255, 255, 255, 0, 0, 0])  # the background white, the object black
            image.save(file)
        assert np.array_equal(open_data(f"folder:{tmp_path}")[0].mask, MASK)

    def test_threshold_and_an_empty_mask(self, tmp_path):
        made.photo(tmp_path / "images/a.jpg")
        made.save(tmp_path / "masks/a.png", MASK * np.uint8(90) + np.uint8(10))
        assert open_data(f"folder:{tmp_path}")[0].mask.all()
        assert np.array_equal(open_data(f"folder:{tmp_path}?threshold=50")[0].mask, MASK)
        empty = open_data(f"folder:{tmp_path}?threshold=200")[0].mask
        assert empty.shape == MASK.shape
        assert not empty.any()

    def test_a_bad_mask_costs_one_item(self, tmp_path):
        folder(tmp_path)
        made.save(tmp_path / "masks/cat/ä 1.png", block((0, 0, 2, 2), size=(9, 9)))
        made.truncated(tmp_path / "masks/dog/b.c.png")
        (tmp_path / "masks/dog/日本.png").unlink()
        reader = open_data(f"folder:{tmp_path}")
        for number, message in enumerate(
            [
                "the mask is 9x9 and its image 24x16",
                "b.c.png' is no image, damaged or cut off",
                "no mask of 'dog/日本' in",
            ]
        ):
            with pytest.raises(DataError, match=message):
                reader[number]

    def test_two_images_of_one_name(self, tmp_path):
        made.photo(tmp_path / "images/a.jpg")
        made.photo(tmp_path / "images/a.png")
        with pytest.raises(DataError, match=r"'a.jpg' and 'a.png' in .* have one name"):
            open_data(f"folder:{tmp_path}")

    def test_empty(self, tmp_path):
        (tmp_path / "images").mkdir()
        with pytest.raises(DataError, match=r"has no items with threshold=0"):
            open_data(f"folder:{tmp_path}")


def saved(path, rows, **features) -> str:
    data = datasets.Dataset.from_dict({name: [row[name] for row in rows] for name in rows[0]})
    for name, feature in features.items():
        data = data.cast_column(name, feature)
    data.save_to_disk(str(path))
    return f"hf:{path}"


class TestHuggingFace:
    def test_objects_with_categories(self, tmp_path):
        reader = open_data(f"hf:{huggingface(tmp_path)}")
        assert reader.ids == ("00000000/cat", "00000000/dog", "00000001/cat", "00000001/dog")
        assert dict(reader.names) == {0: "cat", 1: "dog"}
        assert [item.target for item in reader] == [0, 1, 0, 1]
        assert reader[0].boxes.tolist() == [[10, 4, 14, 8]]
        assert reader[1].boxes.tolist() == [[2, 3, 7, 9]]
        other = open_data(f"hf:{huggingface(tmp_path / 'b')}?box_format=xyxy&split=")
        assert other[1].boxes.tolist() == [[2, 3, 5, 6]]

    @pytest.mark.parametrize("inside", [True, False], ids=["bytes", "path"])
    def test_labels_and_masks(self, tmp_path, inside):
        image, mask = made.photo(tmp_path / "a.png"), made.save(tmp_path / "m.png", block((2, 3, 8, 9)))
        cells = [{"bytes": f.read_bytes() if inside else None, "path": str(f)} for f in (image, mask)]
        rows = [{"picture": cells[0], "annotation": cells[1], "label": 1, "name": f"x{i}"} for i in range(2)]
        spec = saved(
            tmp_path / "d",
            rows,
            picture=datasets.Image(),
            annotation=datasets.Image(),
            label=datasets.ClassLabel(names=["cat", "dog"]),
        )
        with pytest.raises(DataError, match=r"no column of images .* name one of picture, annotation, label, name"):
            open_data(spec)
        with pytest.raises(DataError, match=r"no column 'pictures': .*nearest: picture"):
            open_data(f"{spec}?image=pictures")
        reader = open_data(f"{spec}?image=picture&id=name")
        assert reader.ids == ("x0/dog", "x1/dog")
        assert np.array_equal(reader[0].mask, block((2, 3, 8, 9)))
        assert open_data(f"{spec}?image=picture&mask=-")[0].mask is None

    @pytest.mark.parametrize("objects", [[2.0, 3.0, 5.0, 6.0], [[2.0, 3.0, 5.0, 6.0]]], ids=["one", "several"])
    def test_boxes_alone(self, tmp_path, objects):
        cell = {"bytes": made.photo(tmp_path / "a.png").read_bytes(), "path": None}
        spec = saved(tmp_path / "d", [{"image": cell, "bbox": objects, "label": "dog"}], image=datasets.Image())
        item = open_data(spec)[0]
        assert (item.id, item.target) == ("00000000/dog", "dog")
        assert np.array_equal(item.mask, block((2, 3, 7, 9)))

    def test_several_labels_and_none(self, tmp_path):
        cell = {"bytes": made.photo(tmp_path / "a.png").read_bytes(), "path": None}
        rows = [{"image": cell, "label": ["b", "a", "b"]}, {"image": cell, "label": []}]
        assert open_data(saved(tmp_path / "d", rows, image=datasets.Image())).ids == ("00000000/a", "00000000/b")
        assert open_data(f"hf:{tmp_path}/d?label=-").ids == ("00000000", "00000001")

    def test_a_bad_image(self, tmp_path):
        whole = made.photo(tmp_path / "a.png").read_bytes()
        cells = [{"bytes": data, "path": None} for data in (whole, b"no image", b"")]
        reader = open_data(saved(tmp_path / "d", [{"image": cell} for cell in cells], image=datasets.Image()))
        assert reader[0].image.size == (24, 16)
        for number in (1, 2):
            with pytest.raises((DataError, OSError), match=rf"0000000{number}"):
                reader[number]

    def test_splits(self, tmp_path):
        cell = {"bytes": made.photo(tmp_path / "a.png").read_bytes(), "path": None}
        parts = {name: datasets.Dataset.from_list([{"image": cell}] * n) for name, n in (("train", 3), ("test", 2))}
        datasets.DatasetDict(parts).cast_column("image", datasets.Image()).save_to_disk(str(tmp_path / "d"))
        assert len(open_data(f"hf:{tmp_path}/d")) == 2
        assert len(open_data(f"hf:{tmp_path}/d:train")) == 3
        with pytest.raises(DataError, match=r"no split 'tests': there are train, test; nearest: test"):
            open_data(f"hf:{tmp_path}/d?split=tests")

    def test_not_there(self, tmp_path):
        with pytest.raises(DataError, match=r"no such folder: .*save_to_disk"):
            open_data(f"hf:{tmp_path}/nowhere")
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match=r"datasets cannot load"):
            open_data(f"hf:{tmp_path}/empty")
