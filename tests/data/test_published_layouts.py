"""Each data set's ids, targets, boxes and masks, pixel by pixel; beside the geometry, readings that must fail."""

import numpy as np
import pytest
from PIL import Image

from captum_vit.data import Item, open_data
from captum_vit.errors import DataError
from tests.data import made
from tests.data.made import block


def boxes(item: Item) -> list[list[float]]:
    return item.boxes.tolist()


def off_by_one(item: Item) -> list[list[float]]:
    return (item.boxes + np.array([1, 1, 0, 0])).tolist()


def swapped(item: Item) -> list[list[float]]:
    return item.boxes[:, [1, 0, 3, 2]].tolist()


def widths_for_corners(item: Item) -> list[list[float]]:
    return np.concatenate([item.boxes[:, :2], item.boxes[:, 2:] - item.boxes[:, :2]], axis=1).tolist()


BOXES = {  # spec -> boxes by hand, of the first two rows
    "voc": [[[10, 4, 15, 16]], [[1, 2, 6, 9]]],
    "imagenet": [[[0, 2, 10, 6], [12, 8, 24, 16]]] * 2,
    "cub": [[[2, 3, 10, 8]], [[20, 10, 24, 14]]],
    "coco": [[[2, 2, 8, 7]], [[10, 2, 15, 8], [16, 9, 20, 13]]],
}
broken = pytest.mark.xfail(strict=True, raises=AssertionError, reason="a wrong reading, which the check must see")
READINGS = [boxes, *(pytest.param(r, marks=broken) for r in (off_by_one, swapped, widths_for_corners))]


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("kind", BOXES)
def test_boxes(tmp_path, kind, reading):
    reader = open_data(f"{kind}:{getattr(made, kind)(tmp_path)}")
    assert [reading(reader[i]) for i in (0, 1)] == BOXES[kind]


class TestVoc:
    def test_rows(self, tmp_path):
        reader = open_data(f"voc:{made.voc(tmp_path)}")
        assert reader.ids == ("2007_000001/dog", "2007_000001/person", "2007_000003/cat")
        assert [item.target for item in reader] == ["dog", "person", "cat"]
        assert reader.names[11] == "dog"
        assert boxes(reader[2]) == [[19, 9, 24, 16]]  # clipped
        assert np.array_equal(reader[0].mask, block((10, 4, 15, 16)))

    def test_difficult(self, tmp_path):
        reader = open_data(f"voc:{made.voc(tmp_path)}?difficult=1")
        assert reader.ids[2] == "2007_000002/cat"
        assert boxes(reader[1]) == [[1, 2, 6, 9], [19, 0, 24, 4]]
        assert boxes(reader[2]) == [[0, 0, 24, 16]]

    def test_masks(self, tmp_path):
        dog, person, cat = open_data(f"voc:{made.voc(tmp_path)}?masks=1")
        assert np.array_equal(dog.mask, block((10, 4, 15, 16)))
        assert np.array_equal(person.mask, block((1, 2, 6, 9)))
        assert np.array_equal(dog.valid, ~block((0, 0, 24, 2)))
        assert not cat.mask.any()  # kept, though the mask has no pixel of it
        assert cat.mask.shape == (made.HEIGHT, made.WIDTH)

    @pytest.mark.parametrize("inside", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
    def test_any_folder_of_it_will_do(self, tmp_path, inside):
        assert len(open_data(f"voc:{made.voc(tmp_path) / inside}:val")) == 3

    def test_year_and_set(self, tmp_path):
        made.voc(made.voc(tmp_path), "2007")
        assert len(open_data(f"voc:{tmp_path}?year=2007&set=train&difficult=1")) == 1
        with pytest.raises(DataError, match=r"no year '2021': there are 2007, 2012; nearest: 2012"):
            open_data(f"voc:{tmp_path}?year=2021")
        with pytest.raises(DataError, match=r"no set 'vall': there are train, val; nearest: val"):
            open_data(f"voc:{tmp_path}:vall")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (None, "no annotation .*2007_000003.xml': the image has none"),
            ("<annotation><object>", "2007_000003.xml' is damaged"),
            ("<annotation><object><name>cat</name></object></annotation>", "lacks 'bndbox': an object has a name and"),
            ("<note/>", "2007_000003.xml' lacks"),
        ],
    )
    def test_a_bad_annotation_costs_one_item(self, tmp_path, text, message):
        file = made.voc(tmp_path) / "VOCdevkit/VOC2012/Annotations/2007_000003.xml"
        file.unlink() if text is None else file.write_text(text)
        reader = open_data(f"voc:{tmp_path}")
        assert reader.ids == ("2007_000001/dog", "2007_000001/person", "2007_000003")
        assert reader[0].target == "dog"
        with pytest.raises(DataError, match=message):
            reader[2]

    def test_a_box_outside_is_no_box(self, tmp_path):
        base = made.voc(tmp_path) / "VOCdevkit/VOC2012/Annotations"
        made.xml(base / "2007_000003.xml", [("cat", 30, 1, 40, 9, 0), ("cat", 0, -3, 4, 2, 0)])
        assert boxes(open_data(f"voc:{tmp_path}")[2]) == [[0, 0, 4, 2]]
        made.xml(base / "2007_000003.xml", [("cat", 30, 1, 40, 9, 0)])
        item = open_data(f"voc:{tmp_path}")[2]
        assert item.boxes.shape == (0, 4)
        assert not item.mask.any()

    @pytest.mark.parametrize("corners", [(9, 3, 2, 9), ("nan", 3, 9, 9), (1, 3, "inf", 9)])
    def test_no_box_at_all(self, tmp_path, corners):
        base = made.voc(tmp_path) / "VOCdevkit/VOC2012/Annotations"
        made.xml(base / "2007_000003.xml", [("cat", *corners, 0)])
        with pytest.raises(DataError, match=r"a box is x1 <= x2 and y1 <= y2, got"):
            open_data(f"voc:{tmp_path}")[2]


class TestCub:
    def test_rows(self, tmp_path):
        reader = open_data(f"cub:{made.cub(tmp_path)}")
        assert reader.ids == ("001.Black_footed_Albatross/Albatross_0001_7/1", "002.Laysan_Albatross/Laysan_0001_5/2")
        assert [item.target for item in reader] == [0, 1]
        assert dict(reader.names) == dict(enumerate(made.BIRDS))
        assert np.array_equal(reader[0].mask, block((3, 4, 9, 7)))
        assert len(open_data(f"cub:{tmp_path}/CUB_200_2011:all")) == 3
        assert open_data(f"cub:{tmp_path}:train").ids == ("001.Black_footed_Albatross/Albatross_0002_8/1",)

    def test_masks_are_optional_and_soft(self, tmp_path):
        made.cub(tmp_path)
        assert np.array_equal(open_data(f"cub:{tmp_path}?threshold=101")[0].mask, block((2, 3, 10, 8)))
        item = open_data(f"cub:{tmp_path}?masks=0")[0]
        assert item.masks is None
        assert np.array_equal(item.mask, block((2, 3, 10, 8)))  # the box
        base = made.cub(tmp_path / "none", masks=False)
        assert open_data(f"cub:{base}")[0].masks is None

    def test_lists_that_do_not_fit(self, tmp_path):
        base = made.cub(tmp_path) / "CUB_200_2011"
        (base / "bounding_boxes.txt").write_text("1 2.0 3.0 8.0 5.0\n")
        reader = open_data(f"cub:{tmp_path}")
        assert reader[0].target == 0
        with pytest.raises(DataError, match=r"bounding_boxes.txt has no line for '002"):
            reader[1]
        (base / "image_class_labels.txt").write_text("1 1\n2 1\n")
        with pytest.raises(DataError, match=r"image 3 of .* has no class in image_class_labels.txt"):
            open_data(f"cub:{tmp_path}")


class TestCoco:
    def test_rows(self, tmp_path, capsys):
        reader = open_data(f"coco:{made.coco(tmp_path)}")
        assert capsys.readouterr().out == ""
        assert reader.ids == ("000000000007/person", "000000000007/dog", "000000000009/cat")  # no row for a crowd alone
        assert [item.target for item in reader] == ["person", "dog", "cat"]
        assert dict(reader.names) == {1: "person", 17: "cat", 18: "dog"}

    def test_masks(self, tmp_path):
        person, dog, cat = open_data(f"coco:{made.coco(tmp_path)}")
        assert np.array_equal(person.mask, block((2, 2, 8, 7)))
        assert np.array_equal(person.valid, ~block((0, 0, 4, 16)) | block((2, 2, 8, 7)))
        assert np.array_equal(dog.mask, block((10, 2, 15, 8), (16, 9, 20, 13)))
        assert dog.valid.all()
        assert boxes(cat) == [[20.5, 10.5, 24, 12.5]]
        assert np.array_equal(Item("", cat.image, "cat", boxes=cat.boxes).mask, block((20, 10, 24, 12)))  # by centres

    def test_not_its_json(self, tmp_path):
        file = made.coco(tmp_path) / "annotations/instances_val2017.json"
        for text in ('{"images": [{"id"', "[]", '{"images": [{}]}'):
            file.write_text(text)
            with pytest.raises(DataError, match=r"is not COCO's JSON of instances, or damaged"):
                open_data(f"coco:{tmp_path}")


class TestPets:
    @pytest.mark.parametrize("inside", ["", "oxford-iiit-pet"])
    def test_rows(self, tmp_path, inside):
        reader = open_data(f"pets:{made.pets(tmp_path) / inside}")
        assert reader.ids == ("Abyssinian_201/0", "Bengal_7/1")
        assert [item.target for item in reader] == [0, 1]
        assert dict(reader.names) == {0: "Abyssinian", 1: "Bengal"}
        item = reader[0]
        assert np.array_equal(item.mask, block((5, 4, 14, 9)))
        assert np.array_equal(item.valid, ~block((4, 3, 15, 10)) | item.mask)
        assert len(open_data(f"pets:{tmp_path}:trainval")) == 1


def test_the_scan_reads_where_pixels_come_from(tmp_path):
    image = Image.open(made.photo(tmp_path / "a.png"))
    assert made.scan(image)[5, 9].tolist() == [9, 5]
